package replay

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// apartBody returns a body of unknown length that is read apart, whose client has sent
// "hello", which was read, and waits inside another Read.
func apartBody(t *testing.T) (b *Body, client *io.PipeWriter, reading chan error) {
	t.Helper()
	src, client := io.Pipe()
	t.Cleanup(func() { _ = client.Close() })
	b, reading = NewBody(src, -1), make(chan error, 1)
	b.ReadApart()
	go func() { _, _ = io.WriteString(client, "hello") }()
	if _, err := io.ReadFull(b.First(), make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := b.First().Read(make([]byte, 1))
		reading <- err
	}()
	poll.Until(t, "the source is read", b.BeingRead)
	return b, client, reading
}

// rest has the client send the rest and checks what arrives.
func rest(t *testing.T, client *io.PipeWriter, r io.Reader) {
	t.Helper()
	go func() {
		_, _ = io.WriteString(client, " world")
		_ = client.Close()
	}()
	if got, err := io.ReadAll(r); err != nil || string(got) != "hello world" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A Read that waits for the client ends when its view is closed. What the client sends
// then is for the next attempt, which need not wait for it.
func TestClosingAViewEndsItsRead(t *testing.T) {
	b, client, reading := apartBody(t)
	_ = b.First().Close()
	if err := <-reading; err != errAttemptOver {
		t.Fatalf("error = %v", err)
	}
	if !b.Rewindable() {
		t.Fatal("cannot be read again")
	}
	second, ok := b.Rewind()
	if !ok {
		t.Fatal("no second attempt")
	}
	rest(t, client, second)
	if b.BeingRead() {
		t.Error("still read after its end")
	}
}

// So it is for another round trip, and its second attempt.
func TestBodyOfAnotherRoundTripWhileItIsRead(t *testing.T) {
	for _, attempts := range []int{1, 2} {
		b, client, reading := apartBody(t)
		_ = b.First().Close()
		<-reading
		again, ok := b.Again()
		if !ok || !again.Consumed() || !again.BeingRead() {
			t.Fatalf("passed on: %v, consumed: %v, being read: %v", ok, again.Consumed(), again.BeingRead())
		}
		b.Abandon()
		again.ReadApart()
		var r io.Reader = again.First()
		if attempts == 2 {
			if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			if r, ok = again.Rewind(); !ok {
				t.Fatal("no second attempt")
			}
		}
		rest(t, client, r)
	}
}

// A source that is closed before its Read began is not read any more: somebody else may.
func TestNoReadAfterTheLastAttempt(t *testing.T) {
	src := &countingBody{Reader: bytes.NewReader([]byte("a"))}
	b := NewBody(src, -1)
	b.Abandon()
	if n, err := b.readSource(make([]byte, 1)); n != 0 || !errors.Is(err, errAttemptOver) || src.closes != 1 {
		t.Errorf("read %d bytes, %v; closed %d times", n, err, src.closes)
	}
}

// What is read apart takes as much memory as comes at a time, and none at the end.
func TestReadApartIsFreed(t *testing.T) {
	src, client := io.Pipe()
	b := NewBody(src, -1)
	b.ReadApart()
	b.Finish()
	send := func(size, times int) {
		t.Helper()
		go func() {
			for range times {
				_, _ = client.Write(make([]byte, size))
			}
		}()
		if _, err := io.ReadFull(b.First(), make([]byte, size*times)); err != nil {
			t.Fatal(err)
		}
	}
	held := func() int { return cap(b.kept) + cap(b.scratch) }
	send(100, 100)
	if n := held(); n > leastRoom {
		t.Errorf("%d bytes are held for messages of 100", n)
	}
	send(64<<10, 10)
	if n := held(); n > 2*mostRoom {
		t.Errorf("%d bytes are held for messages of 64 KiB", n)
	}
	_ = client.Close()
	if _, err := io.ReadAll(b.First()); err != nil || held() > 0 {
		t.Errorf("%d bytes are held at the end, %v", held(), err)
	}
}
