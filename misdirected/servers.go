package misdirected

import (
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// Of several `servers` blocks in the global options, Caddy applies one to each server and
// leaves no trace of the others in JSON. The directive sees them all, so it is here that
// what a site misses is noticed.

// A serversBlock is what counts here of a `servers` block.
type serversBlock struct {
	address string
	origin  bool // it has the origin listener wrapper
	strict  bool // it sets strict_sni_host
}

// missedBlocks says, in words for an operator, which blocks are meant for a site
// with these listen addresses and do not apply to it.
func missedBlocks(blocks []serversBlock, listen []string) (missed []string) {
	var applied serversBlock
	if i := slices.IndexFunc(blocks, func(b serversBlock) bool { return authority.AppliesTo(b.address, listen) }); i >= 0 {
		applied = blocks[i]
	}
	for _, b := range blocks {
		noOrigin, notStrict := b.origin && !applied.origin, b.strict && !applied.strict
		switch applies := authority.AppliesTo(b.address, listen); {
		case applies && noOrigin:
			missed = append(missed, fmt.Sprintf("a servers block with the origin listener wrapper does not apply to a site with misdirected: "+
				"Caddy applies '%s' instead of '%s', and merges none", applied, b))
		case !applies && (noOrigin || notStrict) && samePort(b.address, listen):
			missed = append(missed, fmt.Sprintf("a servers block does not apply to a site with misdirected: '%s' must name an address as the server listens on it: %s",
				b, strings.Join(listen, ", ")))
		}
	}
	return missed
}

func (b serversBlock) String() string { return strings.TrimSpace("servers " + b.address) }

// samePort tells whether an address has the port of one of the others: it is meant
// for them, and spelled in another way.
func samePort(address string, others []string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && slices.ContainsFunc(others, func(other string) bool {
		_, p, err := net.SplitHostPort(other)
		return err == nil && p == port
	})
}

// warnOfMissedBlocks looks at each site of a Caddyfile once, and logs each thing once.
func warnOfMissedBlocks(h httpcaddyfile.Helper) {
	if h.IsNamedRoute() {
		return
	}
	site := siteOf(h)
	if site.Kind() != reflect.Struct {
		return
	}
	if segments := site.FieldByName("Segments"); segments.Kind() == reflect.Slice {
		key := fmt.Sprintf("misdirected: site %x", segments.Pointer())
		if h.State[key] != nil {
			return
		}
		h.State[key] = true
	}
	listen := listenAddresses(h, site)
	if len(listen) == 0 {
		return
	}
	for _, message := range missedBlocks(serversBlocks(h.Option("servers")), listen) {
		if key := "misdirected: " + message; h.State[key] == nil {
			h.State[key] = true
			caddy.Log().Named("http.handlers.misdirected").Warn(message)
		}
	}
}

// serversBlocks reads the parsed `servers` options. Their type is not exported; from
// another one than expected nothing is read.
func serversBlocks(option any) (blocks []serversBlock) {
	list := reflect.ValueOf(option)
	if list.Kind() != reflect.Slice || list.Type().Elem().Kind() != reflect.Struct {
		return nil
	}
	for i := range list.Len() {
		address, wrappers := list.Index(i).FieldByName("ListenerAddress"), list.Index(i).FieldByName("ListenerWrappersRaw")
		strict := list.Index(i).FieldByName("StrictSNIHost")
		if address.Kind() != reflect.String || wrappers.Kind() != reflect.Slice || strict.Kind() != reflect.Pointer {
			return nil
		}
		raw, ok := wrappers.Interface().([]json.RawMessage)
		if !ok {
			return nil
		}
		names, _ := authority.WrapperNames(raw)
		blocks = append(blocks, serversBlock{address.String(), slices.Contains(names, "origin"), !strict.IsNil()})
	}
	return blocks
}

// siteOf returns the site block of a directive. It is in a field that is not exported;
// from another one than expected nothing is read.
func siteOf(h httpcaddyfile.Helper) reflect.Value {
	return reflect.ValueOf(h).FieldByName("parentBlock")
}

// listenAddresses returns the addresses with TLS that a site listens on, as the adapter
// finds them: each address of bind, or default_bind, with each port of the site's keys.
func listenAddresses(h httpcaddyfile.Helper, site reflect.Value) (listen []string) {
	hosts := bindHosts(site.FieldByName("Segments"))
	if len(hosts) == 0 {
		hosts = defaultBind(h.Option("default_bind"))
	}
	httpPort, httpsPort := caddyhttp.DefaultHTTPPort, caddyhttp.DefaultHTTPSPort
	if port, ok := h.Option("http_port").(int); ok {
		httpPort = port
	}
	if port, ok := h.Option("https_port").(int); ok {
		httpsPort = port
	}
	for _, key := range tokenTexts(site.FieldByName("Keys")) {
		addr, err := httpcaddyfile.ParseAddress(strings.TrimSuffix(key, ","))
		port := addr.Port
		if port == "" {
			port = strconv.Itoa(httpsPort)
		}
		if err != nil || addr.Scheme == "http" || port == strconv.Itoa(httpPort) {
			continue
		}
		for _, host := range hosts {
			network, name, _, err := caddy.SplitNetworkAddress(host)
			if err != nil {
				continue
			}
			if parsed, err := caddy.ParseNetworkAddress(caddy.JoinNetworkAddress(network, name, port)); err == nil && !slices.Contains(listen, parsed.String()) {
				listen = append(listen, parsed.String())
			}
		}
	}
	return listen
}

// bindHosts returns the addresses of a site's bind lines.
func bindHosts(segments reflect.Value) (hosts []string) {
	if segments.Kind() != reflect.Slice {
		return nil
	}
	for i := range segments.Len() {
		words := tokenTexts(segments.Index(i))
		if len(words) < 2 || words[0] != "bind" {
			continue
		}
		if brace := slices.Index(words, "{"); brace >= 0 {
			words = words[:brace]
		}
		hosts = append(hosts, words[1:]...)
	}
	return hosts
}

// tokenTexts returns the texts of tokens.
func tokenTexts(tokens reflect.Value) (words []string) {
	if tokens.Kind() != reflect.Slice || tokens.Type().Elem().Kind() != reflect.Struct {
		return nil
	}
	for i := range tokens.Len() {
		if text := tokens.Index(i).FieldByName("Text"); text.Kind() == reflect.String {
			words = append(words, text.String())
		}
	}
	return words
}

// defaultBind returns the addresses of default_bind, else that of all interfaces.
func defaultBind(option any) (hosts []string) {
	values, _ := option.([]httpcaddyfile.ConfigValue)
	for _, value := range values {
		v := reflect.ValueOf(value.Value)
		if v.Kind() != reflect.Struct || v.FieldByName("addresses").Kind() != reflect.Slice {
			return nil
		}
		for i := range v.FieldByName("addresses").Len() {
			if host := v.FieldByName("addresses").Index(i); host.Kind() == reflect.String {
				hosts = append(hosts, host.String())
			}
		}
	}
	if len(values) == 0 {
		return []string{""}
	}
	return hosts
}
