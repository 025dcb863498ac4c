package servers_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// TestServers starts each kind of server and checks what the others rely on: it
// speaks its protocol, notes what it has done, keeps its address over restarts,
// and closes idle connections when Closes says.
func TestServers(t *testing.T) {
	for _, kind := range servers.Kinds {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			if kind.Program != "" {
				needs.Program(t, kind.Program, kind.Package)
			}
			s, err := servers.Start(t.TempDir(), kind, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Stop(false); err != nil {
					t.Error(err)
				}
			})
			exchange(t, s, "/first", nil)
			once(t, s, "GET /first")
			if err := s.Restart(true, time.Second); err != nil {
				t.Fatal(err)
			}
			exchange(t, s, "/second", nil)
			once(t, s, "GET /second")
			if err := s.Restart(false, 2*time.Second); err != nil {
				t.Fatal(err)
			}
			// A busy machine sees the close late: the best of some.
			for try := 1; ; try++ {
				path := fmt.Sprintf("/third-%d", try)
				least, most := exchange(t, s, path, strings.NewReader("a body"))
				once(t, s, "POST "+path)
				if kind.Protocol != "http/1.1" {
					break
				}
				if most < s.Closes()-20*time.Millisecond || least > s.Closes()+500*time.Millisecond && try == 5 {
					t.Errorf("an idle connection was closed after %v to %v, want %v", least, most, s.Closes())
				}
				if least <= s.Closes()+500*time.Millisecond || try == 5 {
					break
				}
			}
		})
	}
}

// once waits until a request was noted, which must be just once.
func once(t *testing.T, s *servers.Server, request string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) { // polls another process
		done, err := s.Done()
		if err != nil {
			t.Fatal(err)
		}
		if done[request] == 1 {
			return
		}
		if done[request] > 1 || time.Now().After(deadline) {
			t.Fatalf("%s was done %d times, want once; done: %v", request, done[request], done)
		}
	}
}

// exchange sends a request and, over HTTP/1.1, returns for how long the connection
// was idle when the server closed it, at least and at most.
func exchange(t *testing.T, s *servers.Server, path string, body *strings.Reader) (least, most time.Duration) {
	t.Helper()
	method, content := http.MethodGet, ""
	var reader io.Reader
	if body != nil {
		method, content, reader = http.MethodPost, "a body", body
	}
	if s.Protocol == "http/1.1" {
		conn, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sent := time.Now()
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s", method, path, len(content), content)
		buffered := bufio.NewReader(conn)
		resp, err := http.ReadResponse(buffered, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode >= 300 {
			t.Fatalf("%s, %v", resp.Status, err)
		}
		idle := time.Now()
		if body == nil {
			return 0, 0
		}
		if want := fmt.Sprintf("timeout=%.0f", s.Announced().Seconds()); s.Announces != strings.Contains(resp.Header.Get("Keep-Alive"), want) {
			t.Errorf("Keep-Alive: %q, want %q: %v", resp.Header.Get("Keep-Alive"), want, s.Announces)
		}
		_ = conn.SetReadDeadline(idle.Add(20 * time.Second))
		if _, err := buffered.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection was not closed: %v", err)
		}
		return time.Since(idle), time.Since(sent)
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	defer transport.CloseIdleConnections()
	if s.Protocol == "h2" {
		transport.TLSClientConfig = &tls.Config{RootCAs: s.CA()}
		transport.Protocols.SetHTTP2(true)
	} else {
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	req, err := http.NewRequest(method, s.URL()+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode >= 300 {
		t.Fatalf("%s %s", resp.Proto, resp.Status)
	}
	return 0, 0
}
