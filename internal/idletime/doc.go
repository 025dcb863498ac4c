// Package idletime is the one answer to "how long may a connection to this
// upstream be idle?". It is pure: it opens no connection, knows no pool, and is
// told the time.
//
//   - announced.go: what a Keep-Alive field says
//   - limit.go: the idle limit, computed from all that is known
//   - closes.go: what closes of idle connections teach
//   - pattern.go: closes that are no idle timeout, by age or at random
//   - evidence.go: how old connections were seen open while K is unknown
//   - losses.go: requests whose connections were forgotten on the way
//   - reuse.go: upstreams that close right after each response
//   - margin.go: how far below the upstream's timeout to stay
//   - sensor.go: when a connection is set aside to see how long it lives
//   - serial.go: upstreams that serve one connection at a time
//   - memory.go: what is worth knowing in another process
//   - optional.go: a duration that may be unknown
//   - learner.go: the lock around all of these, and what a pool calls
//
// The words have one meaning each:
//
//   - K, or the keep-alive value: after how long the upstream closes an idle
//     connection.
//   - limit: how long a connection may be idle and still be used.
//   - margin: how far below K the limit stays.
//   - close: the upstream closed an idle connection.
//   - early close: one below K that nothing has confirmed yet; it caps the limit.
//   - pattern: closes that no idle timeout explains; they cap and teach nothing.
//   - sighting: a connection was seen open at an idle age.
//   - witness: an earlier close that can confirm one of the same age.
//   - promise: K by configuration or announcement, whatever was learned.
//   - race: a request met a connection that was being closed.
//   - loss: a request was sent on a connection that had been idle, and nothing was
//     acknowledged.
//   - sensor: a connection that reached its limit and is kept to see when the
//     upstream closes it.
//   - ceiling: the age beyond which it does not matter how long a connection lives.
package idletime
