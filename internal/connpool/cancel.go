package connpool

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// An event stream outlives an outage that costs other requests on its HTTP/2 connection
// their patience. So a request that joins a response which has been arriving for long
// can be canceled by itself. That takes a context of its own, so not all have it.

// lasting is for how long a response must have been arriving.
const lasting = time.Second

var errGivenUp = errors.New("giving up request: the upstream acknowledges nothing")

// A canceler cancels a request, but not its connection.
type canceler struct {
	cancel context.CancelCauseFunc
	used   bool // guarded by the pool's lock
}

// cancelable makes the request one that can be canceled by itself. Its context ends with
// that of the client's request.
func (l *Lease) cancelable(req *http.Request) *http.Request {
	ctx, cancel := context.WithCancelCause(req.Context())
	l.canceler = &canceler{cancel: cancel}
	l.pool.lock()
	defer l.pool.unlock()
	if l.c.cancelers == nil {
		l.c.cancelers = make(map[*canceler]bool)
	}
	l.c.cancelers[l.canceler] = true
	return req.WithContext(ctx)
}

// dropCanceler says that the request waits no more.
func (l *Lease) dropCanceler() {
	l.pool.lock()
	defer l.pool.unlock()
	delete(l.c.cancelers, l.canceler)
}

// giveUpLocked gives up the requests that wait on c, for what was heard of it. If
// it carries responses as well, and can do without those requests, it stays for them, and
// takes no more.
func (p *Pool) giveUpLocked(c *conn, h listened) {
	arriving := c.streams.Arriving()
	if arriving == 0 || c.leases-arriving > len(c.cancelers) {
		c.net.KeepSilence(h.silence)
		p.closeLocked(c, CloseUnacked)
		return
	}
	p.retreatLocked(c)
	for one := range c.cancelers {
		one.used = true
		p.afterLocked(func() { one.cancel(errGivenUp) })
	}
}
