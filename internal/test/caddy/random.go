package caddy

import (
	"math/rand/v2"
	"strings"
)

// Random writes parts of random configurations of a server, as JSON.
type Random struct {
	*rand.Rand
	// Names are host names; the first four may be in share groups.
	Names []string
	// Patterns are what may stand in host matchers and TLS policies.
	Patterns []string
	// Looks are matchers for TLS policies, each with a comma in front, besides the list
	// of names or in its place. Most policies have none.
	Looks []string
}

// NewRandom returns one for these names and wildcards.
func NewRandom(seed uint64, names, wildcards []string) *Random {
	return &Random{rand.New(rand.NewPCG(seed, seed+1)), names, append(append([]string(nil), wildcards...), names...), nil}
}

// Pick returns one of these.
func (r *Random) Pick(from ...string) string { return from[r.IntN(len(from))] }

// Few returns one or more of these, most at most.
func (r *Random) Few(from []string, most int) (list []string) {
	for _, i := range r.Perm(len(from))[:1+r.IntN(most)] {
		list = append(list, from[i])
	}
	return list
}

// Some is such a list.
func (r *Random) Some(from []string, most int) string { return List(r.Few(from, most)) }

// List writes names as JSON.
func List(names []string) string { return `["` + strings.Join(names, `","`) + `"]` }

// Guard is a misdirected handler with a scope, perhaps a share group, and perhaps
// one of the options, and a comma behind it.
func (r *Random) Guard(options ...string) string {
	share := ""
	if r.IntN(4) == 0 {
		share = `,"share":[["` + r.Names[0] + `","` + r.Names[1+r.IntN(3)] + `"]]`
	}
	return `{"handler":"misdirected","scope":"` + r.Pick("sni", "site", "certificate") + `"` + share + r.Pick(append(options, "")...) + `},`
}

// Blocks are what a Caddyfile's handle blocks become: one for some hosts, and one for
// the others.
func (r *Random) Blocks(handlers, others string) string {
	return `{"handler":"subroute","routes":[{"group":"` + r.Pick("g", "h") + `","match":[{"host":` + r.Some(append(r.Patterns[:4:4], r.Names...), 3) + `}],"handle":[` + handlers + `]},` +
		`{"group":"g","handle":[` + others + `]}]}`
}

// Policies are TLS connection policies, the last of them for every name. Each may
// have one of the settings besides.
func (r *Random) Policies(settings ...string) string {
	var policies []string
	for range r.IntN(4) {
		policies = append(policies, `{"match":{`+r.match()+`}`+
			r.Pick(append(settings, "", `,"client_authentication":{"mode":"require"}`, `,"client_authentication":{"mode":"request"}`, `,"alpn":["h2","http/1.1","h3"]`)...)+`}`)
	}
	policies = append(policies, r.Pick(`{}`, `{}`, `{"client_authentication":{"mode":"require"}}`))
	return `"tls_connection_policies":[` + strings.Join(policies, ",") + `]`
}

// match is what a TLS policy goes by.
func (r *Random) match() string {
	match := `,"sni":` + r.Some(append(r.Patterns, r.Pick(r.Patterns...)), 3)
	if len(r.Looks) > 0 && r.IntN(3) == 0 {
		look := r.Pick(r.Looks...)
		match = r.Pick(look, look+match)
	}
	return match[1:]
}
