package fake

import (
	"net"

	"golang.org/x/sys/unix"
)

// Deafen makes the kernel drop whatever arrives on a connection of a Listener from
// now on: no acknowledgement, no reset. So a path looks that a firewall has forgotten.
func Deafen(c net.Conn) error {
	if in, ok := c.(*conn); ok {
		c = in.Conn
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	})
	if err != nil {
		return err
	}
	return set
}
