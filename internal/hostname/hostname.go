// Package hostname turns anything a host name can come from (SNI, Host,
// :authority, configuration, certificates) into one canonical name, so that
// two spellings of one host compare equal everywhere and nothing else does.
//
// A canonical name is a DNS name in lower case, as A-labels, without trailing
// dot, or the shortest text form of an IP address, without brackets.
package hostname

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// The errors say what is wrong, not with which value: they are made once, so
// that refusing hostile input costs nothing. Callers add the value.
var (
	errEmpty    = errors.New("the name is empty")
	errLength   = errors.New("the name is longer than 253 octets")
	errLabel    = errors.New("a label is empty or longer than 63 octets")
	errChar     = errors.New("only letters, digits, '-', '_' and '.' are allowed in a name")
	errPort     = errors.New("the port is not a number from 0 to 65535")
	errNoPort   = errors.New("a port is not allowed here")
	errIPv6     = errors.New("not an IPv6 address without zone")
	errIDNA     = errors.New("not a valid internationalised name")
	errWildcard = errors.New("a wildcard is not allowed here")
	errNotASCII = errors.New("not all of the name is ASCII")
	errSNI      = errors.New("a server name in TLS is a plain ASCII name without port or trailing dot")
)

// profile maps internationalised names as clients do before they look them up
// (UTS 46, non-transitional). Hyphens and lengths are checked by [Parse], which
// is laxer about the former: names like r3---sn are in use.
var profile = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.BidiRule(),
	idna.CheckHyphens(false),
	idna.StrictDomainName(false),
	idna.VerifyDNSLength(false),
)

// Parse returns the canonical name in authority, the host[:port] of a Host
// header field, an :authority or a URL (RFC 9110 section 4.2.3, RFC 3986
// section 3.2.2). An IPv6 address may stand with or without brackets. The port
// is checked and dropped. A name that is canonical already is returned
// without allocation.
//
// Parse is idempotent: a canonical name is its own canonical name.
func Parse(authority string) (string, error) {
	name, _, err := parse(authority)
	return name, err
}

// ParseName is [Parse] for names that come without port, such as those in a
// configuration. An explicit port is an error, and so is a wildcard.
func ParseName(s string) (string, error) {
	if strings.Contains(s, "*") {
		return "", errWildcard
	}
	name, port, err := parse(s)
	if err == nil && port {
		return "", errNoPort
	}
	return name, err
}

// ParseSNI returns the canonical form of a server name that a client sent in
// its TLS hello (RFC 6066 section 3). Only the letter case may differ from the
// result: it is tempting to forgive a port, a space or a U-label here as well,
// but Caddy chose TLS policy and certificate by the name as it was sent, each
// forgiving other things, so a forgiven name could claim a policy that the
// connection never got.
func ParseSNI(s string) (string, error) {
	name, _, err := parse(s)
	if err != nil {
		return "", err
	}
	if len(name) != len(s) || !strings.EqualFold(name, s) {
		return "", errSNI
	}
	return name, nil
}

// Routed returns what Caddy's host matchers compare of a Host: the name in it
// in lower case, without port and brackets, but spelled as it was sent
// (caddyhttp.MatchHost). It is not canonical: the matchers know neither trailing
// dots nor the forms of an IPv6 address.
func Routed(authority string) string {
	name, _, err := net.SplitHostPort(authority)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(authority, "["), "]")
	}
	return strings.ToLower(name)
}

// IsIP tells whether a canonical name is an IP address.
func IsIP(name string) bool {
	// every address ends in a hexadecimal digit or is the likes of "::"
	if name == "" {
		return false
	}
	if last := name[len(name)-1]; '0' <= last && last <= '9' || strings.Contains(name, ":") {
		_, err := netip.ParseAddr(name)
		return err == nil
	}
	return false
}

// Parent returns what is right of the left-most label of a canonical DNS name,
// which is what a certificate's wildcard for it must end in (RFC 9525 section
// 6.3: a wildcard stands for one whole left-most label). It is empty where no
// wildcard can match: for a single label and for an IP address.
func Parent(name string) string {
	_, parent, _ := strings.Cut(name, ".")
	if parent == "" || IsIP(name) {
		return ""
	}
	return parent
}

func parse(s string) (name string, port bool, err error) {
	host := s
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", false, errIPv6
		}
		host, s = s[1:end], s[end+1:]
		if s != "" {
			if s[0] != ':' {
				return "", false, errIPv6
			}
			port = true
		}
		if err := checkPort(strings.TrimPrefix(s, ":")); err != nil {
			return "", false, err
		}
		name, err = ipv6(host)
		return name, port, err
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		if strings.IndexByte(s[i+1:], ':') >= 0 {
			name, err = ipv6(s)
			return name, false, err
		}
		if err := checkPort(s[i+1:]); err != nil {
			return "", false, err
		}
		host, port = s[:i], true
	}
	name, err = dnsName(host)
	return name, port, err
}

// checkPort accepts *DIGIT (RFC 3986 section 3.2.3) within range; leading
// zeros are legal, and so is nothing at all.
func checkPort(s string) error {
	if s == "" {
		return nil
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return errPort
		}
	}
	if _, err := strconv.ParseUint(s, 10, 16); err != nil {
		return errPort
	}
	return nil
}

func ipv6(s string) (string, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", errIPv6
	}
	var buf [64]byte
	if text := addr.AppendTo(buf[:0]); string(text) != s {
		return string(text), nil
	}
	return s, nil
}

func dnsName(s string) (string, error) {
	if len(s) > 4*253 { // no name is longer in UTF-8 either
		return "", errLength
	}
	name, err := asciiName(s)
	if err == errNotASCII {
		ascii, err := profile.ToASCII(s)
		if err != nil || !utf8.ValidString(s) {
			return "", errIDNA
		}
		return asciiName(ascii)
	}
	return name, err
}

// What a byte is in a name.
const (
	invalid = iota
	plain
	upper
	dot
	notASCII
)

var class = func() (class [256]uint8) {
	for c := range class {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			class[c] = plain
		case 'A' <= c && c <= 'Z':
			class[c] = upper
		case c == '.':
			class[c] = dot
		case c >= utf8.RuneSelf:
			class[c] = notASCII
		}
	}
	return class
}()

func asciiName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "", errEmpty
	}
	label, hasUpper := 0, false
	for i := range len(s) {
		switch class[s[i]] {
		case plain:
		case upper:
			hasUpper = true
		case dot:
			if label == 0 {
				return "", errLabel
			}
			label = -1
		case notASCII:
			return "", errNotASCII
		default:
			return "", errChar
		}
		if label++; label > 63 {
			return "", errLabel
		}
	}
	switch {
	case label == 0:
		return "", errLabel
	case len(s) > 253:
		return "", errLength
	case hasUpper:
		return strings.ToLower(s), nil
	}
	return s, nil
}
