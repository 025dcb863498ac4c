package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
	"github.com/caddy-connreuse/connreuse/origin"
)

// advertised asks, on a connection for each of eight sites, for every origin that
// its ORIGIN frame tells of, and counts them and those that are refused.
func advertised(ctx context.Context) (told, refused int, err error) {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	port, err := port.Free()
	if err != nil {
		return 0, 0, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	stop, err := run(eightSites(address, dir))
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		one, two, err := askAll(ctx, address, name+".identity.test")
		if err != nil {
			return 0, 0, fmt.Errorf("connection for %s: %w", name, err)
		}
		told, refused = told+one, refused+two
	}
	one, two, err := askAll(ctx, address, "elsewhere.test")
	return told + one, refused + two, err
}

// eightSites are the apps of a server of eight sites, of several scopes, TLS policies
// and certificates, which are kept in a folder.
func eightSites(address, dir string) map[string]any {
	site := func(scope string, hosts ...string) any {
		gate := map[string]any{"handler": "misdirected"}
		if scope != "" {
			gate["scope"] = scope
		}
		return sidebyside.Site(sidebyside.Routes(gate, map[string]any{"handler": "static_response"}), hosts...)
	}
	policy := func(host, setting string, value any) any {
		return map[string]any{"match": map[string]any{"sni": []string{host}}, setting: value}
	}
	storage := map[string]any{"module": "file_system", "root": dir}
	return map[string]any{
		"http": map[string]any{"servers": map[string]any{"identity": map[string]any{
			"listen": []string{address}, "automatic_https": map[string]any{"disable_redirects": true}, "strict_sni_host": false,
			"listener_wrappers": []any{map[string]any{"wrapper": "origin", "origins": []string{"sites"}}},
			"tls_connection_policies": []any{
				policy("f.identity.test", "client_authentication", map[string]any{"mode": "request"}),
				policy("g.identity.test", "protocol_min", "tls1.3"),
				map[string]any{},
			},
			"routes": []any{
				site("", "a.identity.test"),
				site("certificate", "b.identity.test"),
				site("certificate", "c.identity.test"),
				site("site", "d.identity.test", "e.identity.test"),
				site("certificate", "f.identity.test"),
				site("certificate", "g.identity.test"),
				site("certificate", "elsewhere.test"), // with a certificate of its own
				site("", "*.identity.test"),
			},
		}}},
		"tls": map[string]any{"automation": map[string]any{"policies": []any{map[string]any{
			"issuers": []any{map[string]any{"module": "internal"}}, "storage": storage,
		}}}},
		"pki": map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false, "storage": storage}}},
	}
}

// askAll opens a connection with a server name and asks there for all that it is
// told of.
func askAll(ctx context.Context, address, sni string) (told, refused int, err error) {
	conn, err := dial(ctx, address, sni)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return 0, 0, err
	}
	peer, err := h2.Client(conn)
	if err != nil {
		return 0, 0, err
	}
	origins, err := originFrame(peer)
	if err != nil {
		return 0, 0, err
	}
	for i, text := range origins {
		u, err := url.Parse(text)
		if err != nil {
			return 0, 0, err
		}
		stream := uint32(2*i + 1)
		if err := peer.Get(stream, u.Host); err != nil {
			return 0, 0, err
		}
		answer, err := peer.Response(stream)
		if err != nil {
			return 0, 0, err
		}
		if answer.PseudoValue("status") == "421" {
			refused++
		}
	}
	return len(origins), refused, nil
}

// originFrame reads frames until an ORIGIN frame comes, and returns what it tells of.
func originFrame(peer *h2.Peer) ([]string, error) {
	for {
		frame, err := peer.ReadFrame()
		if err != nil {
			return nil, err
		}
		if origins, known, err := origin.ParseFrame(frame); err != nil || known {
			return origins, err
		}
	}
}

// dial waits for the certificate, which is issued in the background.
func dial(ctx context.Context, address, sni string) (*tls.Conn, error) {
	dialer := tls.Dialer{Config: &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"h2"}}}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.(*tls.Conn), nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, err
		}
	}
}
