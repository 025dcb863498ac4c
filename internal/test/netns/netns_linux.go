package netns

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// A Network is a network namespace with nothing but a loopback interface.
type Network struct {
	t  *testing.T
	do chan func()
}

// New makes a network of its own, which takes root.
func New(t *testing.T) *Network {
	t.Helper()
	needs.Root(t, "making a network namespace")
	n := &Network{t, make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		ready <- err
		if err != nil {
			return
		}
		for f := range n.do {
			f()
		}
	}()
	if err := <-ready; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("making a network namespace: %v", err)
	}
	t.Cleanup(func() { close(n.do) })
	n.Pass()
	return n
}

// Run calls f on the thread that is in the network.
func (n *Network) Run(f func()) {
	done := make(chan struct{})
	n.do <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Drop drops all packets from now on. No end notices that.
func (n *Network) Drop() { n.t.Helper(); n.loopback(false) }

// Pass lets packets pass again.
func (n *Network) Pass() { n.t.Helper(); n.loopback(true) }

// loopback lets packets pass, or drops them all.
func (n *Network) loopback(up bool) {
	n.t.Helper()
	var err error
	n.Run(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		var ifr *unix.Ifreq
		if ifr, err = unix.NewIfreq("lo"); err != nil {
			return
		}
		if up {
			ifr.SetUint16(unix.IFF_UP)
		}
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	})
	if err != nil {
		n.t.Fatal(err)
	}
}
