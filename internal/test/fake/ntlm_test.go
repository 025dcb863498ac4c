package fake

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"testing"
)

// A connection belongs to who has logged in on it, whatever later requests show.
func TestServeNTLM(t *testing.T) {
	l, err := Listen(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	l.ServeNTLM()
	c := dial(t, l)
	r := bufio.NewReader(c)
	for i, test := range []struct{ credentials, want string }{
		{"", "401 NTLM"},
		{"NTLM bob:proof", "401 NTLM"}, // of no challenge
		{"NTLM alice", "401 NTLM challenge"},
		{"NTLM alice:proof", "200 alice"},
		{"", "200 alice"},
		{"NTLM bob", "401 NTLM challenge"},
		{"", "401 NTLM"},
		{"Negotiate carol", "200 carol"},
		{"", "200 carol"},
	} {
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: h.test\r\nAuthorization: %s\r\n\r\n", test.credentials)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if got := fmt.Sprintf("%d %s%s", resp.StatusCode, resp.Header.Get("WWW-Authenticate"), body); got != test.want {
			t.Errorf("request %d, %q: %s, want %s", i+1, test.credentials, got, test.want)
		}
	}
}
