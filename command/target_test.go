package command

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestArguments: what is refused before anything is sent.
func TestArguments(t *testing.T) {
	for _, test := range []struct {
		command func(context.Context, []string, options) (int, error)
		urls    string
		want    string
	}{
		{keepAlive, "ftp://a.test", "reading URL 'ftp://a.test': the scheme must be http, https or h2c, not 'ftp'"},
		{keepAlive, "http://u:p@a.test", "reading URL 'http://u:p@a.test': user information is not allowed"},
		{keepAlive, "http://a.test:0", "reading URL 'http://a.test:0': the port '0' is not a number from 1 to 65535"},
		{keepAlive, "a.test:65536", "reading URL 'a.test:65536': the port '65536' is not a number from 1 to 65535"},
		{keepAlive, "http://", "reading URL 'http://': host '': the name is empty"},
		{keepAlive, "https://*.test", "reading URL 'https://*.test': host '*.test': a wildcard is not allowed here"},
		{keepAlive, "http://%zz", `reading URL 'http://%zz': parse "http://%zz": invalid URL escape "%zz"`},
		{keepAlive, "ftp://a ftp://b", "reading URL 'ftp://a': the scheme must be http, https or h2c, not 'ftp'\n" +
			"reading URL 'ftp://b': the scheme must be http, https or h2c, not 'ftp'"},
		{coalesce, "https://a.test http://b.test", "reading URL 'http://b.test': the scheme must be https, since clients share no other connections"},
		{coalesce, "https://a.test/x https://A.test:443/y", "reading URL 'https://A.test:443/y': 'https://a.test/x' is of the same origin, https://a.test"},
	} {
		code, err := test.command(t.Context(), strings.Fields(test.urls), options{stdout: io.Discard, stderr: io.Discard})
		if err == nil {
			err = errors.New("")
		}
		if code != exitUsage || err.Error() != test.want {
			t.Errorf("%s: code %d, %q; want %d, %q", test.urls, code, err, exitUsage, test.want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for _, test := range []struct{ text, scheme, address, authority, path, upstream string }{
		{"http://a.test", "http", "a.test:80", "a.test", "/", "a.test:80"},
		{"https://A.test.:8443/x?y=1#z", "https", "a.test:8443", "a.test:8443", "/x?y=1", "https://a.test:8443"},
		{"https://bücher.test//x", "https", "xn--bcher-kva.test:443", "xn--bcher-kva.test", "//x", "https://xn--bcher-kva.test:443"},
		{"https://[2001:DB8::1]", "https", "[2001:db8::1]:443", "[2001:db8::1]", "/", "https://[2001:db8::1]:443"},
		{"[::1]:3000", "http", "[::1]:3000", "[::1]:3000", "/", "[::1]:3000"},
		{"h2c://10.0.0.1:9000", "h2c", "10.0.0.1:9000", "10.0.0.1:9000", "/", "h2c://10.0.0.1:9000"},
		{"unix//run/app.sock", "http", "/run/app.sock", "localhost", "/", "unix//run/app.sock"},
		{"unix+h2c//run/app.sock", "h2c", "/run/app.sock", "localhost", "/", "unix+h2c//run/app.sock"},
	} {
		got, err := parseTarget(test.text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got.scheme != test.scheme || got.address() != test.address || got.authority() != test.authority ||
			got.url.RequestURI() != test.path || got.upstream() != test.upstream {
			t.Errorf("%s: %s %s %s %s %s, want %v", test.text, got.scheme, got.address(), got.authority(), got.url.RequestURI(), got.upstream(), test)
		}
	}
}

func TestParseResolve(t *testing.T) {
	for _, test := range []struct{ text, address, with, err string }{
		{"a.test:443:127.0.0.1", "a.test:443", "127.0.0.1", ""},
		{"A.test:443:127.0.0.1,::1,[::2]", "a.test:443", "127.0.0.1 ::1 ::2", ""},
		{"[::1]:443:127.0.0.1", "[::1]:443", "127.0.0.1", ""},
		{"a.test", "", "", "there is no port"},
		{"a.test:", "", "", "the port '' is not a number from 1 to 65535"},
		{"a.test:x:127.0.0.1", "", "", "the port 'x' is not a number from 1 to 65535"},
		{"a.test:443", "", "", `ParseAddr(""): unable to parse IP`},
		{"a.test:443:b.test", "", "", `ParseAddr("b.test"): unexpected character (at "b.test")`},
		{"*:443:127.0.0.1", "", "", "a wildcard is not allowed here"},
	} {
		address, with, err := parseResolve(test.text)
		text := ""
		if err != nil {
			text = strings.TrimPrefix(err.Error(), "reading --resolve '"+test.text+"': must be <host>:<port>:<address>[,<address>...]: ")
		}
		if address != test.address || strings.Join(with, " ") != test.with || text != test.err {
			t.Errorf("%s: %q %q %q, want %q", test.text, address, with, text, test)
		}
	}
}
