// Package streams finds out about an HTTP/2 connection what net/http does not tell:
// whether its SETTINGS have arrived, how many more requests it takes, whether a GOAWAY was
// received, and when the last stream ended.
//
// It does without the reservations of net/http. These deadlock when there are more than
// the SETTINGS that arrive later allow. Each request waits for the number of streams and
// reservations to fall below the limit. But the reservations are those of the requests
// that wait.
package streams

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// assumed is what net/http takes for the limit until the SETTINGS arrive
// (RFC 9113 section 6.5.2 recommends that it be no smaller).
const assumed = 100

// Streams are those of one connection. All methods may be called at the same time.
type Streams struct {
	cc     *http.ClientConn
	known  *Known
	dialed time.Duration // since started
	read   func()        // runs when a response is read
	left   func()        // runs when a GOAWAY was noticed

	answered atomic.Int32 // requests whose response has begun to arrive
	settings atomic.Bool  // the SETTINGS of the upstream have arrived
	allowed  atomic.Int32 // the streams it allowed when that was last seen
	asked    atomic.Bool  // net/http is being asked whether there was a GOAWAY
	gone     atomic.Bool  // there was
	running  bool         // a stream began since the clock was set; it has the clock's lock
	clock
}

// started is what monotonic times are relative to.
var started = time.Now()

// Init makes s the streams of cc, whose dial began at dialed. What is learned of the
// upstream is noted in known. When nobody reads a response any more, read runs. When
// Leaving has become true, left runs.
func (s *Streams) Init(cc *http.ClientConn, dialed time.Time, known *Known, read, left func()) {
	s.cc, s.dialed, s.known, s.read, s.left = cc, dialed.Sub(started), known, read, left
}

// Left returns how many streams the connection has to give, and how many it allows at
// a time. net/http tells what it has to give and what is under way one after the other,
// and streams begin and end in between. After a GOAWAY it has none to give, and seems
// to allow what is under way.
func (s *Streams) Left() (available, limit int) {
	for inFlight, before := s.cc.InFlight(), 0; ; {
		before, available = inFlight, s.cc.Available()
		if inFlight = s.cc.InFlight(); inFlight == before {
			return available, available + inFlight
		}
	}
}

// Room returns how many more requests the connection can take now, if it carries some.
func (s *Streams) Room(carried int) int {
	answered := int(s.answered.Load()) // first: what begins to arrive now is counted twice, not left out
	known := s.LookForSettings()
	available, limit := s.Left()
	return room(carried, answered, available, limit, known)
}

// room is how many more requests there is room for.
//
// A response that has fully arrived no longer occupies a stream, even if the
// client still reads it. Which responses these are cannot be seen: of those that
// have begun to arrive, at most as many are under way as there are streams.
//
// Until the SETTINGS are here, net/http takes the limit for 100, and it is not known
// whether anybody is there. One request finds out.
func room(carried, answered, available, limit int, known bool) int {
	inFlight := limit - available
	if available == 0 {
		return 0
	}
	if !known {
		limit = 1
	}
	return limit - (carried - answered + min(answered, inFlight))
}

// Seen tells whether the SETTINGS of the upstream were seen.
func (s *Streams) Seen() bool { return s.settings.Load() }

// LookForSettings tells whether the SETTINGS have arrived. It cannot tell for a limit of
// 100: that takes somebody who reads, and calls NoteSettings.
func (s *Streams) LookForSettings() bool {
	if s.Seen() {
		return true
	}
	if _, limit := s.Left(); limit != assumed && s.cc.Err() == nil {
		s.NoteSettings()
	}
	return s.Seen()
}

// NoteSettings notes that the SETTINGS have arrived.
func (s *Streams) NoteSettings() {
	if s.settings.Swap(true) {
		return
	}
	s.known.usable.add(time.Since(started) - s.dialed)
	// An assumption is no news. Nothing available tells nothing either after a GOAWAY.
	available, limit := s.Left()
	if limit != assumed && (available > 0 || s.known.Limit() == 0) {
		s.allows(limit)
	}
}

// NoteLimit notes how many streams the upstream allows now, if that can be told.
func (s *Streams) NoteLimit() {
	if available, limit := s.Left(); available > 0 && s.LookForSettings() {
		s.allows(limit)
	}
}

func (s *Streams) allows(n int) {
	n = min(n, 1<<20)
	s.allowed.Store(int32(n))
	s.known.allows(n)
}

// Leaving tells whether a connection that carries requests has received a GOAWAY, as far
// as is known. Where it takes none, though fewer are under way than it allowed, its
// SETTINGS may also allow fewer now. Then net/http is asked.
func (s *Streams) Leaving() bool {
	if s.cc.Available() > 0 {
		return false
	}
	available, limit := s.Left()
	if allowed := s.allowed.Load(); available == 0 && limit < int(allowed) && !s.gone.Load() && !s.asked.Swap(true) {
		go s.ask(allowed, int32(limit))
	}
	return s.gone.Load()
}

// ask finds out why the upstream, which allowed so many streams, seems to allow but limit.
func (s *Streams) ask(allowed, limit int32) {
	if s.Usable() {
		s.allowed.CompareAndSwap(allowed, limit)
	} else {
		s.gone.Store(true)
		s.left()
	}
	s.asked.Store(false)
}

// Usable tells whether a connection that has no stream to give may get one
// later: its SETTINGS allow none for now (RFC 9113 section 5.1.2). One that has
// received a GOAWAY never does. net/http tells the two apart only when a request
// is sent: at once if there will be no stream. This one does not come further than
// that, since its host name cannot be sent.
func (s *Streams) Usable() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	req := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "probe"}, Host: "\x00",
		Header: make(http.Header), Body: http.NoBody,
	}
	_, err := s.cc.RoundTrip(req.WithContext(ctx))
	return err != nil && !replay.WasRefused(err)
}
