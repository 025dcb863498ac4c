package misdirected

import (
	"fmt"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// steps are the rules of the decision, by their number.
var steps = [...]string{
	1: "no TLS, or a request to a forward proxy: passes",
	2: "the peer is one of trusted_gateways: passes",
	3: "the host is missing, invalid, ambiguous or oddly spelled: 400",
	4: "no SNI: as missing_sni says",
	5: "host and SNI are equal: passes",
	6: "one share group has both: passes",
	7: "else as scope says",
}

// explain says what the gate would do with a request for host on a TLS connection
// with that SNI, both as they would be sent, by a client that is no trusted
// gateway, rule by rule. It asks the decision itself.
func (h *Handler) explain(s *authority.Snapshot, sni, host string) authority.Verdict {
	peer := h.gate
	peer.gateways = nil
	reason, _ := peer.decide(s, &request{tls: true, sni: sni, host: host})
	decided := reasons[reason]

	v := authority.Verdict{
		Status:     reason.Status(),
		Reason:     reason.String(),
		ReportOnly: h.ReportOnly,
		Options:    h.options(),
	}
	for step := 1; step < len(steps); step++ {
		rule := authority.Rule{Step: step, Rule: steps[step]}
		switch {
		case step < decided.step:
			rule.Outcome = "does not apply"
		case step > decided.step:
			rule.Outcome = "not reached"
		case decided.status == 0:
			rule.Outcome = "passes: " + decided.meaning
		default:
			rule.Outcome = fmt.Sprintf("refused with %d: %s", decided.status, decided.meaning)
		}
		v.Rules = append(v.Rules, rule)
	}
	return v
}

// options is the configuration in one line, defaults included, as a Caddyfile
// has it.
func (h *Handler) options() string {
	parts := []string{"scope " + string(h.gate.scope), "missing_sni " + string(h.gate.missing)}
	for _, group := range h.Share {
		parts = append(parts, "share "+strings.Join(group, " "))
	}
	if len(h.TrustedGateways) > 0 {
		parts = append(parts, "trusted_gateways "+strings.Join(h.TrustedGateways, " "))
	}
	if h.ReportOnly {
		parts = append(parts, "report_only")
	}
	return strings.Join(parts, ", ")
}
