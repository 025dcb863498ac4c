package command

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A target is what an argument names: a server and what to ask it for.
type target struct {
	text   string // as given
	scheme string // http, https or h2c
	socket string // path of a Unix socket; empty for TCP
	name   string // canonical host name or IP address
	port   string
	sni    string   // TLS server name; empty: name
	url    *url.URL // its path and query are asked for
}

var defaultPorts = map[string]string{"http": "80", "https": "443", "h2c": "80"}

// parseTarget reads a URL with scheme http, https or h2c, or an upstream address
// as in a Caddyfile: host:port, unix//path or unix+h2c//path.
func parseTarget(text string) (target, error) {
	for prefix, scheme := range map[string]string{"unix//": "http", "unix+h2c//": "h2c"} {
		if socket, ok := strings.CutPrefix(text, prefix); ok && socket != "" {
			return target{text: text, scheme: scheme, socket: "/" + strings.TrimPrefix(socket, "/"), name: "localhost", port: "80", url: &url.URL{Path: "/"}}, nil
		}
	}
	full := text
	if !strings.Contains(text, "://") {
		full = "http://" + text
	}
	u, err := url.Parse(full)
	if err != nil {
		return target{}, fmt.Errorf("reading URL '%s': %w", text, err)
	}
	t := target{text: text, scheme: u.Scheme, port: u.Port(), url: u}
	switch {
	case defaultPorts[t.scheme] == "":
		return target{}, fmt.Errorf("reading URL '%s': the scheme must be http, https or h2c, not '%s'", text, t.scheme)
	case u.User != nil:
		return target{}, fmt.Errorf("reading URL '%s': user information is not allowed", text)
	case t.port == "":
		t.port = defaultPorts[t.scheme]
	}
	if n, err := strconv.ParseUint(t.port, 10, 16); err != nil || n == 0 {
		return target{}, fmt.Errorf("reading URL '%s': the port '%s' is not a number from 1 to 65535", text, t.port)
	}
	if t.name, err = hostname.ParseName(u.Hostname()); err != nil {
		return target{}, fmt.Errorf("reading URL '%s': host '%s': %w", text, u.Hostname(), err)
	}
	return t, nil
}

func parseTargets(urls []string) (targets []target, err error) {
	var errs []error
	for _, text := range urls {
		t, err := parseTarget(text)
		targets, errs = append(targets, t), append(errs, err)
	}
	return targets, errors.Join(errs...)
}

// address is where to connect to, before names are resolved.
func (t target) address() string {
	if t.socket != "" {
		return t.socket
	}
	return net.JoinHostPort(t.name, t.port)
}

// authority is the Host of a request.
func (t target) authority() string {
	if t.port != defaultPorts[t.scheme] {
		return net.JoinHostPort(t.name, t.port)
	}
	if strings.Contains(t.name, ":") {
		return "[" + t.name + "]"
	}
	return t.name
}

// upstream is the address as reverse_proxy takes it.
func (t target) upstream() string {
	switch {
	case t.socket != "" && t.scheme == "h2c":
		return "unix+h2c/" + t.socket
	case t.socket != "":
		return "unix/" + t.socket
	case t.scheme == "http":
		return t.address()
	default:
		return t.scheme + "://" + t.address()
	}
}

// origin is the ASCII serialization of the target's origin (RFC 6454 section 6.2).
func (t target) origin() string { return t.scheme + "://" + t.authority() }

// parseResolve reads a --resolve flag, host:port:address[,address...], into the
// address it stands for and the ones to use instead.
func parseResolve(text string) (address string, with []string, err error) {
	fail := func(err error) (string, []string, error) {
		return "", nil, fmt.Errorf("reading --resolve '%s': must be <host>:<port>:<address>[,<address>...]: %w", text, err)
	}
	colon := strings.IndexByte(text, ':')
	if strings.HasPrefix(text, "[") {
		colon = strings.IndexByte(text, ']') + 1
	}
	if colon <= 0 || colon == len(text) {
		return fail(errors.New("there is no port"))
	}
	port, list, _ := strings.Cut(text[colon+1:], ":")
	name, err := hostname.ParseName(text[:colon])
	if err != nil {
		return fail(err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fail(fmt.Errorf("the port '%s' is not a number from 1 to 65535", port))
	}
	for item := range strings.SplitSeq(list, ",") {
		addr, err := netip.ParseAddr(strings.Trim(item, "[]"))
		if err != nil {
			return fail(err)
		}
		with = append(with, addr.Unmap().String())
	}
	return net.JoinHostPort(name, port), with, nil
}
