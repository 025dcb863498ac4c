package upstreampool

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/standstill"
)

// Checklist: P30.
func TestSchemesOfConnections(t *testing.T) {
	for credentials, want := range map[string]bool{
		"NTLM TlRMTVNTUAAB": true, "negotiate YII": true, "nTlM": true, " Negotiate x": true, "NTLM\tTlRM": true,
		"Basic eDp5, NTLM TlRM": true, `Digest username="\", NTLM", Negotiate x`: true,
		"Basic TlRMTQ==": false, "Bearer NTLM": false, `Digest username="NTLM"`: false, "NTLMv2 x": false, "": false,
		`Digest username="a, NTLM x"`: false, "Digest a=b, NTLM=c": false, "Bearer Negotiate": false,
	} {
		for _, name := range []string{"Authorization", "Proxy-Authorization"} {
			if got := authenticates(http.Header{name: {"Basic eDp5", credentials}}); got != want {
				t.Errorf("%s: %s: %v", name, credentials, got)
			}
		}
	}
	for challenge, want := range map[string]bool{
		"NTLM": true, "Negotiate, NTLM": true, `Basic realm="a", negotiate`: true, "Digest a=b,NTLM TlRM": true,
		`Basic realm="a, NTLM"`: false, `Basic realm="\", Negotiate"`: false, "Basic": false, "Bearer": false, "": false,
	} {
		if got := bindsConnection(nil, []string{"Basic", challenge}); got != want {
			t.Errorf("%s: %v", challenge, got)
		}
	}
}

// An authenticating server takes whoever authenticated last on a connection for the
// user of all that follows there, as IIS does.
type authenticating struct {
	*rawServer
	open     atomic.Int64 // connections
	failing  bool         // it closes connections without an answer, or answers 421, now and then
	mistaken atomic.Int64 // requests of one user on a connection of another
}

