package identity

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

// strangers is how many names of a certificate, which a catch-all alone serves here
// and which may belong to another machine, a connection is told of, and of how many.
func strangers(ctx context.Context) (advertised, of int, err error) {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	others := []string{"x.catch.test", "y.catch.test", "z.catch.test"}
	cert, err := testcert.SelfSigned(append([]string{"a.catch.test", "b.catch.test"}, others...)...)
	if err != nil {
		return 0, 0, err
	}
	file := filepath.Join(dir, "cert.pem")
	if err := testcert.WritePEM(cert, file, file); err != nil {
		return 0, 0, err
	}
	free, err := port.Free()
	if err != nil {
		return 0, 0, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", free)
	answer := map[string]any{"handler": "static_response"}
	site := func(scope string, hosts ...string) any {
		return sidebyside.Site(sidebyside.Routes(map[string]any{"handler": "misdirected", "scope": scope}, answer), hosts...)
	}
	stop, err := run(map[string]any{
		"http": map[string]any{"servers": map[string]any{"catch-all": map[string]any{
			"listen": []string{address}, "automatic_https": map[string]any{"disable": true}, "strict_sni_host": false,
			"listener_wrappers":       []any{map[string]any{"wrapper": "origin"}},
			"tls_connection_policies": []any{map[string]any{}},
			// b is refused on other connections, so that there is a frame.
			"routes": []any{site("certificate", "a.catch.test"), site("sni", "b.catch.test"), site("certificate")},
		}}},
		"tls": map[string]any{"certificates": map[string]any{"load_files": []any{map[string]any{"certificate": file, "key": file}}}},
	})
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	origins, err := toldOn(ctx, address, "a.catch.test")
	for _, name := range others {
		if slices.ContainsFunc(origins, func(origin string) bool { return strings.HasPrefix(origin, "https://"+name) }) {
			advertised++
		}
	}
	return advertised, len(others), err
}

// toldOn opens a connection and returns what it is told of.
func toldOn(ctx context.Context, address, sni string) ([]string, error) {
	conn, err := dial(ctx, address, sni)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	peer, err := h2.Client(conn)
	if err != nil {
		return nil, err
	}
	return originFrame(peer)
}
