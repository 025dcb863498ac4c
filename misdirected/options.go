package misdirected

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// Scope is a value of [Handler.Scope].
type Scope = authority.Scope

// The scopes.
const (
	ScopeSNI         = authority.ScopeSNI
	ScopeSite        = authority.ScopeSite
	ScopeCertificate = authority.ScopeCertificate
)

// MissingSNI is a value of [Handler.MissingSNI].
type MissingSNI string

// What to do with connections without SNI.
const (
	MissingSNISamePolicy MissingSNI = "same_policy"
	MissingSNIAccept     MissingSNI = "accept"
	MissingSNIReject     MissingSNI = "reject"
)

// AltSvc is a value of [Handler.AltSvc].
type AltSvc string

// What to do with Alt-Svc.
const (
	AltSvcAuto AltSvc = "auto"
	AltSvcKeep AltSvc = "keep"
)

// compile reads the configuration, trusted_gateways aside, and returns all that
// is wrong with it.
func (h *Handler) compile() (gate, error) {
	g := gate{scope: h.Scope, missing: h.MissingSNI}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch g.scope {
	case "":
		g.scope = ScopeSNI
	case ScopeSNI, ScopeSite, ScopeCertificate:
	default:
		fail("reading scope '%s': must be sni, site or certificate", g.scope)
	}
	switch g.missing {
	case "":
		g.missing = MissingSNISamePolicy
	case MissingSNISamePolicy, MissingSNIAccept, MissingSNIReject:
	default:
		fail("reading missing_sni '%s': must be same_policy, accept or reject", g.missing)
	}
	switch h.AltSvc {
	case "", AltSvcAuto, AltSvcKeep:
	default:
		fail("reading alt_svc '%s': must be auto or keep", h.AltSvc)
	}
	g.groups = shareGroups(h.Share, fail)
	if err := checkGateways(h.TrustedGatewaysRaw); err != nil {
		errs = append(errs, err)
	}
	return g, errors.Join(errs...)
}

// shareGroups returns the group of each name, from 1.
func shareGroups(share [][]string, fail func(format string, args ...any)) map[string]int {
	groups := make(map[string]int)
	for i, group := range share {
		if len(group) < 2 {
			fail("reading share group %v: must have at least two names", group)
		}
		for _, text := range group {
			if scheme, rest, ok := strings.Cut(text, "://"); ok {
				fail("reading share name '%s': must be an exact host name, without '%s://': write '%s'", text, scheme, strings.TrimSuffix(rest, "/"))
				continue
			}
			name, err := hostname.ParseName(text)
			switch {
			case err != nil:
				fail("reading share name '%s': must be an exact host name: %v", text, err)
			case groups[name] == i+1:
				fail("reading share name '%s': it is in its group twice", text)
			case groups[name] != 0:
				fail("reading share name '%s': it is in another group too", text)
			default:
				groups[name] = i + 1
			}
		}
	}
	return groups
}
