package authority

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Caddy's host matchers know one spelling of a host for another: letter case makes no
// difference to them, but a trailing dot does, and so do the forms of an IPv6 address.
// To other matchers each spelling is a host of its own. A site that is there for all
// hosts but one, by `not host` or by an expression, is then there for that one as well
// if it is spelled in another way. This matters where connections for hosts are kept
// apart by client certificates or by dropping some of them.

// A spelled says what some matcher or handler tells apart of one host.
type spelled struct {
	forms   bool // anything but the letter case and the port
	letters bool // the letter case
	// names are those that matchers and handlers compare hosts with, host matchers aside.
	names map[string]struct{}
}

// DiscernsSpelling tells whether a host that is not spelled as its canonical name, case
// and port aside, may be led to a site that connections for the canonical name are kept
// from.
func (s *Snapshot) DiscernsSpelling() bool { return s.walled && s.guards.spelled.forms }

// DiscernsCase is [Snapshot.DiscernsSpelling] for the letter case.
func (s *Snapshot) DiscernsCase() bool { return s.walled && s.guards.spelled.letters }

// byMatchers adds what matchers tell apart. Host matchers outside of `not` are looked at
// elsewhere ([Snapshot.SameRoutes]).
func (sp *spelled) byMatchers(sets caddyhttp.MatcherSets, negated bool) {
	for _, set := range sets {
		for _, matcher := range set {
			id := moduleID(matcher)
			switch not, ok := matcher.(*caddyhttp.MatchNot); {
			case ok:
				sp.byMatchers(not.MatcherSets, true)
			case id == "http.matchers.host":
				sp.forms = sp.forms || negated
			case !slices.Contains(hostBlind, id):
				sp.byHost(matcher)
			}
		}
	}
}

// byHandler adds what a handler tells apart.
func (sp *spelled) byHandler(handler caddyhttp.MiddlewareHandler) {
	if slices.Contains(mappers, moduleID(handler)) {
		sp.byHost(handler)
	}
}

// byHost adds what a module tells apart if its configuration has to do with the host of
// requests.
func (sp *spelled) byHost(module any) {
	text, err := json.Marshal(module)
	text = bytes.ToLower(text)
	if err == nil && !aHost.Match(text) {
		return
	}
	sp.forms, sp.letters = true, true
	for _, name := range aName.FindAllString(string(text), -1) {
		if sp.names == nil {
			sp.names = make(map[string]struct{})
		}
		sp.names[name] = struct{}{}
	}
}

// hostBlind are matchers that look at no host.
var hostBlind = []caddy.ModuleID{
	"http.matchers.protocol", "http.matchers.method", "http.matchers.path", "http.matchers.path_regexp",
	"http.matchers.query", "http.matchers.remote_ip", "http.matchers.client_ip", "http.matchers.tls",
}

// mappers are handlers that set by a request what other matchers and handlers go by.
var mappers = []caddy.ModuleID{"http.handlers.map", "http.handlers.vars"}

// aHost finds the host of a request in a lower-case configuration: as a placeholder, a
// header field, or in a call.
var aHost = regexp.MustCompile(`request\.host|header\.host|["'\\]host["'\\]|\bhost\(`)

// aName finds what may be a host name there.
var aName = regexp.MustCompile(`[a-z0-9_-]+(\.[a-z0-9_-]+)+`)
