package misdirected

import (
	"fmt"
	"net/http"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// clearAltSvc is the field value of RFC 7838 section 4. Responses share it: who
// appends to it gets a copy.
var clearAltSvc = []string{"clear"}[:1:1]

// astray tells whether HTTP/3 would lead clients into refusals here, so that the
// site must offer none.
//
// Browsers pool QUIC connections by address and certificate, and an ORIGIN frame
// does not keep them from it. After a 421 they ask again over TCP, but Chromium
// leaves the host mapped to the QUIC connection and begins there the next time.
// So a host offers no HTTP/3 if it is refused on connections of others, and
// neither does one whose own connections are taken for a host that is refused
// there, nor one that is asked for on such a connection. Where the certificate is not
// known, HTTP/3 stays.
func astray(s *authority.Snapshot, a *asked) (found authority.Refusal) {
	offers := a.host.kind == valid && !a.odd
	if offers && a.sni.kind == valid && a.sni.canonical == a.host.canonical {
		return s.Astray(a.host.canonical) // what nearly every request comes to
	}
	if a.sni.kind == valid {
		found = s.Refuses(a.sni.canonical)
	}
	// What is offered is offered for the host, on a connection whose SNI is the host.
	if offers && found.Answer != authority.Yes {
		found = found.Or(s.Astray(a.host.canonical))
	}
	return found
}

// setAltSvc sets the field for a request that passes. Caddy has set its own by now,
// and reverse_proxy takes that of an upstream away.
func (h *Handler) setAltSvc(w http.ResponseWriter, s *authority.Snapshot, a *asked) {
	if !h.guard.KeepsAltSvc && a.layer == overTLS && h.server.HTTP3() && astray(s, a).Answer == authority.Yes {
		w.Header()["Alt-Svc"] = clearAltSvc
	}
}

// explainAltSvc says what becomes of the field, and why.
func (h *Handler) explainAltSvc(s *authority.Snapshot, a *asked) string {
	switch found := astray(s, a); {
	case h.guard.KeepsAltSvc:
		return "kept: alt_svc is keep"
	case !h.server.HTTP3():
		return "kept: the server offers no HTTP/3"
	case found.Answer == authority.Yes:
		return fmt.Sprintf("clear: the certificate for %s covers %s, which is refused there", found.SNI, found.Host)
	case found.Answer == authority.Unknown:
		return "kept: the certificate is not known"
	}
	return "kept: no certificate leads requests to where they are refused"
}
