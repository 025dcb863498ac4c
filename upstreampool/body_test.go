package upstreampool

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
		{"exactly what can be kept", maxKept, maxKept, true},
		{"one more", maxKept + 1, maxKept + 1, false},
		{"large, but little of it read", 10 * maxKept, 1000, true},
		{"large and read", 10 * maxKept, 2 * maxKept, false},
	} {
		for _, known := range []bool{true, false} {
			t.Run(tc.name, func(t *testing.T) {
				content := bytes.Repeat([]byte("0123456789"), tc.length/10+1)[:tc.length]
				src := &countingBody{Reader: bytes.NewReader(content)}
				length := int64(-1)
				if known {
					length = int64(tc.length)
				}
				b := newBody(src, length)
				first := b.active
				got, err := io.ReadAll(io.LimitReader(first, int64(tc.read)))
				if err != nil || !bytes.Equal(got, content[:tc.read]) {
					t.Fatalf("first attempt read %d bytes, %v", len(got), err)
				}
				if b.consumed() != (tc.read > 0) {
					t.Errorf("consumed = %v after %d bytes", b.consumed(), tc.read)
				}
				first.Close()
				if src.closes != 0 {
					t.Fatal("the source was closed by the first attempt")
				}
				if b.rewindable() != tc.again {
					t.Fatalf("rewindable = %v, want %v", b.rewindable(), tc.again)
				}
				second, ok := b.rewind()
				if ok != tc.again {
					t.Fatalf("rewind = %v, want %v", ok, tc.again)
				}
				if !ok {
					b.settle(true)
				} else {
					if n, err := first.Read(make([]byte, 1)); n != 0 || err != errBodyGone {
						t.Errorf("the first attempt still reads: %d, %v", n, err)
					}
					got, err = io.ReadAll(iotest.HalfReader(second))
					if err != nil || !bytes.Equal(got, content) {
						t.Errorf("second attempt read %d bytes, %v; want all %d", len(got), err, len(content))
					}
					b.settle(false)
					if src.closes != 0 {
						t.Error("the source was closed under the second attempt")
					}
					first.Close()
					second.Close()
				}
				b.settle(true)
				if src.closes != 1 {
					t.Errorf("the source was closed %d times", src.closes)
				}
			})
		}
	}
}

func TestBodyReadError(t *testing.T) {
	broken := errors.New("client went away")
	b := newBody(io.NopCloser(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken))), 10)
	if _, err := io.ReadAll(b.active); err != broken {
		t.Fatalf("err = %v", err)
	}
	if !b.failed() || b.rewindable() {
		t.Errorf("failed = %v, rewindable = %v after a read error", b.failed(), b.rewindable())
	}
}

func TestBodyImmediateEOFIsNoBody(t *testing.T) {
	b := newBody(io.NopCloser(strings.NewReader("")), -1)
	if _, err := io.ReadAll(b.active); err != nil {
		t.Fatal(err)
	}
	if b.consumed() || !b.rewindable() {
		t.Errorf("consumed = %v, rewindable = %v for an empty body", b.consumed(), b.rewindable())
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
		close func(b *body, v *view)
	}{
		{"when the exchange is over", func(b *body, v *view) { b.settle(true) }},
		{"when the last attempt closes its view", func(b *body, v *view) { b.settle(false); _ = v.Close() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := &exclusiveBody{entered: make(chan struct{}), release: make(chan struct{}), closed: make(chan int, 2)}
			b := newBody(src, -1)
			v := b.active
			done := make(chan error)
			go func() {
				_, err := v.Read(make([]byte, 1))
				done <- err
			}()
			<-src.entered
			if b.rewindable() {
				t.Error("rewindable during a Read")
			}
			if _, ok := b.rewind(); ok {
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
