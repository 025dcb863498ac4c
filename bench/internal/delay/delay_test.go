package delay_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/delay"
)

const oneWay = 30 * time.Millisecond

// pair connects two ends through a proxy.
func pair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	p, err := delay.Start(2, ln.Addr().String(), oneWay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	c, err := net.Dial("tcp", p.Addrs()[1])
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if p.Accepted() != 1 {
		t.Errorf("%d connections, want 1", p.Accepted())
	}
	for _, end := range []net.Conn{c, s} {
		t.Cleanup(func() { end.Close() })
		if err := end.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// TestDelay: what one end does reaches the other no earlier than the delay, in
// order, whichever end it is.
func TestDelay(t *testing.T) {
	large := make([]byte, 1<<20)
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	for _, tc := range []struct {
		name string
		do   func(*net.TCPConn) error
		data []byte // that arrives
		end  error  // that follows; nil: none
	}{
		{"a byte", func(c *net.TCPConn) error { _, err := c.Write([]byte("a")); return err }, []byte("a"), nil},
		{"data, then FIN", func(c *net.TCPConn) error {
			if _, err := c.Write(large); err != nil {
				return err
			}
			return c.CloseWrite()
		}, large, io.EOF},
		{"FIN", (*net.TCPConn).Close, nil, io.EOF},
		{"RST", func(c *net.TCPConn) error {
			if err := c.SetLinger(0); err != nil {
				return err
			}
			return c.Close()
		}, nil, syscall.ECONNRESET},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, direction := range []string{"up", "down"} {
				from, to := pair(t)
				if direction == "down" {
					from, to = to, from
				}
				start := time.Now()
				done := make(chan error, 1)
				go func() { done <- tc.do(from) }()
				data := make([]byte, len(tc.data))
				if _, err := io.ReadFull(to, data); err != nil || !bytes.Equal(data, tc.data) {
					t.Errorf("%s: %d bytes differ or end early: %v", direction, len(data), err)
				}
				if tc.end != nil {
					if _, err := to.Read(make([]byte, 1)); !errors.Is(err, tc.end) {
						t.Errorf("%s: %v, want %v", direction, err, tc.end)
					}
				}
				if took := time.Since(start); took < oneWay {
					t.Errorf("%s: arrived after %v, want at least %v", direction, took, oneWay)
				}
				if err := <-done; err != nil {
					t.Errorf("%s: %v", direction, err)
				}
			}
		})
	}
}

// TestHalfClosed: behind a FIN, the other direction goes on.
func TestHalfClosed(t *testing.T) {
	client, server := pair(t)
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("%v, want EOF", err)
	}
	if _, err := server.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(client); err != nil || string(data) != "answer" {
		t.Errorf("%q, %v, want the answer", data, err)
	}
}

// TestWriteToAClosedEnd: who writes to an end that is closed gets a RST.
func TestWriteToAClosedEnd(t *testing.T) {
	client, server := pair(t)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("%v, want EOF", err)
	}
	var err error
	for err == nil {
		_, err = client.Write([]byte("late"))
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v, want a reset", err)
	}
}
