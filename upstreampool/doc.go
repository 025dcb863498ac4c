// Package upstreampool is a reverse_proxy transport whose connection pool
// never picks a connection that is about to die, and never sends a request
// on a connection that was opened for another TLS identity.
//
// The wire protocol is net/http's: every connection is an [http.ClientConn].
// The pool is ours. Read it in this order:
//
//   - internal/idletime: for how long a connection may be idle
//   - internal/replay: when a failed request is sent once more
//   - internal/connpool: the connections
//   - dial.go, roundtrip.go, transport.go: the way of a request
package upstreampool
