package authority

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A refusal only helps if it reaches the client as it is: another status tells
// nobody to ask again on another connection, and an upstream that answers in an
// error route answers the very request that was refused.

// changing tells of each top-level error route, by its index, whether it may give a
// 421 another status.
func changing(srv *caddyhttp.Server) []bool {
	if srv.Errors == nil {
		return nil
	}
	r := failedRequest(http.StatusMisdirectedRequest)
	routes := make([]bool, len(srv.Errors.Routes))
	for i := range srv.Errors.Routes {
		routes[i] = routeChanges(srv, &srv.Errors.Routes[i], r, make(map[string]bool))
	}
	return routes
}

// routeChanges tells it of one route. Each named route is looked at once: those in met
// have been, or are around this one.
func routeChanges(srv *caddyhttp.Server, route *caddyhttp.Route, r *http.Request, met map[string]bool) bool {
	if !canMatch(route.MatcherSets, r) {
		return false
	}
	for _, handler := range route.Handlers {
		var inner caddyhttp.RouteList
		switch h := handler.(type) {
		case *caddyhttp.Subroute:
			inner = h.Routes
		case *caddyhttp.Invoke:
			if named, ok := srv.NamedRoutes[h.Name]; ok && !met[h.Name] {
				met[h.Name] = true
				inner = caddyhttp.RouteList{*named}
			}
		default:
			if handlerChanges(handler) {
				return true
			}
		}
		for i := range inner {
			if routeChanges(srv, &inner[i], r, met) {
				return true
			}
		}
	}
	return false
}

// handlerChanges tells whether a handler in an error route sets a status of its own
// for a 421.
func handlerChanges(handler caddyhttp.MiddlewareHandler) bool {
	switch h := handler.(type) {
	case *caddyhttp.StaticResponse:
		return h.Abort || !keepsStatus(h.StatusCode.String())
	case *fileserver.FileServer:
		return !keepsStatus(h.StatusCode.String())
	case *reverseproxy.Handler, *caddyhttp.StaticError:
		return true
	}
	return false
}

// keepsStatus tells whether a status is that of the error, which is the default in
// error routes.
func keepsStatus(status string) bool {
	return status == "" || strings.Contains(status, "http.error.status_code") || status == strconv.Itoa(http.StatusMisdirectedRequest)
}

var (
	placeholder = regexp.MustCompile(`\{[^}]*\}`)
	// call is one of a function in an expression: most look at the request.
	call = regexp.MustCompile(`\w\(`)
)

// canMatch tells whether matchers may match a request that failed. Those of
// handle_errors with status codes depend on nothing else than that status, so they are
// asked.
func canMatch(sets caddyhttp.MatcherSets, failed *http.Request) bool {
	if len(sets) == 0 {
		return true
	}
	for _, set := range sets {
		can := true
		for _, matcher := range set {
			m, ok := matcher.(*caddyhttp.MatchExpression)
			if !ok {
				continue
			}
			byStatus := !call.MatchString(m.Expr)
			for _, p := range placeholder.FindAllString(m.Expr, -1) {
				byStatus = byStatus && (p == "{http.error.status_code}" || p == "{err.status_code}")
			}
			if byStatus {
				matches, err := m.MatchWithError(failed)
				can = can && (matches || err != nil)
			}
		}
		if can {
			return true
		}
	}
	return false
}

// failedRequest is one for which an error route runs.
func failedRequest(status int) *http.Request {
	repl := caddy.NewReplacer()
	repl.Set("http.error.status_code", status)
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, repl)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	return (&http.Request{Method: http.MethodGet, URL: new(url.URL), Header: make(http.Header)}).WithContext(ctx)
}

// intercepts tells whether a handler may change a response of 421 of those behind
// it.
func intercepts(handler caddyhttp.MiddlewareHandler) bool {
	h, ok := handler.(*intercept.Intercept)
	if !ok {
		return false
	}
	for _, rh := range h.HandleResponse {
		if rh.Match == nil || rh.Match.Match(http.StatusMisdirectedRequest, http.Header{"Cache-Control": {"no-store"}}) {
			return true
		}
	}
	return false
}

// changes warns of what may give refusals another status.
func (s *Snapshot) changes() (found []Warning) {
	_, mayIntercept := s.guards.modules["http.handlers.intercept"]
	hands := s.strictSNIHost || slices.ContainsFunc(s.guards.all(), func(g *Guard) bool { return g.ErrorRoutes })
	if !mayIntercept && !(hands && slices.Contains(s.changing, true)) {
		return nil
	}
	var byErrors, byIntercept []string
	s.eachSite(func(name, shown string) {
		handed, intercepted := s.exposed(name)
		if intercepted {
			byIntercept = append(byIntercept, shown)
		}
		if (handed || s.strictSNIHost) && s.errorsChange(name) {
			byErrors = append(byErrors, shown)
		}
	})
	if len(byErrors) > 0 {
		message := "error routes can give the refusals of misdirected another status, so that clients do not ask again: leave out 421, or error_routes"
		if s.strictSNIHost {
			message = "error routes can give the 421 of strict_sni_host another status, so that clients do not ask again: leave out 421"
		}
		found = append(found, warn(message, "sites", byErrors))
	}
	if len(byIntercept) > 0 {
		found = append(found, warn("an intercept handler in front of misdirected can give its refusals another status, so that clients do not ask again", "sites", byIntercept))
	}
	return found
}

// exposed tells whether a guard for host hands its refusals to error routes, and whether
// one stands behind a handler that may change them.
func (s *Snapshot) exposed(host string) (handed, intercepted bool) {
	behind := false
	w := walk{host: host}
	w.sees = func(st *step, _ bool) bool {
		switch {
		case st.guard != nil:
			handed = handed || st.guard.ErrorRoutes
			intercepted = intercepted || behind && !st.guard.ReportOnly
		case st.handler != nil && !behind && intercepts(st.handler):
			behind, w.met = true, nil // what comes again comes behind it
		}
		return true
	}
	w.list(s.guards.main, true, nil)
	return handed, intercepted
}

// errorsChange tells whether an error route that can run for host may give a 421
// another status.
func (s *Snapshot) errorsChange(host string) bool {
	if s.guards.errors == nil {
		return false
	}
	var c cursor
	s.guards.errors.byHost.find(&c, host)
	for r, ok := c.next(); ok; r, ok = c.next() {
		if s.changing[s.guards.errors.sites[r.index].route] {
			return true
		}
	}
	return false
}

// eachSite calls f for each host pattern of the sites, and once for what catch-alls
// are there for, with how to call it.
func (s *Snapshot) eachSite(f func(name, shown string)) {
	caught := false
	for _, site := range s.routes.sites {
		if site.patterns == nil && !caught {
			caught = true
			f(unnamed(&s.routes.byHost), site.name)
		}
		for _, pattern := range site.patterns {
			f(pattern, pattern)
		}
	}
}
