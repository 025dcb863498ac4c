package origin

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// limit is what each limit of time is in these tests. Some count for the handshake, too.
const limit = time.Second

const late = ", not in time"

// took says whether a limit was kept whose time began between two moments. A server that
// adds one limit to another takes twice as long.
func took(earliest, latest time.Time) string {
	if least, most := time.Since(latest), time.Since(earliest); most < limit || least > limit*9/5 {
		return fmt.Sprintf("after %v to %v%s", least, most, late)
	}
	return "in time"
}

// overdue is the outcome where something failed before its time: a busy machine may have
// been so slow that the limit hit it.
func overdue(err error) string { return err.Error() + late }

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
			ask := test.oneByOne
			if test.log == "" {
				ask = test.atOnce
			}
			outcomes, logs := ask(t, log, ports)
			for i, what := range stockServers {
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

// oneByOne asks one server after the other, and so learns what each of them logs.
func (test stockCase) oneByOne(t *testing.T, log string, ports []int) (outcomes, logs []string) {
	seen := 0
	for _, port := range ports {
		outcome, _ := inTime(func() string {
			seen = len(stdlibLog(t, log))
			outcome := test.run(t, port)
			poll.Until(t, "the log entry", func() bool { return len(stdlibLog(t, log)) > seen })
			return outcome
		})
		outcomes = append(outcomes, outcome)
		logs = append(logs, strings.Join(stdlibLog(t, log)[seen:], "\n"))
	}
	return outcomes, logs
}

// atOnce asks all servers at once. What is logged, any of them may have; where one was
// asked again, that may be what it said of a handshake that took too long.
func (test stockCase) atOnce(t *testing.T, log string, ports []int) (outcomes, logs []string) {
	outcomes = make([]string, len(ports))
	var again atomic.Bool
	t.Run("at once", func(t *testing.T) {
		for i, port := range ports {
			t.Run(stockServers[i], func(t *testing.T) {
				t.Parallel()
				outcome, first := inTime(func() string { return test.run(t, port) })
				if outcomes[i] = outcome; !first {
					again.Store(true)
				}
			})
		}
	})
	if again.Load() {
		return outcomes, make([]string, len(ports))
	}
	return outcomes, slices.Repeat([]string{strings.Join(stdlibLog(t, log), "\n")}, len(ports))
}

// inTime calls run again where it was late: a busy machine may be at times, a wrong
// limit always is. It tells whether the first outcome was the last.
func inTime(run func() string) (outcome string, first bool) {
	for try := range 10 {
		if outcome = run(); !strings.Contains(outcome, late) {
			return outcome, try == 0
		}
	}
	return outcome, false
}

// stockServers are the servers that startStock runs.
var stockServers = []string{"without the wrapper", "with the wrapper", "others without the wrapper", "others with the wrapper"}

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
