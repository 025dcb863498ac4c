package fake

import (
	"bufio"
	"fmt"
	"net"
	"strings"
)

// ServeNTLM authenticates connections, as servers with NTLM do (MS-NTHT): a request
// with `Authorization: NTLM <name>` is challenged, and one with `NTLM <name>:proof` on
// the same connection makes the connection that user's; `Negotiate <name>` does at once.
// From then on it answers every request there with the user's name, with credentials or
// without.
func (l *Listener) ServeNTLM() {
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		user, challenged := "", ""
		for req := ReadRequest(r); req != nil; req = ReadRequest(r) {
			if name, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Negotiate "); ok {
				user, challenged = name, ""
			}
			token, has := strings.CutPrefix(req.Header.Get("Authorization"), "NTLM ")
			name, proves := strings.CutSuffix(token, ":proof")
			switch {
			case has && !proves:
				user, challenged = "", name
				refuse(c, "NTLM challenge")
				continue
			case has && challenged == name:
				user, challenged = name, ""
			case has:
				user = ""
			}
			if user == "" {
				refuse(c, "NTLM")
				continue
			}
			Respond(c, user)
		}
	})
}

// refuse asks for credentials.
func refuse(c net.Conn, challenge string) {
	fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: %s\r\nContent-Length: 0\r\n\r\n", challenge)
}
