package hostname

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long, han := strings.Repeat("a", 63), strings.Repeat("中", 30)
	for _, test := range []struct {
		in, want string
		err      error
	}{
		// M12, RFC 9110 4.3.1: one host, whatever its spelling
		{in: "a.test", want: "a.test"},
		{in: "A.TEST", want: "a.test"},
		{in: "a.test.", want: "a.test"},
		{in: "a.test:443", want: "a.test"},
		{in: "a.test:0443", want: "a.test"},
		{in: "a.test:", want: "a.test"},
		{in: "a.test.:8443", want: "a.test"},
		{in: "bücher.test", want: "xn--bcher-kva.test"},
		{in: "BÜCHER.test", want: "xn--bcher-kva.test"},
		{in: "xn--bcher-kva.test", want: "xn--bcher-kva.test"},
		{in: "faß.test", want: "xn--fa-hia.test"},
		{in: "a。test", want: "a.test"},
		{in: "my_host.test", want: "my_host.test"},
		{in: "r3---sn-x.test", want: "r3---sn-x.test"},
		{in: "-a-.test", want: "-a-.test"},
		{in: "localhost", want: "localhost"},
		{in: strings.Repeat(han+".", 3) + "test", want: strings.Repeat("xn--fiq"+strings.Repeat("a", 29)+".", 3) + "test"}, // 274 octets, 115 of them after all
		{in: "127.0.0.1", want: "127.0.0.1"},
		{in: "127.0.0.1:443", want: "127.0.0.1"},
		{in: "[::1]", want: "::1"},
		{in: "[::1]:443", want: "::1"},
		{in: "::1", want: "::1"},
		{in: "[0:0:0:0:0:0:0:1]:443", want: "::1"},
		{in: "[2001:DB8::A]", want: "2001:db8::a"},
		{in: long + "." + long + "." + long + "." + long[:61], want: long + "." + long + "." + long + "." + long[:61]},

		{in: "", err: errEmpty},
		{in: ".", err: errEmpty},
		{in: ":443", err: errEmpty},
		{in: "a..test", err: errLabel},
		{in: ".a.test", err: errLabel},
		{in: "a.test..", err: errLabel},
		{in: long + "a.test", err: errLabel},
		{in: long + "." + long + "." + long + "." + long[:62], err: errLength},
		{in: "a b.test", err: errChar},
		{in: " a.test", err: errChar},
		{in: "a.test\x00", err: errChar},
		{in: "a.test\n", err: errChar},
		{in: "a/b.test", err: errChar},
		{in: "u@a.test", err: errChar},
		{in: "%61.test", err: errChar},
		{in: "*.test", err: errChar},
		{in: "a.test:http", err: errPort},
		{in: "a.test:+443", err: errPort},
		{in: "a.test:65536", err: errPort},
		{in: "a.test:99999999999999999999", err: errPort},
		{in: "[::1", err: errIPv6},
		{in: "[::1]443", err: errIPv6},
		{in: "[a.test]:443", err: errIPv6},
		{in: "[127.0.0.1]", err: errIPv6},
		{in: "[fe80::1%25eth0]", err: errIPv6},
		{in: "fe80::1%eth0", err: errIPv6},
		{in: "a:b:c", err: errIPv6},
		{in: "[::1]:x", err: errPort},
		{in: "xn--ü.test", err: errIDNA},
		{in: "a\xff.test", err: errIDNA},
		{in: "℀.test", err: errChar}, // maps to a/c
	} {
		got, err := Parse(test.in)
		if got != test.want || !errors.Is(err, test.err) || test.err == nil && err != nil {
			t.Errorf("Parse(%q) = %q, %v; want %q, %v", test.in, got, err, test.want, test.err)
		}
	}
}

