package origin

import (
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// checkOrder refuses a list of listener wrappers in which this one would do nothing,
// send everything twice, or stand beside one that hides TLS. It returns those behind
// TLS of which nobody here knows whether they do.
func checkOrder(srv *caddyhttp.Server) (unknown []string, err error) {
	names, err := authority.WrapperNames(srv.ListenerWrappersRaw)
	if err != nil {
		return nil, err
	}
	origin, tls := slices.Index(names, "origin"), slices.Index(names, "tls")
	switch {
	case tls > origin && origin >= 0:
		return nil, errors.New("reading listener_wrappers: origin must stand behind tls")
	case slices.Contains(names[origin+1:], "origin"):
		return nil, errors.New("reading listener_wrappers: origin must be listed only once")
	case len(srv.TLSConnPolicies) == 0:
		return nil, nil
	}
	hiding, unknown := authority.BehindTLS(names)
	if len(hiding) > 0 {
		return nil, fmt.Errorf("reading listener_wrappers: '%s' must stand in front of tls, and tls in front of origin, as in '%s tls origin': behind TLS it hides from Caddy that connections are TLS ones", hiding[0], hiding[0])
	}
	return unknown, nil
}

// checkProtocols refuses listeners with TLS that have no HTTP/2 while the server
// has it elsewhere. Caddy lets clients select it on all of them then; behind any
// listener wrapper it would hang up on those that do where it is not to be had.
func checkProtocols(server *authority.Server) error {
	with, without := "", ""
	for p := range server.Places() {
		if p.H2 {
			with = p.Listed
		} else if p.TLS && p.Listens {
			without = p.Listed
		}
	}
	if with != "" && without != "" {
		return fmt.Errorf("reading listen_protocols: origin must have h2 on all TLS listeners of its server or on none, but '%s' has it and '%s' has not", with, without)
	}
	return nil
}
