package origin

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

const late = ", not about "

// took says in words how long something took that should take a while.
func took(start time.Time, want time.Duration) string {
	if d := time.Since(start); d < want-50*time.Millisecond || d > want+400*time.Millisecond {
		return fmt.Sprintf("after %v%s%v", d, late, want)
	}
	return "in time"
}

// ended reads until the connection ends.
func ended(r io.Reader) string {
	data, err := io.ReadAll(r)
	if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
		return fmt.Sprintf("%q, and then nothing", data)
	}
	return fmt.Sprintf("%q", data)
}

// do performs a request and shows the answer.
func do(t *testing.T, c *http.Client, method, url string, body io.Reader) string {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if len(data) > 200 {
		return fmt.Sprint(resp.Status, " ", len(data), " bytes ", err)
	}
	return fmt.Sprint(resp.Status, " ", string(data), " ", err)
}

// A stockCase is something that clients do.
type stockCase struct {
	name   string
	server string // more of its config
	run    func(t *testing.T, port int) string
	want   string
	log    string // what http.stdlib says, if anything
}

const stockName = "a.stock.test"

// asStock compares what a client sees, and what is logged, with what it is without the
// wrapper; and the same with other wrappers around it.
func asStock(t *testing.T, cases []stockCase) {
	t.Helper()
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			log, ports := startStock(t, test.server)
			var outcomes, logs []string
			seen := 0
			for _, port := range ports {
				outcome := test.run(t, port)
				awaitLog := func() {
					if test.log != "" {
						poll.Until(t, "the log entry", func() bool { return len(stdlibLog(t, log)) > seen })
					}
				}
				awaitLog()
				// a busy machine may be late at times, a wrong limit always is
				for again := 0; again < 9 && strings.Contains(outcome, late); again++ {
					seen = len(stdlibLog(t, log))
					outcome = test.run(t, port)
					awaitLog()
				}
				lines := stdlibLog(t, log)
				outcomes, logs = append(outcomes, outcome), append(logs, strings.Join(lines[seen:], "\n"))
				seen = len(lines)
			}
			for i, what := range []string{"without the wrapper", "with the wrapper", "others without the wrapper", "others with the wrapper"} {
				stock := i &^ 1
				if outcomes[i] != outcomes[stock] || stock == 0 && test.want != "" && outcomes[i] != test.want {
					t.Errorf("%s:\n     %s\nwant %s", what, outcomes[i], outcomes[stock])
				}
				if logs[i] != logs[stock] || stock == 0 && logs[i] != test.log {
					t.Errorf("%s: http.stdlib says\n     %s\nwant %s", what, logs[i], test.log)
				}
			}
		})
	}
}

// startStock runs four servers: without the wrapper and with it, and so among others.
func startStock(t *testing.T, more string) (log string, ports []int) {
	t.Helper()
	upstream := backend(t)
	rest := more + `"strict_sni_host":false,"tls_connection_policies":[{}],"routes":[
		{"match":[{"path":["/upload","/download","/ws"]}],"terminal":true,"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"` + upstream + `"}]}]},` + hostRoutes(stockName) + `]`
	const before, after = `{"wrapper":"proxy_protocol"},{"wrapper":"http_redirect"},{"wrapper":"tls"}`, `{"wrapper":"test_after"}`
	var servers []string
	for _, wrappers := range []string{``, `{"wrapper":"origin"}`, before + `,` + after, before + `,{"wrapper":"origin"},` + after} {
		port := freePort(t)
		ports = append(ports, port)
		servers = append(servers, serverJSON(port, `"listener_wrappers":[`+wrappers+`],`+rest))
	}
	return start(t, testcaddy.TLSApp(t, `{}`, []string{stockName}), servers...), ports
}

var addr = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// stdlibLog returns the debug messages of http.stdlib, without addresses.
func stdlibLog(t *testing.T, log string) (lines []string) {
	for _, line := range logged(t, log, "http.stdlib") {
		if line["level"] == "debug" {
			lines = append(lines, addr.ReplaceAllString(line["msg"].(string), "ADDR"))
		}
	}
	return lines
}
