//go:build !windows

package neterr

import "syscall"

var (
	reset   = []error{syscall.ECONNRESET}
	broken  = []error{syscall.EPIPE}
	givenUp = []error{syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH}
	taken   = []error{syscall.EADDRINUSE}
)
