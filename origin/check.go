package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// hiding are the listener wrappers whose connections do not tell that they are TLS
// ones. Behind TLS they make Caddy take every request for a plain one, and a gate for
// one that no TLS server name could contradict.
var hiding = []string{"http_redirect", "layer4", "proxy_protocol"}

// HidesTLS tells whether a listener wrapper of that name, behind TLS, hides from Caddy
// that its connections are TLS ones.
func HidesTLS(wrapper string) bool { return slices.Contains(hiding, wrapper) }

// checkOrder refuses a list of listener wrappers in which this one would do nothing,
// send everything twice, or stand beside one that hides TLS. It returns those behind
// TLS of which nobody here knows whether they do.
func checkOrder(srv *caddyhttp.Server) (unknown []string, err error) {
	names, err := wrapperNames(srv.ListenerWrappersRaw)
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
	// Caddy puts TLS in front of a list that does not have it.
	for _, name := range names[tls+1:] {
		switch {
		case HidesTLS(name):
			return nil, fmt.Errorf("reading listener_wrappers: '%s' must stand in front of tls, and tls in front of origin, as in '%s tls origin': behind TLS it hides from Caddy that connections are TLS ones", name, name)
		case name != "origin":
			unknown = append(unknown, name)
		}
	}
	return unknown, nil
}

// wrapperNames returns the names of listener wrappers, in order.
func wrapperNames(wrappers []json.RawMessage) (names []string, err error) {
	for _, raw := range wrappers {
		var module struct {
			Wrapper string `json:"wrapper"`
		}
		if err := json.Unmarshal(raw, &module); err != nil {
			return nil, fmt.Errorf("reading listener_wrappers: %w", err)
		}
		names = append(names, module.Wrapper)
	}
	return names, nil
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
