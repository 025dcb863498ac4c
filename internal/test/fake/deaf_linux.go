package fake

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Deafen makes the kernel drop whatever arrives on a connection of a Listener, or at
// a Listener, from now on: no acknowledgement, no reset. So a path looks that a
// firewall has forgotten, or a host that is gone.
func Deafen(c any) error {
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	return control(c, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	})
}

// Hear undoes what Deafen does.
func Hear(c any) error {
	return control(c, func(fd int) error {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		if err == unix.ENOENT { // it is not deaf
			err = nil
		}
		return err
	})
}

// Vanish ends a connection of a Listener without a word, as a host does that loses its
// power. Whatever is sent to it afterwards is answered with a reset. It takes root.
func Vanish(c any) error {
	err := control(c, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
	})
	if in, ok := c.(*conn); ok && err == nil {
		err = in.Close()
	}
	return err
}

// control calls f with the socket of c.
func control(c any, f func(fd int) error) error {
	switch in := c.(type) {
	case *conn:
		c = in.Conn
	case *Listener:
		c = in.Listener
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}
