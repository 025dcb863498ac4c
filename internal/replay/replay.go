// Package replay is the one answer to "may this request be sent once more?".
//
//   - replay.go: the decision, from what is known after the first attempt
//   - body.go, view.go: a request body that two attempts can read, and what one sees of it
//   - version.go: whether the upstream takes a body of unknown length
//   - errors.go: what errors of net/http and x/net say about the first attempt
//
// It knows no connections and no pool.
package replay

import (
	"io"
	"net/http"
)

// A Reason says why a request was sent a second time. The values are
// labels of metrics.
type Reason string

const (
	NothingWritten Reason = "nothing_written"
	Refused        Reason = "refused"
	NoResponse     Reason = "no_response"
	Misdirected    Reason = "misdirected"
)

// An Outcome is what is known after the first attempt at a request.
type Outcome struct {
	Idempotent bool // sending the request twice is like sending it once
	Reused     bool // the connection came out of the pool
	H2         bool
	BodyKept   bool // no body, or all that was read of it can be sent again
	Status     int  // 0: there is no response

	Failure
	Silent bool // the connection was given up, since the upstream answered nothing, not even in TCP
}

// A Failure is what a connection saw of a request that failed on it.
type Failure struct {
	// The client went away, the request body failed, or a timeout of ours
	// fired: nothing the upstream did, and nothing a replay would better.
	Ours bool

	Written    bool // bytes of the request were written (HTTP/1)
	Responded  bool // bytes of a response arrived (HTTP/1)
	Refused    bool // certainly not processed (HTTP/2)
	StreamOnly bool // the upstream reset this stream, the connection is well (HTTP/2)
	Raced      bool // the connection was idle for so long that the upstream may have closed it for that
}

// Decide says whether a request is sent once more, on a fresh connection,
// and why. There is no second replay: a retry of a retry piles load on an
// upstream that is in trouble already (RFC 9110 section 9.2.2).
//
// A request that is not idempotent is replayed only when it is certain that
// the upstream has not seen it. It is tempting to go by the time between
// writing and the error, but the kernel that answers with RST may belong to a
// process that read the request before it died.
func (o Outcome) Decide() (Reason, bool) {
	switch {
	case o.Ours || !o.BodyKept:
		return "", false
	case o.Status == http.StatusMisdirectedRequest:
		// RFC 9110 section 15.5.20: whatever the method, over a different
		// connection. On a fresh one the answer would be the same.
		return Misdirected, o.Reused
	case o.Status != 0:
		return "", false
	case o.H2 && o.Refused:
		return Refused, true
	case !o.Reused && !o.Silent || o.Responded || o.StreamOnly:
		return "", false
	case !o.H2 && !o.Written:
		return NothingWritten, true
	case o.Idempotent:
		return NoResponse, true
	}
	return "", false
}

// Writable tells whether net/http can write the head of a request in HTTP/1. It finds out
// too late, and closes the connection for it. HTTP/3 clients can name trailers that may
// not be any (RFC 9110 section 6.5.1).
func Writable(req *http.Request) bool {
	head := *req
	head.Body, head.ContentLength = nil, 0
	if req.Body != nil && req.ContentLength <= 0 { // trailers go with chunks alone
		head.Body, head.TransferEncoding = http.NoBody, []string{"chunked"}
	}
	return head.Write(io.Discard) == nil
}

// Idempotent tells whether sending a request twice is like sending it once: by its
// method (RFC 9110 section 9.2.2), or because it has a key by which the upstream
// knows it again. The keys are those of net/http: an Idempotency-Key or
// X-Idempotency-Key field, whatever its value.
func Idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xkey := req.Header["X-Idempotency-Key"]
	return key || xkey
}
