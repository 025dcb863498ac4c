package network

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

// Datagrams of several clients reach the target and come back, late by both ways.
func TestUDPRelay(t *testing.T) {
	target, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		for buf := make([]byte, 100); ; {
			n, from, err := target.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = target.WriteTo(buf[:n], from)
		}
	}()
	free, err := port.Free() // and no client gets it meanwhile
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", free)
	const late = 20 * time.Millisecond
	relay, err := StartUDP(addr, target.LocalAddr().String(), late)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	for _, text := range []string{"one", "two"} {
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		begin := time.Now()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(begin.Add(10 * time.Second))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != text {
			t.Errorf("%q came back for %q: %v", buf[:n], text, err)
		}
		if took := time.Since(begin); took < 2*late {
			t.Errorf("%q came back after %v", text, took)
		}
	}
}
