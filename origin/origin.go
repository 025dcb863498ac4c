package origin

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// httpsPort is left out of an origin (RFC 6454 section 6.2).
const httpsPort = 443

// An origin is one of scheme https.
type origin struct {
	name string // canonical
	port uint16
}

// parseOrigin reads an origin from the configuration: https://host[:port] and
// nothing else. ORIGIN frames have no wildcards (RFC 8336 section 2.2).
func parseOrigin(text string) (origin, error) {
	o, err := parse(text)
	if err != nil {
		return origin{}, fmt.Errorf("reading origin '%s': must be https://<host> or https://<host>:<port>: %w", text, err)
	}
	return o, nil
}

func parse(text string) (o origin, err error) {
	scheme, host, ok := strings.Cut(text, "://")
	switch {
	case !ok || !strings.EqualFold(scheme, "https"):
		return o, errors.New("the scheme must be https")
	case strings.Contains(host, "@"):
		return o, errors.New("user information is not allowed")
	case strings.ContainsAny(host, "/?#\\"):
		return o, errors.New("a path, a query or a fragment is not allowed")
	}
	o.port = httpsPort
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		port, err := strconv.ParseUint(host[colon+1:], 10, 16)
		if err != nil || port == 0 {
			return o, fmt.Errorf("the port '%s' is not a number from 1 to 65535", host[colon+1:])
		}
		host, o.port = host[:colon], uint16(port)
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return o, errors.New("an IPv6 address must be in brackets")
	}
	o.name, err = hostname.ParseName(host)
	return o, err
}

// append adds the ASCII serialization of o to b (RFC 6454 section 6.2).
func (o origin) append(b []byte) []byte {
	b = append(b, "https://"...)
	if strings.Contains(o.name, ":") {
		b = append(append(append(b, '['), o.name...), ']')
	} else {
		b = append(b, o.name...)
	}
	if o.port != httpsPort {
		b = strconv.AppendUint(append(b, ':'), uint64(o.port), 10)
	}
	return b
}

func (o origin) String() string {
	return string(o.append(nil))
}