func newAuthenticating(t testing.TB, failing bool) *authenticating {
	a := &authenticating{failing: failing}
	a.rawServer = serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		a.open.Add(1)
		defer a.open.Add(-1)
		user, asked := "", ""
		for n := 1; ; n++ {
			req := fake.ReadRequest(r)
			if req == nil || a.failing && n%23 == 0 {
				return
			}
			if a.failing && n%17 == 0 {
				fmt.Fprint(c, "HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
			name, step, _ := strings.Cut(token, ":")
			switch {
			case strings.EqualFold(scheme, "Negotiate"):
				user = name
			case strings.EqualFold(scheme, "NTLM") && step == "1":
				asked, user = name, ""
				fmt.Fprint(c, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM challenge\r\nContent-Length: 0\r\n\r\n")
				continue
			case strings.EqualFold(scheme, "NTLM") && asked == name:
				user = name
			}
			if user == "" {
				fmt.Fprint(c, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate, NTLM\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			if from := req.Header.Get("X-User"); from != "" && from != user {
				a.mistaken.Add(1)
			}
			fake.Respond(c, user)
		}
	})
	return a
}

// ask sends a GET of a user, who may send credentials.
func ask(t testing.TB, c *http.Client, url, user, credentials string) (int, string) {
	t.Helper()
	req, _ := http.NewRequest("GET", url, nil)
	req.Header.Set("X-User", user)
	if credentials != "" {
		req.Header.Set("Authorization", credentials)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Log(err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// login asks for the page of a user as a browser does that knows NTLM.
func login(t testing.TB, c *http.Client, url, user string) (status int, body string) {
	for range 5 { // the connection may end between two steps
		for _, credentials := range []string{"", "NTLM " + user + ":1", "NTLM " + user + ":3"} {
			if status, body = ask(t, c, url, user, credentials); status != 401 {
				break
			}
		}
		if status != 401 && status != 0 {
			break
		}
	}
	return status, body
}

// Two users come over eight client connections, each its own. Connections to the
// upstream fail, requests are replayed, and Caddy is reloaded. The upstream never
// takes one for the other.
//
// Checklist: P30.
func TestNobodyIsTakenForAnother(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("h2=", h2), func(t *testing.T) {
			s := newAuthenticating(t, true)
			stopCaddy(t)
			port := freePort(t)
			url := runCaddy(t, port, `,"max_requests":100`, "", s.addr())
			var wrong, right, failed atomic.Int64
			var wg sync.WaitGroup
			for i := range 8 {
				user := []string{"alice", "bob"}[i%2]
				c := client(t, h2)
				wg.Go(func() {
					for range 250 {
						switch status, body := login(t, c, url, user); {
						case status == 200 && body == user:
							right.Add(1)
						case status == 200:
							wrong.Add(1)
						default:
							failed.Add(1)
							t.Log(status, body)
						}
					}
					c.CloseIdleConnections()
				})
			}
			for _, most := range []int{100, 101, 100, 101} { // the pools stay, or others take over
				time.Sleep(100 * time.Millisecond)
				runCaddy(t, port, fmt.Sprintf(`,"max_requests":%d`, most-most%2), "", s.addr())
				runCaddy(t, port, fmt.Sprintf(`,"max_requests":%d`, most), "", s.addr())
			}
			wg.Wait()
			// A reload may reset connections that were about to be accepted.
			if wrong.Load() > 0 || s.mistaken.Load() > 0 || right.Load() < 1800 {
				t.Errorf("%d answered as another, %d failed, %d right", wrong.Load(), failed.Load(), right.Load())
			}
			eventually(t, "pinned connections closed", func() bool { return s.open.Load() == 0 })
		})
	}
}

// Several requests of one client connection at once: over HTTP/2 they all travel on
// the connection that one of them authenticated.
//
// Checklist: P30.
func TestRequestsOfOneUserAtOnce(t *testing.T) {
	s := newAuthenticating(t, false)
	stopCaddy(t)
	url := runCaddy(t, freePort(t), `,"max_requests":101`, "", s.addr())
	c := client(t, true)
	if status, body := login(t, c, url, "alice"); status != 200 || body != "alice" {
		t.Fatal(status, body)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if status, body := ask(t, c, url, "alice", ""); status != 200 || body != "alice" {
				t.Error(status, body)
			}
		})
	}
	wg.Wait()
	if n := s.open.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Credentials that nobody asked for authenticate a connection as well.
//
// Checklist: P30.
func TestNegotiateUnasked(t *testing.T) {
	s := newAuthenticating(t, false)
	stopCaddy(t)
	url := runCaddy(t, freePort(t), `,"max_requests":100`, "", s.addr())
	alice, bob := client(t, false), client(t, false)
	if status, _ := ask(t, bob, url, "bob", ""); status != 401 { // leaves a connection
		t.Error(status)
	}
	if status, body := ask(t, alice, url, "alice", "negotiate alice"); status != 200 || body != "alice" {
		t.Fatal(status, body)
	}
	for range 3 {
		if status, body := ask(t, client(t, false), url, "bob", ""); status != 401 {
			t.Errorf("%d %s", status, body)
		}
	}
	if status, body := ask(t, alice, url, "alice", ""); status != 200 || body != "alice" {
		t.Errorf("%d %s", status, body)
	}
}

// A client connection that ends during a request takes its connection with it.
//
// Checklist: P30.
func TestClientGoesDuringRequest(t *testing.T) {
	s := newAuthenticating(t, false)
	stopCaddy(t)
	port := freePort(t)
	runCaddy(t, port, `,"max_requests":100`, "", s.addr())
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Negotiate alice\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", // challenged
	} {
		for range 50 {
			c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, request)
			time.Sleep(time.Duration(unique.Add(100_000)) % time.Millisecond) // at any moment
			c.Close()
		}
	}
	// What was dialed and not used is nobody's, and may stay.
	took, lost := standstill.Of(func() {
		eventually(t, "pinned connections closed", func() bool {
			held := 0
			for _, p := range statesOf(s.addr()) {
				held += p.Connections["pinned"] + p.Connections["busy"]
			}
			return held == 0
		})
	})
	if took > 3*time.Second+lost { // the idle limit closes them after 3.8 s
		t.Errorf("closed after %v, in which nothing ran for %v", took, lost)
	}
}

// A client connection that ends closes its connection to the upstream within a second.
// A machine that is busy with other things gets several tries.
//
// Checklist: P30.
func TestClientEnds(t *testing.T) {
	s := newAuthenticating(t, false)
	stopCaddy(t)
	url := runCaddy(t, freePort(t), `,"max_requests":102`, "", s.addr())
	for _, h2 := range []bool{false, true} {
		var took time.Duration
		for range 10 {
			c := client(t, h2)
			if status, body := ask(t, c, url, "alice", "Negotiate alice"); status != 200 || body != "alice" {
				t.Fatal(status, body)
			}
			if s.open.Load() == 0 {
				t.Error("not kept")
			}
			ended := time.Now()
			c.CloseIdleConnections()
			eventually(t, "pinned connection closed", func() bool { return s.open.Load() == 0 })
			if took = time.Since(ended); took < time.Second {
				break
			}
		}
		if took >= time.Second {
			t.Errorf("h2=%v: closed after %v", h2, took)
		}
	}
}

// A client connection that is not known has nothing pinned, as with HTTP/3: the
// connection that its credentials travelled on ends with the response.
//
// Checklist: P30.
func TestUnknownClientConnection(t *testing.T) {
	s := newAuthenticating(t, false)
	tr := newTransport(t, nil)
	for range 30 {
		req := newRequest(t, "GET", s.addr(), nil)
		req.Header.Set("Authorization", "Negotiate alice")
		if body := mustSend(t, tr, req); body != "alice" {
			t.Fatal(body)
		}
		if status, body, err := send(tr, newRequest(t, "GET", s.addr(), nil)); status != 401 || err != nil {
			t.Errorf("%d %s %v", status, body, err)
		}
	}
	eventually(t, "connections closed", func() bool { return s.open.Load() == 0 })
	// That it was us who closed them, the upstream is not to blame for.
	req := newRequest(t, "GET", s.addr(), nil)
	req.Header.Set("Authorization", "Negotiate alice")
	mustSend(t, tr, req)
	if st := tr.core.states(time.Now()); len(st) != 1 || st[0].IdleLimit == 0 {
		t.Errorf("%+v", st)
	}
}

// A replay that closes one connection of an unknown client and opens another is no
// reason to wait.
func TestReplayOfUnknownClient(t *testing.T) {
	s := newAuthenticating(t, true)
	tr := newTransport(t, nil)
	for range 50 {
		req := newRequest(t, "GET", s.addr(), nil)
		req.Header.Set("Authorization", "Negotiate alice")
		if body := mustSend(t, tr, req); body != "alice" {
			t.Fatal(body)
		}
	}
}

// Credentials of requests, not of connections, change nothing.
//
// Checklist: P30.
func TestCredentialsOfRequests(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for req := fake.ReadRequest(r); req != nil; req = fake.ReadRequest(r) {
			fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"NTLM\"\r\nContent-Length: 1\r\n\r\n%d", n)
		}
	})
	tr := newTransport(t, nil)
	for _, credentials := range []string{"Basic YTpi", "Bearer Negotiate", `Digest username="NTLM"`} {
		req := newRequest(t, "GET", s.addr(), nil)
		req.Header.Set("Authorization", credentials)
		if _, body, err := send(tr, req); body != "1" || err != nil {
			t.Errorf("%s: connection %s, %v", credentials, body, err)
		}
	}
	if onlyPool(t, tr).Pins() {
		t.Error("pinned")
	}
}

// What is known of the servers of a configuration ends with it.
func TestServersAreForgotten(t *testing.T) {
	s := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {})
	stopCaddy(t)
	port := freePort(t)
	for range 3 {
		runCaddy(t, port, "", "", s.addr())
	}
	n := 0
	watched.Range(func(_, _ any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d servers, want 1", n)
	}
}
