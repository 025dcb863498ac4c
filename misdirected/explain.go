package misdirected

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// explain says what the gate would do with a request for host on a new TLS
// connection with that SNI, both as they would be sent, rule by rule. It asks the
// rules themselves.
func (h *Handler) explain(s *authority.Snapshot, sni, host string) authority.Verdict {
	a := suppose(s, sni, host)
	v := authority.Verdict{Options: h.options(), AltSvc: h.explainAltSvc(s, &a)}
	found := undecided
	for i, step := range steps {
		rule := authority.Rule{Step: i + 1, Rule: step.rule, Outcome: "not reached"}
		if found == undecided {
			found = step.judge(&h.gate, s, a)
			rule.Outcome = found.outcome()
		}
		v.Rules = append(v.Rules, rule)
	}
	v.Status, v.Reason = found.Status(), found.String()
	v.ReportOnly = h.ReportOnly && found != TLSHidden
	return v
}

// outcome is what a rule comes to that finds a reason, in words.
func (r Reason) outcome() string {
	switch {
	case r == undecided:
		return "does not apply"
	case r.Status() == 0:
		return "passes: " + reasons[r].meaning
	}
	return fmt.Sprintf("refused with %d: %s", r.Status(), reasons[r].meaning)
}

// options is the configuration in one line, defaults included, as a Caddyfile
// has it.
func (h *Handler) options() string {
	parts := []string{"scope " + string(h.gate.scope), "missing_sni " + string(h.gate.missing)}
	for _, group := range h.Share {
		parts = append(parts, "share "+strings.Join(group, " "))
	}
	if gateways := describeGateways(h.TrustedGatewaysRaw); gateways != "" {
		parts = append(parts, "trusted_gateways "+gateways)
	}
	parts = append(parts, "alt_svc "+string(cmp.Or(h.AltSvc, AltSvcAuto)))
	for _, flag := range []struct {
		name string
		set  bool
	}{{"error_routes", h.ErrorRoutes}, {"close", h.Close}, {"report_only", h.ReportOnly}} {
		if flag.set {
			parts = append(parts, flag.name)
		}
	}
	return strings.Join(parts, ", ")
}
