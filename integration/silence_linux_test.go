package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// TestRecipeForgetfulFirewall: of the requests that meet a lost connection, a GET is
// answered all the same, and a POST with 504 when unacked_timeout is over.
func TestRecipeForgetfulFirewall(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var conns []net.Conn
	l, err := fake.Listen(func(_ int64, c net.Conn) net.Conn {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
		return c
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	if err := l.Serve(false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method) }, nil); err != nil {
		t.Fatal(err)
	}
	c := readRecipe(t, "A firewall that forgets connections").start(t,
		strings.NewReplacer("203.0.113.7:8080", l.Addr().String(), "5s", "1s"), "app.example.com")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS("app.example.com")}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	ask := func(method string) (string, time.Duration) {
		t.Helper()
		began := time.Now()
		req, err := http.NewRequest(method, "https://"+c.addr, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "app.example.com"
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d %s", resp.StatusCode, body), time.Since(began)
	}
	for _, method := range []string{"GET", "POST"} {
		if got, _ := ask("GET"); got != "200 GET" {
			t.Fatal(got)
		}
		mu.Lock()
		for _, c := range conns {
			_ = fake.Deafen(c) // closed ones cannot be
		}
		mu.Unlock()
		want := map[string]string{"GET": "200 GET", "POST": "504 "}[method]
		if got, took := ask(method); got != want || took < time.Second || took > 10*time.Second {
			t.Errorf("%s on a lost connection: %s after %v, want %s", method, got, took, want)
		}
	}
}
