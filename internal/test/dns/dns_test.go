package dns

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestServer(t *testing.T) {
	s := Serve(t, "192.0.2.1", "192.0.2.2", "2001:db8::1")
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", s.Addr())
	}}
	ask := func(patience time.Duration) ([]string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		addrs, err := r.LookupHost(ctx, "h.test.")
		slices.Sort(addrs)
		return addrs, err
	}
	if got, err := ask(time.Minute); err != nil || !slices.Equal(got, []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}) {
		t.Errorf("answer = %v, %v", got, err)
	}
	s.Fail(dnsmessage.RCodeServerFailure)
	if got, err := ask(time.Minute); err == nil {
		t.Errorf("answer = %v, want an error", got)
	}
	s.Mute()
	if got, err := ask(time.Second); err == nil {
		t.Errorf("answer = %v, want a timeout", got)
	}
	s.Name("192.0.2.3")
	if got, err := ask(time.Minute); err != nil || !slices.Equal(got, []string{"192.0.2.3"}) || s.Asked.Load() == 0 {
		t.Errorf("answer = %v, %v", got, err)
	}
}
