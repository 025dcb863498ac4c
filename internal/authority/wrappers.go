package authority

import (
	"encoding/json"
	"fmt"
	"slices"
)

// AppliesTo tells whether a `servers` block of a Caddyfile is for a server with these
// listen addresses; address is the block's, "" where it has none. Caddy applies the first
// such block, of those with the longest addresses, and merges none.
func AppliesTo(address string, listen []string) bool {
	return address == "" || slices.Contains(listen, address)
}

// WrapperNames returns the names of listener wrappers, in order.
func WrapperNames(wrappers []json.RawMessage) (names []string, err error) {
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

// hidingWrappers are those whose connections do not tell that they are TLS ones. Behind
// TLS they make Caddy take every request for a plain one, and a gate for one that no TLS
// server name could contradict.
var hidingWrappers = []string{"http_redirect", "layer4", "proxy_protocol"}

// BehindTLS returns which of a server's listener wrappers stand behind TLS and hide it,
// and those of which nobody here knows whether they do.
func BehindTLS(wrappers []string) (hiding, unknown []string) {
	// Caddy puts TLS in front of a list that does not have it.
	for _, name := range wrappers[slices.Index(wrappers, "tls")+1:] {
		switch {
		case slices.Contains(hidingWrappers, name):
			hiding = append(hiding, name)
		case name != "origin":
			unknown = append(unknown, name)
		}
	}
	return hiding, unknown
}
