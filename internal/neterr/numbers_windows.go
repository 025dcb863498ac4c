package neterr

import "golang.org/x/sys/windows"

// Microsoft's "Windows Sockets Error Codes" says what they mean. WSAENETRESET: the probes
// of TCP's keep-alive were not answered.
var (
	reset   = []error{windows.WSAECONNRESET}
	broken  = []error{windows.WSAECONNABORTED, windows.WSAESHUTDOWN}
	givenUp = []error{windows.WSAETIMEDOUT, windows.WSAENETRESET, windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH}
	taken   = []error{windows.WSAEADDRINUSE}
)
