package upstreampool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
)

// A connUser is whom a server takes all requests of a connection for.
type connUser struct{ name atomic.Pointer[string] }

// connectionBound starts a server, HTTP/1 or h2c, whose connections are authenticated
// by Negotiate, or challenge. Some requests take long, some end without a response.
func connectionBound(t *testing.T, h2 bool) string {
	type key struct{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := r.Context().Value(key{}).(*connUser)
		if name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Negotiate "); ok {
			user.name.Store(&name)
		}
		switch rand.IntN(20) {
		case 0:
			panic(http.ErrAbortHandler)
		case 1:
			time.Sleep(5 * time.Millisecond)
		case 2:
			w.WriteHeader(http.StatusMisdirectedRequest)
			return
		}
		name := user.name.Load()
		if name == nil {
			w.Header().Set("WWW-Authenticate", "Negotiate")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, *name)
	}))
	srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, key{}, new(connUser))
	}
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(!h2)
	srv.Config.Protocols.SetUnencryptedHTTP2(h2)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// Users send several requests at a time, with and without credentials, in a pool that
// is full now and then. Requests are given up, and client connections end, at any
// time. Nobody is taken for another, nothing hangs, and nothing is left.
//
// Checklist: P30.
func TestOwnersAtRandom(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, most := range []int{0, 4} {
			t.Run(fmt.Sprintf("h2=%v, at most %d", h2, most), func(t *testing.T) {
				addr := connectionBound(t, h2)
				tr := newTransport(t, func(tr *Transport) {
					if h2 {
						tr.Versions = []string{"h2c", "2"}
					}
					tr.MaxConnsPerHost, tr.MaxRequests = most, 20
				})
				var answered atomic.Int64
				var wg sync.WaitGroup
				for i := range 12 {
					owner := new(atomic.Pointer[connpool.Owner])
					owner.Store(new(connpool.Owner))
					for range 1 + i%3 {
						wg.Go(func() { requestsOf(t, tr, addr, fmt.Sprint("user", i), owner, &answered) })
					}
				}
				wg.Wait()
				if answered.Load() < 100 {
					t.Errorf("only %d requests answered with a page", answered.Load())
				}
				eventually(t, "no pins", func() bool {
					for _, p := range tr.core.all() {
						if p.Pins() {
							return false
						}
					}
					return true
				})
			})
		}
	}
}

// requestsOf sends requests of a user, whose client connection ends now and then.
func requestsOf(t *testing.T, tr *Transport, addr, user string, owner *atomic.Pointer[connpool.Owner], answered *atomic.Int64) {
	for range 100 {
		mine := owner.Load()
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), ownerKey{}, mine), 30*time.Second)
		if rand.IntN(10) == 0 {
			time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, cancel)
		}
		req := requestTo(t, ctx, "GET", "tcp", addr, nil)
		if rand.IntN(2) == 0 {
			req.Header.Set("Authorization", "Negotiate "+user)
		}
		status, body, err := send(tr, req)
		switch {
		case err == nil && status == 200 && body != user:
			t.Errorf("%s is taken for %s", user, body)
		case err == nil && status == 200:
			answered.Add(1)
		case ctx.Err() == context.DeadlineExceeded:
			t.Errorf("it hangs: %v", err)
		}
		cancel()
		if rand.IntN(15) == 0 && owner.CompareAndSwap(mine, new(connpool.Owner)) {
			mine.End()
		}
	}
	owner.Load().End()
}
