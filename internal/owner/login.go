package owner

import "time"

const (
	// answers is how long a connection may be pinned without having carried
	// credentials: a client that was offered NTLM or Negotiate answers at once, or never.
	answers = 15 * time.Second

	// takes is how long a client has for the second step of a login, before its connection
	// makes room for others. The steps of NTLM are void on another connection: clients that
	// took each other's would never get in.
	takes = time.Second

	// lookThrough is the least time between two looks at all pinned connections.
	lookThrough = 250 * time.Millisecond
)

// A Login is how far a client has come with authenticating the connection that is
// pinned to it. A nil one belongs to a connection that is not pinned.
type Login struct {
	Began time.Time // when the connection was pinned
	sent  uint8     // how many requests it carried from the first with credentials on, up to 2
}

// Sent notes a request on the connection.
func (l *Login) Sent(credentials bool) {
	if l != nil && (credentials || l.sent > 0) {
		l.sent = min(l.sent+1, 2)
	}
}

// Failed tells whether the client has sent no credentials in time, when so much of it
// has passed since the login began.
func (l *Login) Failed(passed time.Duration) bool { return l.sent == 0 && passed >= answers }

// Underway tells whether a connection that has been idle for so long is in the middle of
// a login: the last request was the first with credentials.
func (l *Login) Underway(idle time.Duration) bool { return l != nil && l.sent == 1 && idle < takes }

// Due returns when to look at the connection, which has been idle for so long and reaches
// its limit at some time. There may be one for each of thousands of client connections,
// so what is due soon is looked at together.
func (l *Login) Due(limit, now time.Time, idle time.Duration) time.Time {
	over := limit
	switch {
	case l.sent == 0:
		over = l.Began.Add(answers)
	case l.Underway(idle):
		over = now.Add(takes - idle)
	}
	if over.Before(limit) {
		limit = over
	}
	if soon := now.Add(lookThrough); limit.Before(soon) {
		return soon
	}
	return limit
}
