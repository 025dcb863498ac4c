package upstreampool

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// retryElsewhere is the expression of the documentation, in JSON.
const retryElsewhere = `[{"expression":"{http.reverse_proxy.header.Proxy-Status} == 'Caddy; error=connection_limit_reached'"}]`

// A full pool is no failure of its upstream: where reverse_proxy counts failures,
// the upstream stays in use, and requests may go elsewhere all the same.
//
// Checklist: P24.
func TestFullPoolMarksNoUpstreamDown(t *testing.T) {
	type arrival struct{ name, path string }
	arrived := make(chan arrival, 10)
	release := make(chan struct{})
	serve := func(name string) string {
		return serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
			for req := fake.ReadRequest(r); req != nil; req = fake.ReadRequest(r) {
				if req.URL.Path == "/slow" {
					arrived <- arrival{name, req.URL.Path}
					<-release
				}
				body, _ := io.ReadAll(req.Body)
				fake.Respond(c, name+" "+string(body))
			}
		}).addr()
	}
	upstreams := []string{serve("a"), serve("b")}
	stopCaddy(t)
	const (
		passive    = `,"health_checks":{"passive":{"fail_duration":10000000000}}`
		roundRobin = `,"load_balancing":{"selection_policy":{"policy":"round_robin"}`
	)
	port := 0 // another one each time: one that a reload gives up may still take a connection
	post := func(path string) (*http.Response, string) {
		req, _ := http.NewRequest("POST", fmt.Sprintf("http://127.0.0.1:%d%s", port, path), strings.NewReader("order"))
		return fetch(t, client(t, false), req)
	}
	for _, test := range []struct {
		name, extra string
		refused     int  // of two requests, one for each upstream
		response    bool // it is ours, with its fields
	}{
		{"answered", passive + roundRobin + `}`, 1, true},
		{"taken elsewhere by the expression", passive + roundRobin + `,"retries":1,"retry_match":` + retryElsewhere + `}`, 0, false},
		{"failures are not counted: an error", roundRobin + `}`, 1, false},
		{"failures are not counted: taken elsewhere by any retry", roundRobin + `,"retries":1}`, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			port = freePort(t)
			runCaddy(t, port, `,"max_conns_per_host":1,"acquire_timeout":"1s"`, test.extra, upstreams...)
			slow := make(chan int, 1)
			go func() {
				resp, _ := post("/slow")
				slow <- resp.StatusCode
			}()
			full := <-arrived
			refused := 0
			for range 2 {
				resp, body := post("/")
				switch resp.StatusCode {
				case 503:
					refused++
					ours := resp.Header.Get("Retry-After") == "1" && resp.Header.Get("Proxy-Status") == statusFull
					if ours != test.response {
						t.Errorf("the refusal has the fields %v", resp.Header)
					}
				case 200:
					if body == full.name+" order" || !strings.HasSuffix(body, " order") {
						t.Errorf("answered with %q, while the pool of upstream %s is full", body, full.name)
					}
				default:
					t.Errorf("status %d", resp.StatusCode)
				}
			}
			if refused != test.refused {
				t.Errorf("%d of 2 requests were refused, want %d", refused, test.refused)
			}
			release <- struct{}{}
			if status := <-slow; status != 200 {
				t.Errorf("the request under way was answered with %d", status)
			}
			seen := make(map[string]bool)
			for range 4 {
				_, body := post("/")
				seen[body] = true
			}
			if !seen["a order"] || !seen["b order"] {
				t.Errorf("after a full pool these upstreams are in use: %v", seen)
			}
		})
	}
}

// Both ways of a refusal are answered alike; any other error stays one.
func TestRefusalAsResponse(t *testing.T) {
	req, _ := http.NewRequest("GET", "http://h.test/", nil)
	for _, test := range []struct {
		err   error
		field string
	}{
		{unavailable(connpool.ErrQueueFull), statusFull},
		{unavailable(connpool.ErrAcquireTimeout), statusFull},
		{opaque(unavailable(connpool.ErrQueueFull)), ""}, // the body is gone
	} {
		resp := refusal(req, test.err)
		if resp == nil {
			t.Fatalf("%v: no response", test.err)
		}
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Request != req {
			t.Errorf("%v: %v", test.err, resp)
		}
		if got := resp.Header.Get("Proxy-Status"); got != test.field {
			t.Errorf("%v: Proxy-Status = %q, want %q", test.err, got, test.field)
		}
	}
	if resp := refusal(req, connpool.ErrUnusable); resp != nil {
		t.Errorf("a failed dial is answered with %v", resp)
	}
}

// Settings that undo this are warned about, as far as a pool can be full.
func TestPressureWarnings(t *testing.T) {
	for _, test := range []struct {
		name, handler, transport string
		want                     []string
	}{
		{"nothing", `{"health_checks":{"passive":{"fail_duration":1}}}`, `{"max_conns_per_host":5}`, nil},
		{"the status", `{"health_checks":{"passive":{"fail_duration":1,"unhealthy_status":[500,503]}}}`, `{"max_conns_per_host":5}`,
			[]string{"unhealthy_status"}},
		{"its class", `{"health_checks":{"passive":{"fail_duration":1,"unhealthy_status":[5]}}}`, `{"max_conns_per_host":5}`,
			[]string{"unhealthy_status"}},
		{"another class", `{"health_checks":{"passive":{"fail_duration":1,"unhealthy_status":[4]}}}`, `{"max_conns_per_host":5}`, nil},
		{"the latency", `{"health_checks":{"passive":{"fail_duration":1,"unhealthy_latency":5000000000}}}`, `{"max_conns_per_host":5}`,
			[]string{"unhealthy_latency"}},
		{"a latency above acquire_timeout", `{"health_checks":{"passive":{"fail_duration":1,"unhealthy_latency":2000000000}}}`,
			`{"max_conns_per_host":5,"acquire_timeout":1000000000}`, nil},
		{"retries", `{"health_checks":{"passive":{"fail_duration":1}},"load_balancing":{"retries":2}}`, `{"max_conns_per_host":5}`,
			[]string{"lb_retry_match"}},
		{"a duration of retries, with another matcher",
			`{"health_checks":{"passive":{"fail_duration":1}},"load_balancing":{"try_duration":2,"retry_match":[{"method":["GET"]}]}}`,
			`{"max_conns_per_host":5}`, []string{"lb_retry_match"}},
		{"retries with the expression",
			`{"health_checks":{"passive":{"fail_duration":1}},"load_balancing":{"retries":2,"retry_match":` + retryElsewhere + `}}`,
			`{"max_conns_per_host":5}`, nil},
		{"a pool without limit", `{"health_checks":{"passive":{"fail_duration":1,"unhealthy_status":[503]}},"load_balancing":{"retries":2}}`, `{}`, nil},
		{"failures are not counted", `{"health_checks":{"passive":{"unhealthy_status":[503]}},"load_balancing":{"retries":2}}`,
			`{"max_conns_per_host":5}`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, tr := new(reverseproxy.Handler), Transport{}.CaddyModule().New().(*Transport)
			if err := errors.Join(json.Unmarshal([]byte(test.handler), h), json.Unmarshal([]byte(test.transport), tr)); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zap.WarnLevel)
			tr.answersWhenFull = countsFailures(h)
			tr.warnOfPressure(h, zap.New(core))
			var got []string
			for _, entry := range logs.All() {
				got = append(got, entry.Message)
			}
			if len(got) != len(test.want) {
				t.Fatalf("warnings = %q, want those about %q", got, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("warning = %q, want one about %s", got[i], want)
				}
			}
		})
	}
}