func TestParseName(t *testing.T) {
	for _, test := range []struct {
		in, want string
		err      error
	}{
		{in: "A.test.", want: "a.test"},
		{in: "::1", want: "::1"},
		{in: "[::1]", want: "::1"},
		{in: "a.test:443", err: errNoPort},
		{in: "[::1]:443", err: errNoPort},
		{in: "*.test", err: errWildcard},
		{in: "f*.test", err: errWildcard},
		{in: "", err: errEmpty},
	} {
		got, err := ParseName(test.in)
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("ParseName(%q) = %q, %v; want %q, %v", test.in, got, err, test.want, test.err)
		}
	}
}

// Caddy selects policy and certificate by the name as sent, so nothing but
// letter case is forgiven.
func TestParseSNI(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"a.test", "a.test"},
		{"A.Test", "a.test"},
		{"127.0.0.1", "127.0.0.1"},
		{"::1", "::1"},
		{"a.test:443", ""},
		{"a.test.", ""},
		{" a.test", ""},
		{"bücher.test", ""},
		{"a.teſt", ""}, // folds to s, which is not what Caddy compared
		{"[::1]", ""},
		{"0::1", ""},
		{"*.test", ""},
		{"", ""},
	} {
		got, err := ParseSNI(test.in)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("ParseSNI(%q) = %q, %v; want %q", test.in, got, err, test.want)
		}
	}
}

func TestIsIPAndParent(t *testing.T) {
	for _, test := range []struct {
		name   string
		ip     bool
		parent string
	}{
		{"a.b.test", false, "b.test"},
		{"test", false, ""},
		{"", false, ""},
		{"127.0.0.1", true, ""},
		{"::1", true, ""},
		{"2001:db8::a", true, ""},
		{"::", true, ""},
		{"a.1", false, "1"},
		{"1.2.3.4.5", false, "2.3.4.5"},
	} {
		if got := IsIP(test.name); got != test.ip {
			t.Errorf("IsIP(%q) = %t", test.name, got)
		}
		if got := Parent(test.name); got != test.parent {
			t.Errorf("Parent(%q) = %q, want %q", test.name, got, test.parent)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"a.test", "A.TEST.:0443", "[::1]:443", "::FFFF:1.2.3.4", "bücher.test", "a。test", "xn--bcher-kva.test",
		"a..b", ":", "[", "]", "[]", "a:b:c", "faß.de", "\xff", "ẞ.test", "İ.test", "1.2.3.4.", "a.test:",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := Parse(s)
		if err != nil {
			if name != "" {
				t.Fatalf("Parse(%q) = %q with error %v", s, name, err)
			}
			return
		}
		for i := range len(name) {
			if c := name[i]; c <= ' ' || c >= 0x7f || 'A' <= c && c <= 'Z' {
				t.Fatalf("Parse(%q) = %q, which is not canonical", s, name)
			}
		}

		equal := map[string]string{"the result itself": name}
		if strings.Contains(name, ":") {
			equal["brackets"] = "[" + name + "]"
			equal["brackets and port"] = "[" + name + "]:0443"
		} else {
			equal["port"] = name + ":443"
			equal["port with zeros"] = name + ":0443"
			equal["trailing dot"] = name + "."
			equal["trailing dot and port"] = name + ".:443"
		}
		equal["capitals"] = strings.ToUpper(name)
		for what, other := range equal {
			if got, err := Parse(other); got != name || err != nil {
				t.Errorf("Parse(%q) = %q, but with %s %q = %q, %v", s, name, what, other, got, err)
			}
		}
		if got, err := ParseSNI(name); got != name || err != nil {
			t.Errorf("ParseSNI(%q) = %q, %v", name, got, err)
		}
		if got, err := ParseName(name); got != name || err != nil {
			t.Errorf("ParseName(%q) = %q, %v", name, got, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for name, in := range map[string]string{
		"canonical":   "www.example.com",
		"port":        "www.example.com:443",
		"capitals":    "WWW.example.com",
		"ipv6":        "[2001:db8::1]:443",
		"invalid":     "a b.example.com",
		"hostile 1MB": strings.Repeat("a", 1<<20),
		"hostile dot": strings.Repeat(".", 1<<20),
		"U-label":     "bücher.example.com",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Parse(in)
			}
		})
	}
}
