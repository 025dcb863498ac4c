// Package upstreampool is a reverse_proxy transport whose connection pool
// never picks a connection that is about to die, and never sends a request
// on a connection that was opened for another TLS identity.
//
//	a.example.com {
//		reverse_proxy 127.0.0.1:8080 {
//			transport upstreampool
//		}
//	}
//
// The wire protocol is net/http's: every connection is an [http.ClientConn].
// The pool is ours. Three packages below have its rules:
//
//   - internal/idletime: for how long a connection may be idle
//   - internal/replay: when a failed request is sent once more
//   - internal/connpool: the connections to one upstream
//
// Here stands what Caddy has to do with them:
//
//   - transport.go has the settings, options.go and caddyfile.go read those that are ours,
//     check.go refuses what is wrong with them, config.go fills in defaults
//   - key.go turns a request into a target, core.go finds its pool, and pool.go counts what
//     happens there; a core (cores.go says who shares one), upstreams (upstream.go) and
//     records (record.go) outlive configurations
//   - roundtrip.go is the way of a request, with at most two attempts; body.go has its
//     body, pins.go its user, pressure.go what a full pool answers, silence.go the words
//     for an upstream that does not
//   - dial.go opens connections and dialtimes.go measures how long that takes,
//     certificate.go tells client certificates apart, dns.go leaves addresses that a name
//     no longer has
//   - facts.go has the placeholders; metrics.go, gauges.go, family.go, labels.go and
//     totals.go the metrics; state.go what the admin API shows
//   - users.go knows which configurations use a core, remembered.go keeps what was
//     learned in their storage
package upstreampool
