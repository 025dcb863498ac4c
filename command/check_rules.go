package command

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	auth "github.com/caddy-connreuse/connreuse/internal/authority"
)

// rules are what the command looks for beside what the modules say themselves.
var rules = []func(*checked) []finding{
	(*checked).hiddenTLS, (*checked).refusedChecks, (*checked).unresolvedChecks, (*checked).sourcelessChecks, (*checked).namelessChecks,
}

// hiddenTLS finds listener wrappers behind TLS on servers with a guard. Caddy takes
// their connections for plain ones unless the wrapper passes on what it knows of TLS,
// and a guard refuses what comes over them.
func (c *checked) hiddenTLS() (found []finding) {
	for _, name := range slices.Sorted(maps.Keys(c.servers)) {
		if server := c.app.Server(name); server == nil || !server.HasTLS() || !server.Guarded() {
			continue
		}
		wrappers, _ := auth.WrapperNames(c.config.Apps.HTTP.Servers[name].Wrappers) // Caddy has read them
		hiding, unknown := auth.BehindTLS(wrappers)
		if len(hiding) > 0 {
			found = append(found, finding{Server: name, Module: "check", Details: map[string]any{"listener_wrappers": hiding},
				Message: "listener wrappers stand behind TLS and hide it: misdirected refuses all requests over them; list tls behind them"})
		}
		if len(unknown) > 0 {
			found = append(found, finding{Server: name, Module: "check", Details: map[string]any{"listener_wrappers": unknown},
				Message: "listener wrappers stand behind TLS that may hide it: misdirected would refuse all requests over them; if they need no TLS, list tls behind them"})
		}
	}
	return found
}

// idleServersBlocks finds servers blocks of a Caddyfile that never apply.
func (c *checked) idleServersBlocks() (found []finding) {
	blocks := serversBlocks(c.name, c.caddyfile)
	takes := make(map[string]string) // block by server
	var listened []string
	for name, server := range c.config.Apps.HTTP.Servers {
		listened = append(listened, server.Listen...)
		for _, address := range blocks {
			if auth.AppliesTo(address, server.Listen) {
				takes[name] = address
				break
			}
		}
	}
	slices.Sort(listened)
	for _, address := range blocks {
		if slices.Contains(slices.Collect(maps.Values(takes)), address) || len(takes) == 0 && len(listened) == 0 {
			continue
		}
		f := finding{Module: "check", Details: map[string]any{"block": strings.TrimSpace("servers " + address)}}
		if address == "" {
			f.Message = "a servers block in the global options never applies: each server has a block with its address, and Caddy does not merge them; put the settings into that block"
		} else {
			f.Message = fmt.Sprintf("a servers block in the global options never applies: no server listens on '%s' as it is written there", address)
			if slices.Contains(listened, address) {
				f.Message = fmt.Sprintf("a servers block in the global options never applies: another one takes the server that listens on '%s', and Caddy does not merge them", address)
			}
			f.Details["listen"] = slices.Compact(listened)
		}
		found = append(found, f)
	}
	return found
}

// serversBlocks returns the addresses of the servers blocks in the global options of a
// Caddyfile, in the order in which Caddy tries them.
func serversBlocks(name string, text []byte) (addresses []string) {
	blocks, err := caddyfile.Parse(name, text)
	if err != nil || len(blocks) == 0 || len(blocks[0].Keys) > 0 {
		return nil
	}
	for _, segment := range blocks[0].Segments {
		if segment.Directive() != "servers" {
			continue
		}
		d := caddyfile.NewDispenser(segment)
		d.Next()
		address := ""
		if d.NextArg() {
			address = d.Val()
		}
		addresses = append(addresses, address)
	}
	slices.SortStableFunc(addresses, func(a, b string) int { return len(b) - len(a) })
	return addresses
}

// objects walks through all objects in decoded JSON.
func objects(v any) iter.Seq[map[string]any] {
	return func(yield func(map[string]any) bool) { eachObject(v, yield) }
}

func eachObject(v any, yield func(map[string]any) bool) bool {
	switch v := v.(type) {
	case map[string]any:
		if !yield(v) {
			return false
		}
		for _, key := range sortedKeys(v) {
			if !eachObject(v[key], yield) {
				return false
			}
		}
	case []any:
		for _, item := range v {
			if !eachObject(item, yield) {
				return false
			}
		}
	}
	return true
}

// at is what stands at a path of keys in decoded JSON; nil: nothing.
func at(v any, path ...string) any {
	for _, key := range path {
		object, _ := v.(map[string]any)
		v = object[key]
	}
	return v
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// plain writes a value for people.
func plain(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []string:
		return strings.Join(v, ", ")
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, plain(item))
		}
		return strings.Join(items, ", ")
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(text)
	}
}
