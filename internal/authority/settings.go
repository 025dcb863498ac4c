package authority

import (
	"cmp"
	"encoding/json"

	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// settingsOf returns a copy of a policy's settings in which what is left out is as Caddy
// reads it, so that equal settings are equal however they are written. The matchers are no
// settings, and neither is default_sni.
func settingsOf(p *caddytls.ConnectionPolicy) caddytls.ConnectionPolicy {
	s := *p
	s.MatchersRaw, s.DefaultSNI = nil, ""
	switch {
	case s.ALPN == nil:
		s.ALPN = []string{"h2", "http/1.1"}
	case len(s.ALPN) == 0: // no protocol, which JSON would leave out
		s.ALPN = []string{""}
	}
	s.ProtocolMin, s.ProtocolMax = cmp.Or(s.ProtocolMin, "tls1.2"), cmp.Or(s.ProtocolMax, "tls1.3")
	s.HandshakeContextRaw = inOrder(s.HandshakeContextRaw)
	if s.ClientAuthentication == nil || !s.ClientAuthentication.Active() {
		s.ClientAuthentication = nil
		return s
	}
	auth := *s.ClientAuthentication
	auth.CARaw = inOrder(auth.CARaw)
	auth.VerifiersRaw = nil
	for _, raw := range s.ClientAuthentication.VerifiersRaw {
		auth.VerifiersRaw = append(auth.VerifiersRaw, inOrder(raw))
	}
	auth.Mode = cmp.Or(auth.Mode, map[bool]string{true: "require_and_verify", false: "require"}[verifies(&auth)])
	s.ClientAuthentication = &auth
	return s
}

// trustOf returns what of a client authentication says which certificates are good, of
// [settingsOf].
func trustOf(auth *caddytls.ClientAuthentication) caddytls.ClientAuthentication {
	trust := *auth
	trust.Mode = ""
	return trust
}

// inOrder returns JSON with the fields of its objects in order.
func inOrder(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw // Caddy refuses it
	}
	text, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return text
}
