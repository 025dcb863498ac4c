package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// onSockets is the command keepalive on real sockets.
func onSockets(t *testing.T, o options, url string) keepAliveJSON {
	t.Helper()
	var out bytes.Buffer
	o.timeout, o.dial, o.stdout, o.stderr, o.json = defaultTimeout, new(net.Dialer).DialContext, &out, io.Discard, true
	_, err := keepAlive(t.Context(), []string{url}, o)
	var results struct{ Results []keepAliveJSON }
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &results)
	}
	if err != nil || len(results.Results) != 1 {
		t.Fatalf("%v: %s", err, &out)
	}
	return results.Results[0]
}

// TestServers finds when real servers close, as they were told to.
func TestServers(t *testing.T) {
	t.Parallel()
	protocols := map[string]string{"http/1.1": "HTTP/1.1", "h2": "h2", "h2c": "h2c"}
	for _, kind := range servers.Kinds {
		t.Run(kind.Name, func(t *testing.T) {
			t.Parallel()
			if kind.Program != "" {
				needs.Program(t, kind.Program, kind.Package)
			}
			s, err := servers.StartAt(t.TempDir(), kind, 2*time.Second, fmt.Sprintf("127.0.0.1:%d", testcaddy.FreePort(t)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Stop(false); err != nil {
					t.Error(err)
				}
			})
			late := 100 * time.Millisecond
			if kind.Name == servers.Gunicorn.Name {
				late += 200 * time.Millisecond // it looks for idle connections now and then
			}
			o := options{maxWait: 20 * time.Second}
			url := s.URL()
			switch kind.Protocol {
			case "h2":
				o.roots = s.CA()
			case "h2c":
				url = strings.Replace(url, "http", "h2c", 1)
			}
			// A busy machine sees the close late, or the response, and then the
			// close seems early: the best of some.
			for try := 1; ; try++ {
				got := onSockets(t, o, url)
				if got.Outcome != outcomeClosed || got.Status/100 != 2 || got.Protocol != protocols[kind.Protocol] {
					t.Fatalf("%+v", got)
				}
				announced := time.Duration(0)
				if got.Announced != nil {
					announced = time.Duration(*got.Announced.Timeout * float64(time.Second))
				}
				if announced != s.Announced() {
					t.Fatalf("announced %v, want %v", announced, s.Announced())
				}
				closed := time.Duration(got.Events[0].After * float64(time.Second))
				t.Logf("%+v", got.Events)
				if off := closed - s.Closes(); off < -100*time.Millisecond || off > late {
					if try < 10 {
						continue
					}
					t.Errorf("closed after %v, want %v", closed, s.Closes())
				}
				break
			}
		})
	}
}

// TestReset: a server that ends the connection with RST.
func TestReset(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		script("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", time.Second)(c)
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}()
	got := onSockets(t, options{maxWait: 20 * time.Second}, ln.Addr().String())
	if got.Outcome != outcomeClosed || len(got.Events) != 1 || got.Events[0].Event != "RST" {
		t.Errorf("%+v, want one RST", got)
	}
}
