package origin

import (
	"strings"
	"testing"
)

// O3 RFC 6454 6.2, RFC 8336 B; O4 RFC 8336 2.2.
//
// Checklist: O3, O4.
func TestOriginsFromText(t *testing.T) {
	for _, test := range []struct {
		in, want, err string
	}{
		{in: "https://a.test", want: "https://a.test"},
		{in: "https://a.test:443", want: "https://a.test"},
		{in: "https://a.test:0443", want: "https://a.test"},
		{in: "https://a.test:8443", want: "https://a.test:8443"},
		{in: "https://a.test:80", want: "https://a.test:80"},
		{in: "HTTPS://A.Test:65535", want: "https://a.test:65535"},
		{in: "https://a.test.", want: "https://a.test"},
		{in: "https://bücher.test", want: "https://xn--bcher-kva.test"},
		{in: "https://my_host.test", want: "https://my_host.test"},
		{in: "https://127.0.0.1:1", want: "https://127.0.0.1:1"},
		{in: "https://[::1]", want: "https://[::1]"},
		{in: "https://[2001:DB8:0:0::A]:8443", want: "https://[2001:db8::a]:8443"},

		{in: "", err: "scheme"},
		{in: "a.test", err: "scheme"},
		{in: "//a.test", err: "scheme"},
		{in: "http://a.test", err: "scheme"},
		{in: "wss://a.test", err: "scheme"},
		{in: "https:a.test", err: "scheme"},
		{in: "https://", err: "the name is empty"},
		{in: "https://:443", err: "the name is empty"},
		{in: "https://*", err: "wildcard"},
		{in: "https://*.a.test", err: "wildcard"},
		{in: "https://a.*.test:8443", err: "wildcard"},
		{in: "https://a.test/", err: "a path"},
		{in: "https://a.test/x", err: "a path"},
		{in: "https://a.test?x", err: "a path"},
		{in: "https://a.test#x", err: "a path"},
		{in: `https://a.test\x`, err: "a path"},
		{in: "https://u@a.test", err: "user information"},
		{in: "https://u:p@a.test:443", err: "user information"},
		{in: "https://a.test:", err: "the port ''"},
		{in: "https://a.test:0", err: "the port '0'"},
		{in: "https://a.test:65536", err: "the port '65536'"},
		{in: "https://a.test:-1", err: "the port '-1'"},
		{in: "https://a.test:https", err: "the port 'https'"},
		{in: "https://a b.test", err: "only letters"},
		{in: "https://a..test", err: "label"},
		{in: "https://https://a.test", err: "a path"},
		{in: "https://2001:db8::1:443", err: "in brackets"},
		{in: "https://::1", err: "in brackets"},
		{in: "https://[::1", err: "IPv6"},
		{in: "https://[::1]x", err: "IPv6"},
		{in: "https://[a.test]", err: "IPv6"},
	} {
		got, err := parseOrigin(test.in)
		switch {
		case test.err == "" && (err != nil || got.String() != test.want):
			t.Errorf("%q = %q, %v; want %q", test.in, got, err, test.want)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err) || !strings.HasPrefix(err.Error(), "reading origin '"+test.in+"'")):
			t.Errorf("%q: error = %v, want one with its value and %q", test.in, err, test.err)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	for _, seed := range []string{
		"https://a.test", "https://A.test:0443", "https://[::1]:8443", "https://[2001:DB8::]", "https://bücher.test.:1",
		"https://u@a.test", "https://*.test", "https://a.test/", "http://a.test", "https://2001:db8::1:443", "https://[::ffff:1.2.3.4]",
		"https://a.test:\n", "https://127.1:65535",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseOrigin(text)
		if err != nil {
			return
		}
		canonical := o.String()
		if again, err := parseOrigin(canonical); err != nil || again != o {
			t.Errorf("%q is %q, which is %q, %v", text, canonical, again, err)
		}
		rest, ok := strings.CutPrefix(canonical, "https://")
		if !ok || strings.ContainsAny(rest, "/?#@*\\ ") || canonical != strings.ToLower(canonical) || strings.HasSuffix(canonical, ":443") && !strings.HasSuffix(canonical, "::443") {
			t.Errorf("%q is %q", text, canonical)
		}
		for i := range len(canonical) {
			if canonical[i] <= ' ' || canonical[i] > '~' {
				t.Errorf("%q is %q", text, canonical)
			}
		}
	})
}
