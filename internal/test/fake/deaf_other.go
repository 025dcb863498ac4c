//go:build !linux

package fake

import (
	"errors"
	"net"
)

// Deafen is for Linux.
func Deafen(net.Conn) error { return errors.ErrUnsupported }
