package authority

// A Scope says which hosts a guard lets pass besides the SNI itself and the
// names that its share groups put together with the SNI.
type Scope string

// The scopes, from the narrowest to the widest.
const (
	// ScopeSNI: no other host.
	ScopeSNI Scope = "sni"
	// ScopeSite: the hosts that Caddy routes to the same site as the SNI and
	// that have the same TLS connection policy.
	ScopeSite Scope = "site"
	// ScopeCertificate: the hosts that the certificate presented for the SNI
	// covers and that have the same TLS connection policy.
	ScopeCertificate Scope = "certificate"
)
