package upstreampool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-connreuse/connreuse/internal/test/apart"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/standstill"
)

func init() { caddy.RegisterModule(sickStorage{}) }

// A sickStorage is a storage module that is of no use.
type sickStorage struct {
	certmagic.FileStorage
	Illness string `json:"illness"`
}

func (sickStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.sick", New: func() caddy.Module { return new(sickStorage) }}
}

func (s *sickStorage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }

func (s *sickStorage) suffer() error {
	switch s.Illness {
	case "slow":
		time.Sleep(6 * time.Second) // a second more than it is given
		return nil
	case "broken":
		return errors.New("connection refused")
	}
	return nil
}

func (s *sickStorage) Load(context.Context, string) ([]byte, error) {
	if err := s.suffer(); err != nil {
		return nil, err
	}
	if s.Illness == "corrupted" {
		return []byte(`{"version":1,`), nil
	}
	return nil, fs.ErrNotExist
}

func (s *sickStorage) Store(context.Context, string, []byte) error { return s.suffer() }

// Whatever the storage does, no request waits for it, and it costs one warning.
func TestSickStorage(t *testing.T) {
	if apart.Process(t) {
		return
	}
	t.Setenv("HOME", t.TempDir()) // the instance's id is there
	t.Setenv("XDG_DATA_HOME", os.Getenv("HOME"))
	s := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, "x")
		}
	})
	stopCaddy(t)
	const notKept = "what is learned about upstreams is not kept in the storage"
	for illness, warning := range map[string]string{
		"broken": notKept, "corrupted": "what is remembered of an upstream is invalid", "slow": notKept,
	} {
		t.Run(illness, func(t *testing.T) {
			log, port := filepath.Join(t.TempDir(), "log"), freePort(t)
			var cfg caddy.Config
			err := json.Unmarshal(fmt.Appendf(nil, `{"admin":{"disabled":true,"config":{"persist":false}},
				"storage":{"module":"sick","illness":%q},
				"logging":{"logs":{"default":{"level":"WARN","writer":{"output":"file","filename":%q}}}},
				"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},"routes":[{"handle":[
					{"handler":"reverse_proxy","transport":{"protocol":"upstreampool","max_requests":%d},"upstreams":[{"dial":%q}]}]}]}}}}}`,
				illness, log, port, 7000+port, s.addr()), &cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := caddy.Run(&cfg); err != nil {
				t.Fatal(err)
			}
			warnings := func() int {
				text, _ := os.ReadFile(log)
				return strings.Count(string(text), warning)
			}
			ask := func() {
				t.Helper()
				req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
				var resp *http.Response
				took, lost := standstill.Of(func() { resp, _ = fetch(t, client(t, false), req) })
				if resp.StatusCode != 200 || took > 3*time.Second+lost {
					t.Errorf("status %d after %v, in which nothing ran for %v", resp.StatusCode, took, lost)
				}
			}
			for range 10 {
				ask()
			}
			eventually(t, "a warning", func() bool { return warnings() > 0 })
			for range 10 {
				ask()
			}
			if n := warnings(); n != 1 {
				t.Errorf("%d warnings, want one", n)
			}
		})
	}
}
