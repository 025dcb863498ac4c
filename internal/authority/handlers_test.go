package authority

import (
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A handler is found wherever it stands, and only for hosts that get there.
func TestHandlerRuns(t *testing.T) {
	const (
		headers = `{"handler":"headers"}`
		rewrite = `{"handler":"rewrite","uri":"/x"}`
	)
	_, snap := server(t, `"tls_connection_policies":[{}],
		"named_routes":{"n":{"handle":[{"handler":"subroute","routes":[{"match":[{"host":["named.test"]}],"handle":[`+headers+`]}]},{"handler":"invoke","name":"n"}]}},
		"routes":[{"match":[{"protocol":"http"}],"handle":[{"handler":"static_response"}]},`+oneGuard+`,
			{"match":[{"host":["a.test"],"path":["/x"]}],"handle":[`+headers+`]},
			{"match":[{"host":["*.deep.test"]}],"handle":[{"handler":"subroute","routes":[
				{"group":"x","match":[{"host":["a.deep.test"]}]},{"group":"x","match":[{"host":["a.deep.test","b.deep.test"]}],"handle":[`+headers+`]}]}]},
			{"match":[{"host":["named.test","other.test"]}],"handle":[{"handler":"invoke","name":"n"}]},
			{"match":[{"host":["reply.test"]}],"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:1"}],"handle_response":[{"routes":[{"handle":[`+headers+`]}]}]}]},
			{"match":[{"host":["catch.test"]}],"handle":[{"handler":"intercept","handle_response":[{"routes":[{"handle":[`+headers+`]}]}]}]},
			{"match":[{"host":["last.test"]}],"terminal":true,"handle":[`+headers+`]},
			{"match":[{"host":["last.test"]}],"handle":[`+rewrite+`]}],
		"errors":{"routes":[{"match":[{"host":["a.test"]}],"handle":[{"handler":"subroute","routes":[{"handle":[`+rewrite+`,`+headers+`]}]}]}]}`)
	for _, test := range []struct {
		host string
		id   caddy.ModuleID
		want bool
	}{
		{"a.test", "http.handlers.headers", true},
		{"b.test", "http.handlers.headers", false},
		{"a.deep.test", "http.handlers.headers", false}, // another of the group runs
		{"b.deep.test", "http.handlers.headers", true},
		{"named.test", "http.handlers.headers", true},
		{"other.test", "http.handlers.headers", false},
		{"reply.test", "http.handlers.headers", true},
		{"catch.test", "http.handlers.headers", true},
		{"catch.test", "http.handlers.intercept", true},
		{"a.test", "http.handlers.intercept", false},
		{"last.test", "http.handlers.headers", true},
		{"last.test", "http.handlers.rewrite", false},
		{"a.test", "http.handlers.static_response", false}, // plain HTTP only
		{"a.test", "http.handlers.test_guard", true},
		{"a.test", "http.handlers.forward_proxy", false},
	} {
		if got := snap.HandlerRuns(test.host, test.id); got != test.want {
			t.Errorf("%s runs for %s: %t, want %t", test.id, test.host, got, test.want)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		snap.HandlerRuns("b.deep.test", "http.handlers.headers")
		snap.HandlerRuns("other.test", "http.handlers.headers")
		snap.HandlerRuns("a.test", "http.handlers.forward_proxy")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}

	inErrors := func(host string) bool { return snap.guards.runs(snap.guards.errors, host, "http.handlers.rewrite") }
	if !inErrors("a.test") || inErrors("b.test") || snap.HandlerRuns("a.test", "http.handlers.rewrite") {
		t.Error("the handler of the error routes is not theirs alone")
	}
	var ids []caddy.ModuleID
	w := walk{host: "a.test", sees: func(st *step, _ bool) bool {
		if st.handler != nil {
			ids = append(ids, moduleID(st.handler))
		}
		return true
	}}
	w.list(snap.guards.errors, true, nil)
	if want := []caddy.ModuleID{"http.handlers.subroute", "http.handlers.rewrite", "http.handlers.headers"}; !reflect.DeepEqual(ids, want) {
		t.Errorf("handlers of the error routes: %v, want %v", ids, want)
	}
}

// Only fields that have routes in them are read, in Caddy's own handlers and
// in others.
func TestRoutesIn(t *testing.T) {
	list := caddyhttp.RouteList{{Group: "x"}}
	responses := []caddyhttp.ResponseHandler{{}, {Routes: list}}
	for _, test := range []struct {
		name    string
		handler caddyhttp.MiddlewareHandler
		want    int
	}{
		{"reverse_proxy", &reverseproxy.Handler{HandleResponse: responses}, 1},
		{"intercept", intercept.Intercept{HandleResponse: responses}, 1},
		{"another author's", &testContainer{Routes: list}, 1},
		{"hidden", &testCloset{routes: list}, 0},
		{"none", &caddyhttp.StaticResponse{}, 0},
		{"nil", nil, 0},
	} {
		if got := len(routesIn(test.handler)); got != test.want {
			t.Errorf("%s: %d lists, want %d", test.name, got, test.want)
		}
	}
}

// Matchers at all depths count, and in error routes; catch-alls name nothing.
func TestNamesHostAnywhere(t *testing.T) {
	inner := func(matcher string) string {
		return `{"handle":[{"handler":"subroute","routes":[{"match":[` + matcher + `]}]}]}`
	}
	_, snap := server(t, `"tls_connection_policies":[{}],"named_routes":{"n":`+inner(`{"host":["named.test"]}`)+`},"routes":[`+oneGuard+`,
		{"match":[{"host":["top.test"]}]},`+inner(`{"host":["inner.test","*.wild.test"]}`)+`,`+inner(`{"path":["/x"]}`)+`,
		{"match":[{"expression":"{http.request.host} == 'expression.test' || host('function.test')"}]},{"match":[{"expression":"{http.request.uri.path} == '/path.test'"}]},
		{"match":[{"vars":{"{http.request.host}":["vars.test"]}}]},{"match":[{"header":{"Host":["header.test"]}}]},{"match":[{"not":[{"host":["not.test"]}]}]},
		{"handle":[{"handler":"map","source":"{http.request.host}","destinations":["{x}"],"mappings":[{"input":"map.test","outputs":["x"]}]}]},
		{"handle":[{"handler":"invoke","name":"n"}]}],"errors":{"routes":[`+inner(`{"host":[""]}`)+`]}`)
	for host, want := range map[string]bool{
		"top.test": true, "inner.test": true, "a.wild.test": true, "named.test": true, "": true, "other.test": false,
		"expression.test": true, "function.test": true, "path.test": false, "vars.test": true, "header.test": true, "not.test": false, "map.test": true,
		"wild.test": false,
	} {
		if got := snap.NamesHostAnywhere(host); got != want {
			t.Errorf("%q is named: %t, want %t", host, got, want)
		}
	}
}
