package connpool

import (
	"maps"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
)

// located is a connection to an address.
type located struct {
	net.Conn
	to string
}

func (c located) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.to + ":80"))
}

// Connections to an address that is left carry what they carry to its end, and
// nothing more. The others stay as they are.
//
// Checklist: P31.
func TestLeave(t *testing.T) {
	const old, other = "192.0.2.1", "192.0.2.2"
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/1", true: "HTTP/2"}[h2], func(t *testing.T) {
			to := old
			inBubble(t, func(_ *Config, b *bench) {
				b.h2 = h2
				serve := answer
				if h2 {
					serve = frames(func(_ int64, f *peer) {
						for stream := nextRequest(f); stream != 0; stream = nextRequest(f) {
							respond(f, stream, "x")
						}
					})
				}
				b.connect = func() (net.Conn, error) {
					client, server := net.Pipe()
					go func() { defer server.Close(); serve(0, server) }()
					return located{client, to}, nil
				}
			}, func(t *testing.T, b *bench) {
				fresh := anything
				fresh.Freshness = Fresh
				busy, idles, unused := mustAcquire(t, b.Pool, fresh), mustAcquire(t, b.Pool, fresh), mustAcquire(t, b.Pool, fresh)
				to = other
				stays := mustAcquire(t, b.Pool, fresh)
				for _, l := range []*Lease{&idles, &stays} {
					if _, err := get(l); err != nil {
						t.Fatal(err)
					}
				}
				unused.Unused()
				synctest.Wait()
				a, o := netip.MustParseAddr(old), netip.MustParseAddr(other)
				if got, want := b.Remotes(), (map[netip.Addr]bool{a: true, o: true}); !maps.Equal(got, want) || busy.Remote() != a {
					t.Errorf("Remotes = %v, want %v", got, want)
				}

				if n := b.Leave([]netip.Addr{a}); n != 3 {
					t.Errorf("%d connections were left, want 3", n)
				}
				synctest.Wait()
				if n := b.seen.closed(CloseDNS); n != 2 {
					t.Errorf("%d connections were closed at once, want the 2 that carried nothing", n)
				}
				if n := b.Snapshot().Connections["draining"]; h2 && n != 1 {
					t.Errorf("%d connections are draining, want the one that carries a request", n)
				}
				if l := mustAcquire(t, b.Pool, anything); l.Remote() != o || !l.Reused {
					t.Errorf("the next request goes to %v", l.Remote())
				} else {
					l.Unused()
				}
				if _, err := get(&busy); err != nil {
					t.Errorf("the request that was under way: %v", err)
				}
				synctest.Wait()
				if n := b.seen.closed(CloseDNS); n != 3 {
					t.Errorf("%d connections were closed in the end, want 3", n)
				}
				if got, want := b.Remotes(), (map[netip.Addr]bool{o: true}); !maps.Equal(got, want) {
					t.Errorf("Remotes = %v afterwards, want %v", got, want)
				}
			})
		})
	}
}

// A connection without an address is nobody's to leave.
func TestLeaveWithoutAddress(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		if got := b.Remotes(); len(got) != 0 {
			t.Errorf("Remotes = %v of connections without an address", got)
		}
		if n := b.Leave([]netip.Addr{netip.MustParseAddr("192.0.2.1")}); n != 0 {
			t.Errorf("%d connections were left", n)
		}
	})
}
