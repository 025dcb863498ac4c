package upstreampool

import "net/http"

// A ReplayReason says why a request was sent a second time. The values are
// labels of metrics.
type ReplayReason string

const (
	ReplayNothingWritten ReplayReason = "nothing_written"
	ReplayRefused        ReplayReason = "refused"
	ReplayNoResponse     ReplayReason = "no_response"
	ReplayMisdirected    ReplayReason = "misdirected"
)

// An outcome is what is known after the first attempt at a request.
type outcome struct {
	Method string
	Reused bool // the connection came out of the pool
	H2     bool

	// The client went away, the request body failed, or a timeout of ours
	// fired: nothing the upstream did, and nothing a replay would better.
	Ours bool

	Written    bool // bytes of the request were written (HTTP/1)
	Responded  bool // bytes of a response arrived (HTTP/1)
	Refused    bool // certainly not processed (HTTP/2)
	StreamOnly bool // the upstream reset this stream, the connection is well (HTTP/2)
	Raced      bool // the connection was idle for so long that the upstream may have closed it for that

	BodyKept bool // no body, or all that was read of it can be sent again
	Status   int  // 0: there is no response
}

// replay decides whether a request is sent once more, on a fresh connection,
// and why. There is no second replay: a retry of a retry piles load on an
// upstream that is in trouble already (RFC 9110 section 9.2.2).
//
// A request that is not idempotent is replayed only when it is certain that
// the upstream has not seen it. It is tempting to go by the time between
// writing and the error, but the kernel that answers with RST may belong to a
// process that read the request before it died.
func (o outcome) replay() (ReplayReason, bool) {
	switch {
	case o.Ours || !o.BodyKept:
		return "", false
	case o.Status == http.StatusMisdirectedRequest:
		// RFC 9110 section 15.5.20: whatever the method, over a different
		// connection. On a fresh one the answer would be the same.
		return ReplayMisdirected, o.Reused
	case o.Status != 0:
		return "", false
	case o.H2 && o.Refused:
		return ReplayRefused, true
	case !o.Reused || o.Responded || o.StreamOnly:
		return "", false
	case !o.H2 && !o.Written:
		return ReplayNothingWritten, true
	case idempotent(o.Method):
		return ReplayNoResponse, true
	}
	return "", false
}

// idempotent tells whether sending a request twice is like sending it once, by
// its method alone (RFC 9110 section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
