package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Visit is what a browser did on a page, by the access log. Connections are
// counted by requests: browsers open some that they never use.
type Visit struct {
	Connections map[string][]string // hosts asked for, by the client's port
	Statuses    map[int]int
	Answered    map[string]int // 200s, by host
	// Done tells that the page's script has asked for /done, with load=<ms> in the
	// query if it measured that.
	Done bool
	Load time.Duration
}

func (v Visit) String() string {
	return fmt.Sprintf("%d connections %v, statuses %v", len(v.Connections), v.Connections, v.Statuses)
}

// ReadVisit reads Caddy's log, one JSON object a line.
func ReadVisit(log string) Visit {
	v := Visit{Connections: make(map[string][]string), Statuses: make(map[int]int), Answered: make(map[string]int)}
	for line := range strings.SplitSeq(log, "\n") {
		var entry struct {
			Msg     string
			Status  int
			Request struct {
				Host, URI  string
				RemotePort string `json:"remote_port"`
			}
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "handled request" {
			continue
		}
		target, err := url.ParseRequestURI(entry.Request.URI)
		if err != nil || target.Path == "/favicon.ico" {
			continue
		}
		if target.Path == "/done" {
			v.Done = true
			v.Load, _ = time.ParseDuration(target.Query().Get("load") + "ms")
			continue
		}
		host, port := strings.Split(entry.Request.Host, ":")[0], entry.Request.RemotePort
		if !slices.Contains(v.Connections[port], host) {
			v.Connections[port] = append(v.Connections[port], host)
		}
		v.Statuses[entry.Status]++
		if entry.Status == 200 {
			v.Answered[host]++
		}
	}
	return v
}

// Visit opens a URL and waits until the page is done by what log, called again and
// again, returns.
func (b Browser) Visit(ctx context.Context, o Options, url string, log func() string) (Visit, error) {
	w, err := b.Open(o, url)
	if err != nil {
		return Visit{}, err
	}
	defer w.Kill()
	for {
		v := ReadVisit(log())
		if v.Done {
			return v, nil
		}
		if err := w.Ended(); err != nil {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, fmt.Errorf("%s has not finished the page: %w: %v\n%s", b.Name, ctx.Err(), v, w.Output())
		case <-time.After(100 * time.Millisecond): // polls the log of another process
		}
	}
}
