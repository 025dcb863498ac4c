// Package connpool holds the connections to one upstream. It knows no Caddy, and
// of a request only its [Need].
//
// A request acquires a [Lease], sends itself on it, and ends it in exactly one of
// three ways: Done, Fail or Unused. The wire protocol is net/http's: every
// connection is an [http.ClientConn].
//
//   - states.go: the life of a connection as one table, and the one function that
//     moves a connection through it
//   - conn.go, netconn.go: a connection from above and from below
//   - lease.go: one request on a connection
//   - pool.go, queue.go: how a request gets a connection
//   - config.go: settings, what is told to whoever counts, why connections are closed
//   - snapshot.go: what a pool holds, for those who look
//   - events.go: what is done once a pool is unlocked
//   - dials.go: connections are opened, and those that wait are told how that went
//   - warm.go: connections that are opened before anybody needs them
//   - disposition.go: what becomes of a connection that carries no request
//   - idle.go: the timer, what is not worth keeping, what makes room, the bound over all pools
//   - sensor.go: what a close of an idle connection teaches
//   - addresses.go: connections to an address that was given up
//   - pins.go: connections that carry the requests of one owner only
//   - silence.go, cancel.go: paths that drop everything, and what is given up for that
//   - serial.go: upstreams that serve one connection at a time
//
// What knows nothing of a pool stands elsewhere. Package wire looks at a connection from
// below. Package streams counts the streams of one of HTTP/2. Package demand says how
// many connections there should be, idletime for how long they may be idle. Package
// memory has what outlives them.
//
// The words have one meaning each:
//
//   - lease: the right to send one request on a connection.
//   - fresh: a connection that has carried no request.
//   - returning: an HTTP/1 connection whose response is complete and that is not
//     idle yet, since nobody has looked for surplus bytes.
//   - draining: an HTTP/2 connection that carries requests and takes no more.
//   - sensor: a connection that reached its idle limit and is kept to see when the
//     upstream closes it.
//   - worn: a connection that has carried all its requests, or for too long.
//   - suspect: an idle connection that is not handed out, because its socket did
//     not look alive, until it waits for data again.
//   - suspicious: a connection that has been idle for so long that what ended
//     another one may have ended it. It is closed.
//   - owner: a client connection, as far as a pool knows it.
//   - pinned: a connection that carries the requests of one owner only.
//   - founder: the request that the pinned connection of its owner is dialed for.
//   - waiter: a request that waits for a connection.
//   - warm: what min_idle keeps open.
//   - hedge: a further dial, because those under way take long.
//   - lost: a connection whose upstream acknowledges nothing.
//   - first: the first request of a connection, while nothing has come for it, not even of
//     TLS.
//   - to yield: to be closed for a first, where the upstream may serve one connection at
//     a time.
//
// Lock order: a Pool's lock, then that of a learner, those of net/http, that of the
// idle list of all pools, or that of an owner. The lock of the streams of a connection
// is taken after a Pool's and before those of net/http.
//
// Nothing logs, counts for metrics, closes a connection or makes a system call with a
// Pool's lock held: what has to be done is noted, and done by unlock.
package connpool
