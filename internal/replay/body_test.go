package replay

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// countingBody counts how often it is closed.
type countingBody struct {
	io.Reader
	closes int
}

func (b *countingBody) Close() error { b.closes++; return nil }

func TestBodyReplay(t *testing.T) {
	for _, tc := range []struct {
		name   string
		length int
		read   int // by the first attempt
		again  bool
	}{
		{"unread", 100, 0, true},
		{"partly read", 100, 40, true},
		{"read whole", 100, 100, true},
		{"exactly what can be kept", MaxKept, MaxKept, true},
		{"one more", MaxKept + 1, MaxKept + 1, false},
		{"large, but little of it read", 10 * MaxKept, 1000, true},
		{"large and read", 10 * MaxKept, 2 * MaxKept, false},
	} {
		for _, known := range []bool{true, false} {
			t.Run(tc.name, func(t *testing.T) {
				content := bytes.Repeat([]byte("0123456789"), tc.length/10+1)[:tc.length]
				src := &countingBody{Reader: bytes.NewReader(content)}
				length := int64(-1)
				if known {
					length = int64(tc.length)
				}
				b := NewBody(src, length)
				first := b.First()
				got, err := io.ReadAll(io.LimitReader(first, int64(tc.read)))
				if err != nil || !bytes.Equal(got, content[:tc.read]) {
					t.Fatalf("first attempt read %d bytes, %v", len(got), err)
				}
				if b.Consumed() != (tc.read > 0) {
					t.Errorf("consumed = %v after %d bytes", b.Consumed(), tc.read)
				}
				first.Close()
				if src.closes != 0 {
					t.Fatal("the source was closed by the first attempt")
				}
				if b.Rewindable() != tc.again {
					t.Fatalf("rewindable = %v, want %v", b.Rewindable(), tc.again)
				}
				second, ok := b.Rewind()
				if ok != tc.again {
					t.Fatalf("rewind = %v, want %v", ok, tc.again)
				}
				if !ok {
					b.Abandon()
				} else {
					if n, err := first.Read(make([]byte, 1)); n != 0 || err != errAttemptOver {
						t.Errorf("the first attempt still reads: %d, %v", n, err)
					}
					got, err = io.ReadAll(iotest.HalfReader(second))
					if err != nil || !bytes.Equal(got, content) {
						t.Errorf("second attempt read %d bytes, %v; want all %d", len(got), err, len(content))
					}
					b.Finish()
					if src.closes != 0 {
						t.Error("the source was closed under the second attempt")
					}
					first.Close()
					second.Close()
				}
				b.Abandon()
				if src.closes != 1 {
					t.Errorf("the source was closed %d times", src.closes)
				}
			})
		}
	}
}

func TestBodyReadError(t *testing.T) {
	broken := errors.New("client went away")
	b := NewBody(io.NopCloser(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken))), 10)
	if _, err := io.ReadAll(b.First()); err != broken {
		t.Fatalf("err = %v", err)
	}
	if !b.Failed() || b.Rewindable() {
		t.Errorf("failed = %v, rewindable = %v after a read error", b.Failed(), b.Rewindable())
	}
}

func TestBodyImmediateEOFIsNoBody(t *testing.T) {
	b := NewBody(io.NopCloser(strings.NewReader("")), -1)
	if _, err := io.ReadAll(b.First()); err != nil {
		t.Fatal(err)
	}
	if b.Consumed() || !b.Rewindable() {
		t.Errorf("consumed = %v, rewindable = %v for an empty body", b.Consumed(), b.Rewindable())
	}
}

// exclusiveBody is what reverse_proxy hands to a transport: Read and Close use a
// field without a lock, which the race detector sees.
type exclusiveBody struct {
	entered, release chan struct{}
	reads            int
	closed           chan int // how many reads there were
}

func (b *exclusiveBody) Read([]byte) (int, error) {
	b.entered <- struct{}{}
	<-b.release
	b.reads++
	return 0, io.EOF
}

func (b *exclusiveBody) Close() error { b.closed <- b.reads; return nil }

// While the first attempt is inside Read, nothing can be replayed. Closing does
// not wait for it, and the source is closed afterwards.
func TestBodyStalled(t *testing.T) {
	for _, tc := range []struct {
		name  string
		close func(b *Body, v *View)
	}{
		{"when the exchange is over", func(b *Body, v *View) { b.Abandon() }},
		{"when the last attempt closes its view", func(b *Body, v *View) { b.Finish(); _ = v.Close() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := &exclusiveBody{entered: make(chan struct{}), release: make(chan struct{}), closed: make(chan int, 2)}
			b := NewBody(src, -1)
			v := b.First()
			done := make(chan error)
			go func() {
				_, err := v.Read(make([]byte, 1))
				done <- err
			}()
			<-src.entered
			if b.Rewindable() {
				t.Error("rewindable during a Read")
			}
			if _, ok := b.Rewind(); ok {
				t.Error("rewound during a Read")
			}
			tc.close(b, v)
			select {
			case <-src.closed:
				t.Fatal("closed during a Read")
			default:
			}
			close(src.release)
			if err := <-done; err != io.EOF {
				t.Errorf("Read: %v", err)
			}
			if reads := <-src.closed; reads != 1 {
				t.Errorf("closed after %d reads", reads)
			}
		})
	}
}
