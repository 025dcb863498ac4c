package sick

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/dns"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// A fleet is the upstreams of one proxy in one case.
type fleet struct {
	listeners []*fake.Listener
	faults    atomic.Int64 // connections that met the fault
	during    func(context.Context) error
	stopped   []*fake.Listener // whose connections still count
	names     *dns.Server      // that knows them as one host, or nil
}

// known is the name by which DNS knows upstreams.
const known = "app.test"

func (f *fleet) addrs() (addrs []string) {
	if f.names != nil {
		_, port, _ := net.SplitHostPort(f.listeners[0].Addr().String())
		return []string{net.JoinHostPort(known, port)}
	}
	for _, l := range f.listeners {
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

func (f *fleet) opened() (n int) {
	for _, l := range append(f.stopped, f.listeners...) {
		n += int(l.Accepted.Load())
	}
	return n
}

func (f *fleet) stop() {
	for _, l := range f.listeners {
		l.Stop()
	}
	if f.names != nil {
		f.names.Stop()
	}
}

// listen adds an upstream.
func (f *fleet) listen(admit func(int64, net.Conn) net.Conn) (*fake.Listener, error) {
	l, err := fake.Listen(admit)
	if err == nil {
		f.listeners = append(f.listeners, l)
	}
	return l, err
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }

// slowly answers after a time, as a small application does.
func slowly(d time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(d)
		ok(w, r)
	}
}

// atAge says when a server asks for a new connection, as balancers do that spread
// long-lived ones: with Connection: close, or GOAWAY.
func atAge(age time.Duration, handler http.HandlerFunc) (http.HandlerFunc, func(*http.Server)) {
	type opened struct{}
	aged := func(w http.ResponseWriter, r *http.Request) {
		if time.Since(r.Context().Value(opened{}).(time.Time)) > age {
			w.Header().Set("Connection", "close")
		}
		handler(w, r)
	}
	return aged, func(s *http.Server) {
		s.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, opened{}, time.Now())
		}
	}
}

// renewed is how old a connection through the balancer gets.
const renewed = 250 * time.Millisecond

// balanced is a TCP balancer in front of four servers, one of which does with its
// connections what fault does. They are renewed again and again, or the fault would be
// met only once.
func balanced(fault func(net.Conn)) func() (*fleet, error) {
	return func() (*fleet, error) {
		f := new(fleet)
		l, err := f.listen(func(n int64, c net.Conn) net.Conn {
			if n%4 != 1 {
				return c
			}
			f.faults.Add(1)
			fault(c)
			return nil
		})
		if err != nil {
			return nil, err
		}
		handler, change := atAge(renewed, ok)
		return f, l.Serve(true, handler, change)
	}
}

// one is a single upstream.
func one(serve func(*fleet, *fake.Listener) error) func() (*fleet, error) {
	return func() (*fleet, error) {
		f := new(fleet)
		l, err := f.listen(nil)
		if err != nil {
			return nil, err
		}
		return f, serve(f, l)
	}
}

// closingAtAge closes each connection when it is so old, idle or not, and says
// nothing before.
func closingAtAge(age time.Duration) func() (*fleet, error) {
	return one(func(_ *fleet, l *fake.Listener) error {
		l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
			for end := time.Now().Add(age); ; {
				_ = c.SetReadDeadline(end)
				if fake.ReadRequest(r) == nil {
					return
				}
				fake.Respond(c, "ok")
			}
		})
		return nil
	})
}

// forgetful are upstreams behind a box that forgets connections that have been idle
// for a time, and drops what comes on them then.
func forgetful(n int, after time.Duration) func() (*fleet, error) {
	return func() (*fleet, error) {
		f := new(fleet)
		for range n {
			l, err := f.listen(nil)
			if err != nil {
				return nil, err
			}
			l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
				for {
					_ = c.SetReadDeadline(time.Now().Add(after))
					if _, err := r.Peek(1); err != nil {
						if e, timeout := err.(net.Error); timeout && e.Timeout() && fake.Deafen(c) == nil {
							f.faults.Add(1)
							_ = c.SetReadDeadline(time.Time{})
							_, _ = r.Peek(1) // until the end
						}
						return
					}
					_ = c.SetReadDeadline(time.Time{})
					if fake.ReadRequest(r) == nil {
						return
					}
					fake.Respond(c, "ok")
				}
			})
		}
		return f, nil
	}
}

// rolling are servers that are restarted one after the other, again and again, each
// gracefully and down for a moment.
func rolling(n int, pause, down time.Duration) func() (*fleet, error) {
	return func() (*fleet, error) {
		f := new(fleet)
		running := make([]*http.Server, n)
		serve := func(i int, l *fake.Listener) error {
			return l.Serve(false, slowly(5*time.Millisecond), func(s *http.Server) { running[i] = s })
		}
		for i := range n {
			l, err := f.listen(nil)
			if err != nil {
				return nil, err
			}
			if err := serve(i, l); err != nil {
				return nil, err
			}
		}
		f.during = func(ctx context.Context) error {
			for i := 0; ; i = (i + 1) % n {
				sidebyside.Sleep(ctx, pause)
				if ctx.Err() != nil {
					return nil
				}
				addr := f.listeners[i].Addr().String()
				_ = running[i].Shutdown(ctx)
				sidebyside.Sleep(ctx, down)
				l, err := fake.ListenAt(addr, nil)
				if err != nil {
					return err
				}
				f.stopped = append(f.stopped, f.listeners[i])
				f.listeners[i] = l
				f.faults.Add(1)
				if err := serve(i, l); err != nil {
					return err
				}
			}
		}
		return f, nil
	}
}

// moving is a server whose name moves to another address after a time. The old one
// goes on, and from a grace time on says that it is the wrong one.
func moving(after, grace time.Duration) func() (*fleet, error) {
	return func() (*fleet, error) {
		f := new(fleet)
		old, err := fake.ListenAt("127.0.0.2:0", nil)
		if err != nil {
			return nil, err
		}
		f.listeners = append(f.listeners, old)
		_, port, _ := net.SplitHostPort(old.Addr().String())
		young, err := fake.ListenAt("127.0.0.3:"+port, nil)
		if err != nil {
			return nil, err
		}
		f.listeners = append(f.listeners, young)
		if f.names, err = dns.Start("127.0.0.2"); err != nil {
			return nil, err
		}
		var gone atomic.Bool
		err = old.Serve(false, func(w http.ResponseWriter, r *http.Request) {
			if gone.Load() {
				f.faults.Add(1)
				w.WriteHeader(http.StatusGone)
				return
			}
			ok(w, r)
		}, nil)
		if err == nil {
			err = young.Serve(false, ok, nil)
		}
		f.during = func(ctx context.Context) error {
			sidebyside.Sleep(ctx, after)
			f.names.Name("127.0.0.3")
			sidebyside.Sleep(ctx, grace)
			gone.Store(true)
			<-ctx.Done()
			return nil
		}
		return f, err
	}
}
