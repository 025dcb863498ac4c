package upstreampool

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// PoolState describes one pool, for people and for the admin API.
type PoolState struct {
	// The address that is dialed, as in the configuration.
	Upstream string `json:"upstream"`
	// Whose transport it is: the sites whose reverse_proxy uses it, or else the
	// server, at most 20; and a name that stands for its settings.
	Sites     []string `json:"sites,omitempty"`
	Transport string   `json:"transport"`
	// What else makes a pool: scheme, TLS server name, the hash of a client
	// certificate that Caddy manages, HTTP/1 only, forward proxy and PROXY
	// protocol source.
	Scheme            string `json:"scheme"`
	ServerName        string `json:"server_name,omitempty"`
	ClientCertificate string `json:"client_certificate,omitempty"`
	HTTP1Only         bool   `json:"http1_only,omitempty"`
	Proxy             string `json:"proxy,omitempty"`
	ProxySource       string `json:"proxy_source,omitempty"`

	// "http/1.1" or "h2", as the upstream last spoke.
	Protocol string `json:"protocol"`
	// For how long a connection may be idle and still be used, in seconds;
	// zero: connections are not reused.
	IdleLimit float64 `json:"idle_limit"`
	// When the upstream closes idle connections, in seconds, and how that is
	// known: configured, announced, learned, remembered or assumed.
	KeepAlive float64         `json:"keep_alive"`
	Source    idletime.Source `json:"source"`
	// How far below KeepAlive the pool stays, in seconds.
	Margin float64 `json:"margin"`
	// The above in words.
	Why string `json:"why"`

	// Connections by state: idle, busy, draining, sensor, dialing, upgraded,
	// and pinned: idle, and kept for one client connection (NTLM, Negotiate).
	Connections map[string]int `json:"connections"`
	// For how long connections have been idle, in seconds, youngest first; at
	// most 100.
	IdleAges []float64 `json:"idle_ages"`
	// Requests that wait for a connection.
	Waiting int `json:"waiting"`

	Opened     int64 `json:"opened"`
	DialErrors int64 `json:"dial_errors"`
	Refused    int64 `json:"refused"`
	// Requests, those of them on a connection from the pool, and their ratio.
	Requests   int64   `json:"requests"`
	Reused     int64   `json:"reused"`
	ReuseRatio float64 `json:"reuse_ratio"`
	Races      int64   `json:"races"`

	Closes  map[connpool.CloseReason]int64 `json:"closes"`
	Replays map[replay.Reason]int64        `json:"replays"`
}

// States describes all pools of all running configurations, in a stable order: those
// that there are, and those that have gone with their last connection, as far as they
// are remembered.
func States() []PoolState {
	states := []PoolState{}
	for _, c := range cores() {
		states = append(states, c.states(time.Now())...)
	}
	slices.SortFunc(states, func(a, b PoolState) int {
		return strings.Compare(a.order(), b.order())
	})
	return states
}

// Drain closes the idle connections of all pools, or if upstream is not empty, of
// the pools whose [PoolState.Upstream] it is. Requests under way are not touched,
// and nothing is forgotten of what was learned. It returns how many pools that
// were, and how many connections.
func Drain(upstream string) (pools, connections int) {
	for _, c := range cores() {
		for _, p := range c.all() {
			if upstream == "" || p.name == upstream {
				pools++
				connections += p.Drain()
			}
		}
	}
	return pools, connections
}

// order has in it all that makes a pool.
func (s PoolState) order() string {
	return strings.Join([]string{s.Upstream, s.Transport, s.Scheme, s.ServerName, s.ClientCertificate, s.Proxy, s.ProxySource,
		strconv.FormatBool(s.HTTP1Only)}, "\x00")
}

// protocolName is how the protocol of a pool reads in state and metrics.
func protocolName(h2 bool) string {
	if h2 {
		return "h2"
	}
	return "http/1.1"
}
