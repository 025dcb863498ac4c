package upstreampool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/replay"
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

// Both ways of a refusal are answered alike, and so is what the client is to blame for;
// any other error stays one.
func TestRefusalAsResponse(t *testing.T) {
	req, _ := http.NewRequest("GET", "http://h.test/", nil)
	for _, test := range []struct {
		err    error
		cut    bool
		status int // zero: it stays an error
		field  string
	}{
		{unavailable(connpool.ErrQueueFull), false, 503, statusFull},
		{unavailable(connpool.ErrAcquireTimeout), false, 503, statusFull},
		{opaque(unavailable(connpool.ErrQueueFull)), false, 503, ""}, // the body is gone
		{caddyhttp.Error(http.StatusLengthRequired, replay.ErrTooLong), false, 411, ""},
		{caddyhttp.Error(http.StatusRequestEntityTooLarge, io.ErrUnexpectedEOF), true, 413, ""}, // by request_body
		{io.ErrUnexpectedEOF, true, 400, ""},
		{io.ErrUnexpectedEOF, false, 0, ""},
		{fmt.Errorf("reading body: %w", context.Canceled), true, 0, ""}, // no failure to reverse_proxy either
		{connpool.ErrUnusable, false, 0, ""},
	} {
		resp := refusal(req, test.err, test.cut)
		if resp == nil || test.status == 0 {
			if resp != nil || test.status != 0 {
				t.Errorf("%v: %v, want status %d", test.err, resp, test.status)
			}
			continue
		}
		if resp.StatusCode != test.status || (resp.Header.Get("Retry-After") != "") != (test.status == 503) || resp.Request != req {
			t.Errorf("%v: %v", test.err, resp)
		}
		if got := resp.Header.Get("Proxy-Status"); got != test.field {
			t.Errorf("%v: Proxy-Status = %q, want %q", test.err, got, test.field)
		}
	}
}

// Clients cannot have an upstream marked down by bodies that they cut off or make wrong,
// or that are too long for us.
//
// Checklist: P24.
func TestWrongBodyMarksNoUpstreamDown(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: h.test\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, test := range []struct {
		name, version, body string
		status              []int
	}{
		{"cut off", "1.1", "5\r\nhello\r\n", []int{400, 499}}, // 499: Caddy sees first that the client has gone
		{"no chunk", "1.1", "5\r\nhello\r\nand so on\r\n", []int{400, 499}},
		{"too long for HTTP/1.0", "1.0", "1ffff\r\n" + strings.Repeat("x", 0x1ffff) + "\r\n0\r\n\r\n", []int{411}},
	} {
		t.Run(test.name, func(t *testing.T) {
			upstream := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
				for req := fake.ReadRequest(r); req != nil; req = fake.ReadRequest(r) {
					fmt.Fprintf(c, "HTTP/%s 200 OK\r\nContent-Length: 0\r\n\r\n", test.version)
				}
			})
			stopCaddy(t)
			url := runCaddy(t, freePort(t), "", `,"health_checks":{"passive":{"fail_duration":10000000000}}`, upstream.addr())
			get := func() int {
				req, _ := http.NewRequest("GET", url, nil)
				resp, _ := fetch(t, client(t, false), req)
				return resp.StatusCode
			}
			if status := get(); status != 200 { // the version is known now
				t.Fatal(status)
			}
			c, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(url, "http:"), "/"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, head+test.body)
			_ = c.(*net.TCPConn).CloseWrite()
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || !slices.Contains(test.status, resp.StatusCode) {
				t.Errorf("%v, %v; want status %d", resp, err, test.status)
			}
			if status := get(); status != 200 {
				t.Errorf("afterwards a request is answered with %d", status)
			}
		})
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
			tr.answersRefusals = countsFailures(h)
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
