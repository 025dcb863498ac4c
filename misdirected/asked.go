package misdirected

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A kind says what a client sent as a name.
type kind uint8

const (
	absent kind = iota
	invalid
	valid
)

// A name is what a client sent as a name, in its TLS hello or in its request.
type name struct {
	kind      kind
	sent      string
	canonical string // if it is valid
}

// parseSNI reads a server name. An invalid one equals no host, but it is not a
// missing one: it did select a policy and a certificate, in ways that no lookup
// here can follow.
func parseSNI(sent string) name {
	if sent == "" {
		return name{}
	}
	canonical, err := hostname.ParseSNI(sent)
	if err != nil {
		return name{kind: invalid, sent: sent}
	}
	return name{valid, sent, canonical}
}

func parseHost(sent string) name {
	if sent == "" {
		return name{}
	}
	canonical, err := hostname.Parse(sent)
	if err != nil {
		return name{kind: invalid, sent: sent}
	}
	return name{valid, sent, canonical}
}

// A layer says what is known of the TLS connection of a request.
type layer uint8

const (
	overTLS   layer = iota
	noTLS           // its listener has none
	hiddenTLS       // its listener has it, and a listener wrapper hides it
)

// asked is a request as the decision looks at it. All names in it are parsed once.
type asked struct {
	r     *http.Request
	layer layer
	sni   name
	// host is the host as net/http has it: of the request target if that has
	// one, else :authority, else Host (RFC 9112 section 3.2.2, RFC 9113
	// section 8.3.1).
	host name
	// odd: Caddy routes the host, as it was sent, elsewhere than its canonical
	// name. Such a request is judged as one host and would be answered as another.
	odd bool
	// two: a Host field next to :authority names another host.
	two bool
	// forward: the request has the form of one to a forward proxy, a plain CONNECT
	// or an absolute URL in HTTP/1.
	forward bool
	// http10 may come without a host.
	http10 bool
	// shown is what the connection shows of its client, as far as that is worth
	// something for the host. Where only the rules are asked it is what it must show.
	shown authority.Proof
	// anonymous: that is no client certificate, or one that no CA has signed where the
	// host's TLS policy trusts none without. foreign: there is one that the host's TLS
	// policy might not have let in.
	anonymous, foreign bool
}

// read takes from a request what the decision looks at.
func read(s *authority.Snapshot, server *authority.Server, r *http.Request) asked {
	if r.TLS == nil {
		a := asked{r: r, layer: noTLS, host: name{sent: r.Host}}
		if !server.Plain(r) {
			a.layer = hiddenTLS
		}
		return a
	}
	a := asked{
		r:       r,
		sni:     parseSNI(r.TLS.ServerName),
		forward: forward(r),
		http10:  r.ProtoMajor == 1 && r.ProtoMinor == 0,
	}
	if a.sni.kind == valid && r.Host == a.sni.sent {
		a.host = a.sni
		a.odd = a.sni.sent != a.sni.canonical && s.DiscernsCase()
	} else {
		a.host = parseHost(r.Host)
		a.odd = a.host.kind == valid && misrouted(s, a.host)
	}
	a.show(s, authority.ProofOf(r.TLS), r.TLS.VerifiedChains)
	if r.ProtoMajor > 1 { // net/http has compared the fields of HTTP/1 itself
		for _, field := range r.Header["Host"] {
			other := parseHost(field)
			a.two = a.two || other.kind != valid || other.canonical != a.host.canonical
		}
	}
	return a
}

// forward tells whether a request has the form of one to a forward proxy.
func forward(r *http.Request) bool {
	switch {
	case r.URL.Host == "": // such as "GET x:y", whose host is that of the Host field
		return false
	case r.Method == http.MethodConnect:
		// Extended CONNECT (RFC 8441, RFC 9220) is no request to a proxy. The
		// :protocol is a field in x/net, and the protocol itself in quic-go.
		return len(r.Header[":protocol"]) == 0 && strings.HasPrefix(r.Proto, "HTTP/")
	}
	return r.ProtoMajor == 1
}

// early tells whether the request is early data (RFC 9001 section 4.6.1). A request
// that only the rules are asked about is none.
func (a *asked) early() bool { return a.r != nil && a.r.TLS != nil && !a.r.TLS.HandshakeComplete }

// misrouted tells whether Caddy may take a host, as it was sent, for another one than
// its canonical name.
func misrouted(s *authority.Snapshot, host name) bool {
	if host.sent == host.canonical {
		return false
	}
	if len(host.sent) == len(host.canonical) && strings.EqualFold(host.sent, host.canonical) {
		return s.DiscernsCase()
	}
	if routed := hostname.Routed(host.sent); routed != host.canonical {
		return s.DiscernsSpelling() || !s.SameRoutes(routed, host.canonical)
	}
	return s.DiscernsCase() && !strings.Contains(host.sent, host.canonical)
}

// nobody is the other end of a connection that explain makes up: an address that
// no client has (RFC 1112 section 4).
const nobody = "240.0.0.1:1024"

// suppose returns a request for host on a new connection with that SNI, both as
// they would be sent. Without a host it is one of HTTP/1.0, which needs none.
func suppose(s *authority.Snapshot, sni, host string) asked {
	minor := 1
	if host == "" {
		minor = 0
	}
	a := read(s, nil, &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/"}, ProtoMajor: 1, ProtoMinor: minor,
		Header: make(http.Header), Host: host, RemoteAddr: nobody,
		TLS: &tls.ConnectionState{ServerName: sni, HandshakeComplete: true},
	})
	a.suppose(s)
	return a
}

// show lets the connection show something of its client, and the chains of its
// certificate, if it has come.
func (a *asked) show(s *authority.Snapshot, shown authority.Proof, chains [][]*x509.Certificate) {
	a.shown = shown
	if a.host.kind == valid {
		a.shown = s.Worth(shown, a.sni.canonical, a.host.canonical)
		if len(chains) > 0 && !s.Signed(chains, a.host.canonical) {
			a.shown = authority.NoCert
		}
	}
	a.foreign = a.shown != shown
	a.anonymous = a.shown == authority.NoCert || a.shown == authority.AnyCert && a.host.kind == valid && s.VerifiesClientCert(a.host.canonical)
}

// suppose lets the client show what the policy for its SNI requires.
func (a *asked) suppose(s *authority.Snapshot) {
	required := authority.NoCert
	if a.sni.kind != invalid {
		required = s.Requires(a.r, a.sni.canonical)
	}
	a.show(s, required, nil)
}

// decidedOn is the name of the host in words for an operator: the canonical one,
// or as the client sent it where that is what counts.
func (a *asked) decidedOn() string {
	if a.host.kind != valid || a.odd {
		return a.host.sent
	}
	return a.host.canonical
}

// keepsClientAuth tells whether the request, if it passes, leads around no
// client-certificate rule.
func (a *asked) keepsClientAuth(s *authority.Snapshot) bool {
	host := a.host.canonical
	switch {
	case a.host.kind != valid || a.odd:
		return !s.AsksAnybody()
	case a.anonymous && s.Barred(host):
		return false
	case a.sni.kind == invalid:
		return s.Open(host)
	}
	return s.KeepsClientAuth(a.sni.canonical, host)
}
