package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
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
		for i := range 4 {
			known, apart := i&1 > 0, i&2 > 0
			t.Run(fmt.Sprintf("%s, length known: %v, read apart: %v", tc.name, known, apart), func(t *testing.T) {
				content := bytes.Repeat([]byte("0123456789"), tc.length/10+1)[:tc.length]
				src := &countingBody{Reader: bytes.NewReader(content)}
				length := int64(-1)
				if known {
					length = int64(tc.length)
				}
				b := NewBody(src, length)
				first := b.First()
				if apart {
					b.ReadApart()
				}
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
					if apart {
						b.ReadApart()
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

// A body that is not as long as it is said to be fails at its end, for each attempt.
func TestBodyOfWrongLength(t *testing.T) {
	for _, tc := range []struct {
		length int64
		fails  bool
	}{{-1, false}, {0, false}, {3, false}, {2, true}, {4, true}, {MaxKept + 1, true}} {
		b := NewBody(io.NopCloser(strings.NewReader("abc")), tc.length)
		got, err := io.ReadAll(b.First())
		if string(got) != "abc" || (err != nil) != tc.fails || b.Failed() != tc.fails || b.Rewindable() == tc.fails {
			t.Errorf("length %d: read %q, %v; failed %v, rewindable %v", tc.length, got, err, b.Failed(), b.Rewindable())
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

// What is kept is freed once there is no further attempt: a response may stream for
// hours.
func TestBodyIsFreedAfterTheLastAttempt(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before int  // bytes read before that is said
		replay bool // by a second attempt, of what the first one had read whole
	}{
		{"read whole", 60 << 10, false},
		{"read later", 0, false},
		{"half read", 30 << 10, false},
		{"by a second attempt that has still to read it", 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			content := bytes.Repeat([]byte("a"), 60<<10)
			b := NewBody(io.NopCloser(bytes.NewReader(content)), int64(len(content)))
			var r io.Reader = b.First()
			if tc.replay {
				if _, err := io.ReadAll(r); err != nil {
					t.Fatal(err)
				}
				r, _ = b.Rewind()
			}
			head := make([]byte, tc.before)
			if _, err := io.ReadFull(r, head); err != nil {
				t.Fatal(err)
			}
			b.Finish()
			rest, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(append(head, rest...), content) {
				t.Errorf("read %d bytes, %v", len(head)+len(rest), err)
			}
			if cap(b.kept) > 0 {
				t.Errorf("%d bytes are kept", cap(b.kept))
			}
			if b.Rewindable() || !b.Consumed() {
				t.Error("a body that is freed can be read again")
			}
		})
	}
}

// Checklist: P18.
func TestGiveLength(t *testing.T) {
	for _, tc := range []struct {
		length int
		err    error
	}{{0, nil}, {1, nil}, {MaxKept, nil}, {MaxKept + 1, ErrTooLong}} {
		content := bytes.Repeat([]byte("a"), tc.length)
		src := &countingBody{Reader: bytes.NewReader(content)}
		b := NewBody(src, -1)
		out := &http.Request{Body: b.First(), ContentLength: -1, TransferEncoding: []string{"chunked"}, Trailer: http.Header{"X": nil}}
		length, err := b.GiveLength(out)
		if err != tc.err {
			t.Fatalf("%d bytes: %v, want %v", tc.length, err, tc.err)
		}
		if err != nil {
			continue
		}
		if length != int64(tc.length) || out.ContentLength != length || out.TransferEncoding != nil || out.Trailer != nil {
			t.Errorf("%d bytes: length %d, request %+v", tc.length, length, out)
		}
		if !b.Rewindable() || src.closes > 0 {
			t.Errorf("%d bytes: cannot be read again", tc.length)
		}
		if got, err := io.ReadAll(out.Body); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: read %d, %v", tc.length, len(got), err)
		}
	}
	broken := errors.New("client went away")
	if _, err := NewBody(io.NopCloser(iotest.ErrReader(broken)), -1).GiveLength(&http.Request{}); !errors.Is(err, broken) {
		t.Errorf("error = %v, want the client's", err)
	}
}

// A round trip that sent nothing leaves the body to the next one.
func TestBodyOfAnotherRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		name         string
		length, read int
		again        bool
	}{
		{"unread", 100, 0, true},
		{"partly read", 100, 40, true},
		{"read whole", 100, 100, true},
		{"too much of it read", 2 * MaxKept, 2 * MaxKept, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			content := bytes.Repeat([]byte("a"), tc.length)
			src := &countingBody{Reader: bytes.NewReader(content)}
			b := NewBody(src, -1)
			if _, err := io.ReadFull(b.First(), make([]byte, tc.read)); err != nil {
				t.Fatal(err)
			}
			first := b.First()
			again, ok := b.Again()
			if ok != tc.again {
				t.Fatalf("can be read again: %v, want %v", ok, tc.again)
			}
			if !ok {
				return
			}
			_ = first.Close()
			b.Abandon()
			if _, err := first.Read(make([]byte, 1)); err != errAttemptOver || src.closes > 0 || !again.Reads(src) {
				t.Errorf("the first round trip still has the body: %v, closed %d times", err, src.closes)
			}
			if again.Consumed() != (tc.read > 0) || !again.Rewindable() {
				t.Error("the second round trip does not know what was read")
			}
			if got, err := io.ReadAll(again.First()); err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes, %v; want %d", len(got), err, len(content))
			}
			if v, ok := again.Rewind(); !ok {
				t.Error("no replay in the second round trip")
			} else if got, err := io.ReadAll(v); err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes for a replay, %v", len(got), err)
			}
			again.Abandon()
			if src.closes != 1 {
				t.Errorf("closed %d times", src.closes)
			}
		})
	}
}
