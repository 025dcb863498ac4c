package sidebyside

// Site is the route that a Caddyfile makes of a site: its routes are in a subroute.
// Without hosts it is for all that no site before it is for.
func Site(routes []any, hosts ...string) map[string]any {
	site := map[string]any{"handle": []any{map[string]any{"handler": "subroute", "routes": routes}}, "terminal": true}
	if len(hosts) > 0 {
		site["match"] = []any{map[string]any{"host": hosts}}
	}
	return site
}

// Routes are those that a Caddyfile makes of directives without a matcher: one, of
// their handlers.
func Routes(handlers ...any) []any { return []any{map[string]any{"handle": handlers}} }
