package authority

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// Caddy refuses a few requests before any handler runs, and hands them to the error
// routes: such as those with a method longer than 32 characters, or with an odd port in
// :authority. No guard of a site has judged these.

// earlyErrors are the statuses that such requests get.
var earlyErrors = []int{http.StatusMethodNotAllowed, http.StatusBadRequest}

// later tells whether an error route runs for none of these.
func later(route *caddyhttp.Route) bool {
	for _, status := range earlyErrors {
		if canMatch(route.MatcherSets, failedRequest(status)) {
			return false
		}
	}
	return true
}

// An exposure is what error routes give away of a site to requests that no guard has
// judged.
type exposure uint8

const (
	nothing  exposure = iota
	files             // those that the request asks for
	upstream          // whatever an upstream answers
)

// errorsExpose tells what the error routes give away of a host, where no guard stands in
// front.
func (gs *guards) errorsExpose(host string) (exposed exposure) {
	if gs.errors == nil {
		return nothing
	}
	rewritten := false
	w := walk{host: host, early: true, sees: func(s *step, certain bool) bool {
		if s.guard != nil {
			return false
		}
		switch h := s.handler.(type) {
		case *rewrite.Rewrite:
			rewritten = rewritten || certain && fixed(h.URI)
		default:
			switch moduleID(h) {
			case "http.handlers.reverse_proxy":
				exposed = upstream
			case "http.handlers.file_server":
				if !rewritten {
					exposed = max(exposed, files)
				}
			}
		}
		return exposed != upstream
	}}
	w.list(gs.errors, true, nil)
	return exposed
}

// fixed tells whether a rewrite leads to an error page, whatever was asked for.
func fixed(uri string) bool {
	for _, p := range placeholder.FindAllString(uri, -1) {
		if !strings.HasPrefix(p, "{http.error.") {
			return false
		}
	}
	return uri != ""
}
