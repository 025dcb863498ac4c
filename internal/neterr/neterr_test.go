package neterr

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Each meaning has the number that it has on this system, however deep it is wrapped, and
// no other error has it.
func TestMeanings(t *testing.T) {
	meanings := map[string]func(error) bool{"reset": IsReset, "broken": IsBroken, "given up": IsGivenUp, "taken": IsTaken}
	tests := []struct {
		unix    syscall.Errno // what Unix's name stands for
		windows syscall.Errno
		want    string
	}{
		{syscall.ECONNRESET, 10054, "reset"},
		{syscall.EPIPE, 10053, "broken"},
		{syscall.ETIMEDOUT, 10060, "given up"},
		{syscall.EHOSTUNREACH, 10065, "given up"},
		{syscall.ENETUNREACH, 10051, "given up"},
		{syscall.EADDRINUSE, 10048, "taken"},
		{syscall.ECONNREFUSED, 10061, ""},
	}
	for _, test := range tests {
		number := test.unix
		if runtime.GOOS == "windows" {
			number = test.windows
		}
		for _, err := range []error{
			number,
			&net.OpError{Op: "read", Err: os.NewSyscallError("recv", number)},
			fmt.Errorf("reading the response: %w", errors.Join(io.ErrUnexpectedEOF, &net.OpError{Op: "read", Err: number})),
		} {
			for name, is := range meanings {
				if got, want := is(err), name == test.want; got != want {
					t.Errorf("%q: %s = %v", err, name, got)
				}
			}
		}
	}
	for _, err := range []error{nil, io.EOF, os.ErrDeadlineExceeded, net.ErrClosed} {
		for name, is := range meanings {
			if is(err) {
				t.Errorf("%v: %s", err, name)
			}
		}
	}
}

// What this system's own sockets say of a reset.
func TestResetOfSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	peer.(*net.TCPConn).SetLinger(0)
	peer.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !IsReset(err) {
		t.Errorf("reading: %v, which is no reset", err)
	}
	if _, err := c.Write([]byte("x")); !IsBroken(err) && !IsReset(err) {
		t.Errorf("writing: %v", err)
	}
	if _, err := net.Listen("tcp", ln.Addr().String()); !IsTaken(err) {
		t.Errorf("listening twice: %v", err)
	}
}

// Only this package compares errors with numbers: elsewhere it would be forgotten that
// Windows has its own.
func TestNumbersStandHereOnly(t *testing.T) {
	number := regexp.MustCompile(`errors\.Is\(.*\b(syscall|unix|windows)\.(E|WSA)`)
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if found := number.Find(source); found != nil {
			t.Errorf("%s: %s", path, found)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
