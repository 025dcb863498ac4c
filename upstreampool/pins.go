package upstreampool

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
)

// NTLM and Negotiate (RFC 4559 section 6) authenticate a connection, not a request.
// So a connection to the upstream on which that happens, or is about to, belongs to
// the client connection whose requests it carries. Basic, Bearer and Digest
// authenticate requests, and change nothing.
//
// HTTP/3 connections tell nothing of themselves, and who sends a request that comes
// from no server is not known either. There, each such request is an owner of its
// own, that ends at once.

// ownerKey is the context key of the owner that stands for a client connection.
type ownerKey struct{}

var (
	owners sync.Map // net.Conn to *connpool.Owner

	watched sync.Map // *caddyhttp.Server: those that tell of their connections
)

// watchClients has the server that is being provisioned tell of its connections, once,
// and returns it. There may be none. Whoever cleans up removes it from watched.
func watchClients(ctx caddy.Context) *caddyhttp.Server {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	if _, known := watched.LoadOrStore(server, true); known {
		return server
	}
	server.RegisterConnContext(func(ctx context.Context, c net.Conn) context.Context {
		if !reflect.ValueOf(c).Comparable() {
			return ctx // a listener wrapper may make connections that are no key of a map
		}
		owner := new(connpool.Owner)
		owners.Store(c, owner)
		return context.WithValue(ctx, ownerKey{}, owner)
	})
	server.RegisterConnState(func(c net.Conn, s http.ConnState) {
		if s != http.StateClosed && s != http.StateHijacked || !reflect.ValueOf(c).Comparable() {
			return
		}
		if owner, ok := owners.LoadAndDelete(c); ok {
			owner.(*connpool.Owner).End()
		}
	})
	return server
}

// ownerOf returns the owner that stands for the client connection of a request, or one
// for the request alone.
func ownerOf(ctx context.Context) *connpool.Owner {
	if owner, ok := ctx.Value(ownerKey{}).(*connpool.Owner); ok {
		return owner
	}
	owner := new(connpool.Owner)
	owner.End()
	return owner
}

// ownerFor says whose request it is, if that matters in p: if it authenticates its
// connection, or if the client connection may have one of its own.
func (p *pool) ownerFor(ctx context.Context, n connpool.Need) *connpool.Owner {
	switch {
	case n.Bound:
		return ownerOf(ctx)
	case p.Pins():
		owner, _ := ctx.Value(ownerKey{}).(*connpool.Owner)
		return owner
	}
	return nil
}

// pinChallenged pins a connection whose response asks the client to authenticate it.
func pinChallenged(ctx context.Context, l *connpool.Lease, resp *http.Response) {
	switch h := resp.Header; resp.StatusCode {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		if bindsConnection(h["Www-Authenticate"], h["Proxy-Authenticate"]) {
			l.Pin(ownerOf(ctx))
		}
	}
}

// authenticates tells whether a request has credentials that authenticate its
// connection. Proxy-Authorization is a matter between us and the next hop: Caddy
// removes the client's, but a configuration may set one.
func authenticates(h http.Header) bool {
	return bindsConnection(h["Authorization"], h["Proxy-Authorization"])
}

// bindsConnection tells whether fields of challenges or credentials (RFC 9110 sections
// 11.6 and 11.7) have a scheme that authenticates the connection. Commas separate
// challenges, but in quoted strings, and parameters, too. Lists of credentials are
// not valid, but somebody may take them.
func bindsConnection(fields ...[]string) bool {
	for _, lines := range fields {
		for _, line := range lines {
			if !strings.Contains(line, ",") { // a token may be long
				if ofConnection(line) {
					return true
				}
				continue
			}
			start, quoted := 0, false
			for i := 0; i < len(line); i++ {
				switch {
				case quoted && line[i] == '\\':
					i++
				case line[i] == '"':
					quoted = !quoted
				case line[i] == ',' && !quoted:
					if ofConnection(line[start:i]) {
						return true
					}
					start = i + 1
				}
			}
			if ofConnection(line[start:]) {
				return true
			}
		}
	}
	return false
}

// ofConnection tells whether s begins with a scheme that authenticates connections.
func ofConnection(s string) bool {
	s = strings.Trim(s, " \t")
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		s = s[:i]
	}
	return strings.EqualFold(s, "NTLM") || strings.EqualFold(s, "Negotiate")
}
