package misdirected

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	// recentRefusals is how many refusals are remembered.
	recentRefusals = 100
	// longestName is how much of a name that a client sent is remembered.
	longestName = 255
)

// A Refusal is a request that was refused, or would have been.
type Refusal struct {
	Time time.Time `json:"time"`
	// The name of the HTTP server in the config.
	Server string `json:"server"`
	// As the client sent it, cut after 255 bytes.
	SNI string `json:"sni"`
	// The host that was decided on; if it has no canonical form, as the client
	// sent it, cut after 255 bytes.
	Host       string `json:"host"`
	RemoteAddr string `json:"remote_addr"`
	Protocol   string `json:"protocol"` // h1, h2 or h3
	Reason     string `json:"reason"`
	// 421 or 400.
	Status int `json:"status"`
	// The request was let through all the same.
	ReportOnly bool `json:"report_only"`
}

// recent remembers the last refusals of all servers, over reloads.
var recent refusals

type refusals struct {
	mu   sync.Mutex
	ring [recentRefusals]Refusal
	n    uint64 // refusals so far
	// Requests that got 421, by reason.
	misdirected map[string]int64
}

func (r *refusals) add(refusal Refusal) {
	// The strings are parts of larger buffers, which must not stay in memory.
	for _, s := range []*string{&refusal.SNI, &refusal.Host} {
		*s = strings.Clone((*s)[:min(len(*s), longestName)])
	}
	r.mu.Lock()
	r.ring[r.n%recentRefusals] = refusal
	r.n++
	if refusal.Status == http.StatusMisdirectedRequest && !refusal.ReportOnly {
		if r.misdirected == nil {
			r.misdirected = make(map[string]int64)
		}
		r.misdirected[refusal.Reason]++
	}
	r.mu.Unlock()
}

// Misdirected returns how many requests got 421 since the process began, by reason.
func Misdirected() map[string]int64 {
	recent.mu.Lock()
	defer recent.mu.Unlock()
	return maps.Clone(recent.misdirected)
}

// Recent returns the last 100 refusals, the latest first.
func Recent() []Refusal { return recent.list() }

func (r *refusals) list() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Refusal, 0, recentRefusals)
	for i := uint64(1); i <= min(r.n, recentRefusals); i++ {
		list = append(list, r.ring[(r.n-i)%recentRefusals])
	}
	return list
}

// A Count is one value of the metric caddy_misdirected_requests_total.
type Count struct {
	Server   string `json:"server"`
	Protocol string `json:"protocol"`
	Outcome  string `json:"outcome"`
	Requests int64  `json:"requests"`
}

// Counts returns how many requests had each outcome since the process began,
// but for those that never occurred.
func Counts() []Count {
	metrics := make(chan prometheus.Metric)
	go func() {
		requests.Collect(metrics)
		close(metrics)
	}()
	counts := []Count{}
	for metric := range metrics {
		var value dto.Metric
		if err := metric.Write(&value); err != nil || value.GetCounter().GetValue() == 0 {
			continue
		}
		c := Count{Requests: int64(value.GetCounter().GetValue())}
		for _, label := range value.GetLabel() {
			switch label.GetName() {
			case "server":
				c.Server = label.GetValue()
			case "protocol":
				c.Protocol = label.GetValue()
			case "outcome":
				c.Outcome = label.GetValue()
			}
		}
		counts = append(counts, c)
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Outcome, b.Outcome))
	})
	return counts
}
