package streams

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/test/h2"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// How many more requests a connection takes that allows four streams.
func TestRoom(t *testing.T) {
	for _, test := range []struct {
		name              string
		carried, answered int
		available         int
		known             bool
		want              int
	}{
		{"nothing is under way", 0, 0, 4, true, 4},
		{"one was sent", 1, 0, 3, true, 3},
		{"one was leased, and not sent yet", 1, 0, 4, true, 3},
		{"one arrives", 1, 1, 3, true, 3},
		{"one has arrived, and is still read", 1, 1, 4, true, 4},
		{"of three that are read, one may be under way", 3, 3, 3, true, 3},
		{"as many as there are streams", 4, 0, 0, true, 0},
		{"a GOAWAY was received", 1, 0, 0, true, 0},
		{"nobody knows who is there", 0, 0, 4, false, 1},
		{"one finds out", 1, 0, 3, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := room(test.carried, test.answered, test.available, 4, test.known); got != test.want {
				t.Errorf("room for %d, want %d", got, test.want)
			}
		})
	}
}

// dial opens an HTTP/2 connection to a peer that has said nothing so far.
func dial(t *testing.T) (s *Streams, peer net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	//lint:ignore SA1019 Caddy configures HTTP/2 like this
	if err := http2.ConfigureTransport(tr); err != nil {
		t.Fatal(err)
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	s = new(Streams)
	cc, err := tr.NewClientConn(context.Background(), "http", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.Init(cc, time.Now(), new(Known), func() {}, func() {})
	if peer, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close(); cc.Close() })
	return s, peer
}

// What an upstream allows is known from its SETTINGS on, and a GOAWAY is told from
// having no stream left.
func TestWhatTheUpstreamAllows(t *testing.T) {
	s, conn := dial(t)
	if s.LookForSettings() || s.Room(0) != 1 || s.Room(1) != 0 {
		t.Errorf("before SETTINGS: seen %v, room for %d, then %d", s.Seen(), s.Room(0), s.Room(1))
	}
	peer, err := h2.Server(conn, conn, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	if err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "SETTINGS", s.LookForSettings)
	if available, limit := s.Left(); available != 2 || limit != 2 || s.known.Limit() != 2 || s.known.Usable() == 0 {
		t.Errorf("SETTINGS allow 2: %d of %d left; known: %d, %v", available, limit, s.known.Limit(), s.known.Usable())
	}
	if s.Leaving() || !s.Usable() {
		t.Error("it is leaving")
	}
	ids := beginTwo(t, s, peer, conn.LocalAddr())
	if s.NoteLimit(); s.Room(2) != 0 || s.Leaving() {
		t.Errorf("both streams are under way: room for %d, leaving = %v", s.Room(2), s.Leaving())
	}
	if err := peer.WriteRSTStream(ids[0], http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "the end of a stream", func() bool { return s.Room(1) == 1 })
	if err := peer.WriteGoAway(ids[1], http2.ErrCodeNo, nil); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "GOAWAY", s.Leaving)
	if s.Room(1) != 0 || s.Usable() {
		t.Errorf("after a GOAWAY: room for %d, usable = %v", s.Room(1), s.Usable())
	}
}

// beginTwo begins two requests, and returns their streams.
func beginTwo(t *testing.T, s *Streams, peer *h2.Peer, to net.Addr) (ids []uint32) {
	t.Helper()
	for range 2 {
		req, err := http.NewRequest("GET", "http://"+to.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if resp, err := s.cc.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		}()
	}
	for len(ids) < 2 {
		frame, err := peer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := frame.(*http2.MetaHeadersFrame); ok {
			ids = append(ids, frame.Header().StreamID)
		}
	}
	return ids
}

// SETTINGS that allow fewer streams than before are no GOAWAY, though there is nothing
// available either.
func TestFewerStreamsAreNoGoAway(t *testing.T) {
	s, conn := dial(t)
	allow := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n} }
	peer, err := h2.Server(conn, conn, allow(5))
	if err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "SETTINGS", s.LookForSettings)
	ids := beginTwo(t, s, peer, conn.LocalAddr())
	if err := peer.WriteSettings(allow(1)); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "fewer streams", func() bool { return s.Room(2) <= 0 })
	for began := time.Now(); time.Since(began) < 200*time.Millisecond; time.Sleep(time.Millisecond) { // asking takes 100 ms
		if s.Leaving() {
			t.Fatal("it is leaving")
		}
	}
	if err := peer.WriteGoAway(ids[1], http2.ErrCodeNo, nil); err != nil {
		t.Fatal(err)
	}
	if err := peer.WriteRSTStream(ids[0], http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "GOAWAY", s.Leaving)
}

// The idle clock of an HTTP/2 connection starts when its last stream ends.
func TestQuiet(t *testing.T) {
	s, _ := dial(t)
	otherwise := time.Now()
	if _, known := s.AllEndedAt(); known || !s.LastEnd(otherwise).Equal(otherwise) {
		t.Error("a stream ended before there was one")
	}
	if s.Ended(false); !s.LastEnd(otherwise).Equal(otherwise) {
		t.Error("a stream ended that did not begin")
	}
	s.Ended(true)
	if at, known := s.AllEndedAt(); !known || at.Before(otherwise) || !s.LastEnd(otherwise).Equal(at) {
		t.Errorf("quiet since %v, %v", at, known)
	}
}

// Responses arrive until they are read to the end or closed, which is told once. The oldest
// one says for how long.
func TestResponses(t *testing.T) {
	read := 0
	var s Streams
	s.Init(nil, time.Now(), nil, func() { read++ }, nil)
	if s.Lasts(time.Now(), 0) {
		t.Error("there is no response")
	}
	began := time.Now()
	old := s.Arrives(io.NopCloser(strings.NewReader("old")), began)
	young := s.Arrives(io.NopCloser(strings.NewReader("young")), began.Add(time.Minute))
	later := began.Add(time.Second)
	if n := s.Arriving(); n != 2 || !s.Lasts(later, time.Second) || s.Lasts(later, time.Second+1) {
		t.Errorf("%d responses arrive", n)
	}
	if n, err := old.Read(make([]byte, 3)); n != 3 || err != nil || read != 0 {
		t.Errorf("%d bytes, %v, and %d responses read, though one more Read shows the end", n, err, read)
	}
	_, _ = io.Copy(io.Discard, old)
	_ = old.Close()
	if read != 1 || s.Arriving() != 1 || s.Lasts(later, 0) {
		t.Errorf("%d responses arrive after %d have ended, want one and one", s.Arriving(), read)
	}
	_ = young.Close()
	_ = young.Close()
	if read != 2 || s.Arriving() != 0 {
		t.Errorf("%d responses arrive after %d have ended, want none", s.Arriving(), read)
	}
}

// What is known of an upstream: its last limit, and a time that forgets outliers.
func TestKnown(t *testing.T) {
	var k Known
	for _, test := range []struct{ allows, limit int }{{0, 0}, {100, 100}, {0, 100}, {7, 7}} {
		if k.allows(test.allows); k.Limit() != test.limit {
			t.Errorf("allowed %d: the limit is %d, want %d", test.allows, k.Limit(), test.limit)
		}
	}
	if k.Usable() != 0 {
		t.Error("nothing was dialed")
	}
	for _, test := range []struct{ took, usable time.Duration }{{400, 400}, {800, 500}, {100, 400}} {
		if k.usable.add(test.took); k.Usable() != test.usable {
			t.Errorf("took %d: usable after %d, want %d", test.took, k.Usable(), test.usable)
		}
	}
}
