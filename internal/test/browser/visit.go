package browser

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/program"
)

// A Visit is what a browser did on a page, by the access log. Connections are
// counted by requests: browsers open some that they never use.
type Visit struct {
	Connections map[string][]string // hosts asked for, by protocol and the client's port
	Statuses    map[int]int
	Answered    map[string]int // 200s, by host
	Protocols   map[string]int // requests that were not refused, by protocol
	Refused     map[string]int // 421s, by protocol
	// Foreign are 200s on a connection that was opened for another host. A proxy that
	// chooses the backend by SNI gives the wrong page there.
	Foreign int
	// Done tells that the page's script has asked for /done, with load=<ms> and
	// broken=<images> in the query if it measured that.
	Done   bool
	Load   time.Duration
	Broken int
}

func (v Visit) String() string {
	return fmt.Sprintf("%d connections %v, statuses %v, 421s %v, %d images broken", len(v.Connections), v.Connections, v.Statuses, v.Refused, v.Broken)
}

// ReadVisit reads Caddy's log, one JSON object a line, of one visit.
func ReadVisit(log string) Visit { return ReadVisits(log, 1)[0] }

// ReadVisits reads the log of n visits, which requests tell by visit=<number from
// 1> in their query. Those without belong to the first.
func ReadVisits(log string, n int) []Visit {
	visits := make([]Visit, n)
	for i := range visits {
		visits[i] = Visit{
			Connections: make(map[string][]string), Statuses: make(map[int]int), Answered: make(map[string]int),
			Protocols: make(map[string]int), Refused: make(map[string]int),
		}
	}
	for line := range strings.SplitSeq(log, "\n") {
		var entry struct {
			Msg     string
			Status  int
			Request struct {
				Host, URI, Proto string
				RemotePort       string `json:"remote_port"`
				TLS              struct {
					ServerName string `json:"server_name"`
				}
			}
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "handled request" {
			continue
		}
		target, err := url.ParseRequestURI(entry.Request.URI)
		if err != nil || target.Path == "/favicon.ico" {
			continue
		}
		number, err := strconv.Atoi(cmp.Or(target.Query().Get("visit"), "1"))
		if err != nil || number < 1 || number > n {
			continue
		}
		v := &visits[number-1]
		if target.Path == "/done" {
			v.Done = true
			v.Load, _ = time.ParseDuration(target.Query().Get("load") + "ms")
			v.Broken, _ = strconv.Atoi(target.Query().Get("broken"))
			continue
		}
		host, protocol := strings.Split(entry.Request.Host, ":")[0], entry.Request.Proto
		connection := protocol + " " + entry.Request.RemotePort
		if !slices.Contains(v.Connections[connection], host) {
			v.Connections[connection] = append(v.Connections[connection], host)
		}
		v.Statuses[entry.Status]++
		if entry.Status == 200 {
			v.Answered[host]++
			if sni := entry.Request.TLS.ServerName; sni != "" && sni != host {
				v.Foreign++
			}
		}
		if entry.Status == 421 {
			v.Refused[protocol]++
		} else {
			v.Protocols[protocol]++
		}
	}
	return visits
}

// Visit opens a URL and waits until the page is done by what log, called again and
// again, returns.
func (b Browser) Visit(ctx context.Context, o Options, url string, log func() string) (Visit, error) {
	visits, err := b.Visits(ctx, o, url, 1, log)
	return visits[0], err
}

// Visits opens a page that visits itself n times.
func (b Browser) Visits(ctx context.Context, o Options, url string, n int, log func() string) ([]Visit, error) {
	none := make([]Visit, n)
	w, err := b.Open(o, url)
	if err != nil {
		return none, err
	}
	defer w.Kill()
	return b.await(ctx, w, n, log)
}

// await waits until the last of n visits is done.
func (b Browser) await(ctx context.Context, w *program.Program, n int, log func() string) ([]Visit, error) {
	for {
		visits := ReadVisits(log(), n)
		if visits[n-1].Done {
			return visits, nil
		}
		if err := w.Ended(); err != nil {
			return visits, err
		}
		select {
		case <-ctx.Done():
			return visits, fmt.Errorf("%s has not finished the page: %w: %v\n%s", b.Name, ctx.Err(), visits, w.Output())
		case <-time.After(100 * time.Millisecond): // polls the log of another process
		}
	}
}
