package connpool

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// An event stream outlives an outage that costs other requests on its HTTP/2 connection
// their patience. So a request that joins a response which has been arriving for long
// can be given up by itself. That takes a context of its own, so not all have it.

// lasting is for how long a response must have been arriving.
const lasting = time.Second

var errGivenUp = errors.New("giving up request: the upstream acknowledges nothing")

// apart is what it takes to give up a request, but not its connection.
type apart struct {
	giveUp context.CancelCauseFunc
	over   bool // guarded by the pool's lock
}

// part makes the request one that can be given up by itself. Its context ends with
// that of the client's request.
func (l *Lease) part(req *http.Request) *http.Request {
	ctx, cancel := context.WithCancelCause(req.Context())
	l.apart = &apart{giveUp: cancel}
	l.pool.lock()
	defer l.pool.unlock()
	if l.c.apart == nil {
		l.c.apart = make(map[*apart]bool)
	}
	l.c.apart[l.apart] = true
	return req.WithContext(ctx)
}

// rejoin says that the request waits no more.
func (l *Lease) rejoin() {
	l.pool.lock()
	defer l.pool.unlock()
	delete(l.c.apart, l.apart)
}

// giveUpLocked gives up the requests that wait on c, for what was heard of it. If
// it carries responses as well, and can do without those requests, it stays for them, and
// takes no more.
func (p *Pool) giveUpLocked(c *conn, h listened) {
	arriving := c.streams.Arriving()
	if arriving == 0 || c.leases-arriving > len(c.apart) {
		c.net.KeepSilence(h.silence)
		p.closeLocked(c, CloseUnacked)
		return
	}
	p.retreatLocked(c)
	for a := range c.apart {
		a.over = true
		p.afterLocked(func() { a.giveUp(errGivenUp) })
	}
}
