package replay

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestReplay(t *testing.T) {
	// A request on a reused connection that was closed without an answer.
	dead := Outcome{Reused: true, BodyKept: true, Failure: Failure{Written: true}}
	for _, tc := range []struct {
		name   string
		method string
		change func(*Outcome)
		want   Reason // empty: not replayed
	}{
		{"GET", "GET", nil, NoResponse},
		{"HEAD", "HEAD", nil, NoResponse},
		{"OPTIONS", "OPTIONS", nil, NoResponse},
		{"PUT with its body kept", "PUT", nil, NoResponse},
		{"DELETE", "DELETE", nil, NoResponse},
		{"POST may have been seen", "POST", nil, ""},
		{"PATCH may have been seen", "PATCH", nil, ""},
		{"methods are case-sensitive", "get", nil, ""},
		{"CONNECT", "CONNECT", nil, ""},

		{"POST with nothing written", "POST", func(o *Outcome) { o.Written = false }, NothingWritten},
		{"POST with nothing written, body lost", "POST", func(o *Outcome) { o.Written, o.BodyKept = false, false }, ""},
		{"PUT with its body lost", "PUT", func(o *Outcome) { o.BodyKept = false }, ""},
		{"GET on a fresh connection", "GET", func(o *Outcome) { o.Reused = false }, ""},
		{"POST on a fresh connection, nothing written", "POST", func(o *Outcome) { o.Reused, o.Written = false, false }, ""},
		{"GET with a byte of a response", "GET", func(o *Outcome) { o.Responded = true }, ""},
		{"GET that the client gave up", "GET", func(o *Outcome) { o.Ours = true }, ""},
		{"POST that the client gave up, nothing written", "POST", func(o *Outcome) { o.Ours, o.Written = true, false }, ""},

		{"GET on a fresh connection that went silent", "GET", func(o *Outcome) { o.Reused, o.Silent = false, true }, NoResponse},
		{"POST on a connection that went silent", "POST", func(o *Outcome) { o.Silent = true }, ""},
		{"POST on a fresh connection that went silent", "POST", func(o *Outcome) { o.Reused, o.Silent = false, true }, ""},

		{"h2 POST refused", "POST", func(o *Outcome) { o.H2, o.Refused = true, true }, Refused},
		{"h2 POST refused on a fresh connection", "POST", func(o *Outcome) { o.H2, o.Refused, o.Reused = true, true, false }, Refused},
		{"h2 POST refused, body lost", "POST", func(o *Outcome) { o.H2, o.Refused, o.BodyKept = true, true, false }, ""},
		{"h2 POST, connection lost", "POST", func(o *Outcome) { o.H2, o.Written = true, false }, ""},
		{"h2 GET, connection lost", "GET", func(o *Outcome) { o.H2 = true }, NoResponse},
		{"h2 GET, stream reset", "GET", func(o *Outcome) { o.H2, o.StreamOnly = true, true }, ""},

		{"421", "POST", func(o *Outcome) { o.Status = 421 }, Misdirected},
		{"421 on h2", "GET", func(o *Outcome) { o.H2, o.Status = true, 421 }, Misdirected},
		{"421 on a fresh connection", "GET", func(o *Outcome) { o.Reused, o.Status = false, 421 }, ""},
		{"421, body lost", "POST", func(o *Outcome) { o.BodyKept, o.Status = false, 421 }, ""},
		{"any other status", "GET", func(o *Outcome) { o.Status = 503 }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := dead
			o.Idempotent = Idempotent(&http.Request{Method: tc.method})
			if tc.change != nil {
				tc.change(&o)
			}
			reason, ok := o.Decide()
			if ok != (tc.want != "") || ok && reason != tc.want {
				t.Errorf("replay of %+v = %q, %v; want %q", o, reason, ok, tc.want)
			}
		})
	}
}

// A key makes a request idempotent by the rule of net/http.
//
// Checklist: P32.
func TestIdempotencyKey(t *testing.T) {
	for _, tc := range []struct {
		name   string
		method string
		header http.Header
		want   bool
	}{
		{"POST", "POST", nil, false},
		{"POST with a key", "POST", http.Header{"Idempotency-Key": {"abc"}}, true},
		{"POST with the older field", "POST", http.Header{"X-Idempotency-Key": {"abc"}}, true},
		{"an empty key", "POST", http.Header{"Idempotency-Key": {""}}, true},
		{"no value, which is not sent", "POST", http.Header{"Idempotency-Key": {}}, true},
		{"a field like it", "POST", http.Header{"Idempotency-Keys": {"abc"}}, false},
		{"PATCH with a key", "PATCH", http.Header{"Idempotency-Key": {"abc"}}, true},
		{"GET", "GET", nil, true},
		{"no method is GET", "", nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Idempotent(&http.Request{Method: tc.method, Header: tc.header}); got != tc.want {
				t.Errorf("= %v, want %v", got, tc.want)
			}
		})
	}
}

// What net/http cannot write to an HTTP/1 connection is told by the head of the request.
func TestWritable(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		want   bool
	}{
		{"no body", func(*http.Request) {}, true},
		{"a body of known length", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("abc")), 3 }, true},
		{"chunks and trailers", func(r *http.Request) {
			r.Body, r.Trailer = io.NopCloser(strings.NewReader("abc")), http.Header{"X": nil}
		}, true},
		{"a trailer that may not be one", func(r *http.Request) {
			r.Body, r.Trailer = io.NopCloser(strings.NewReader("abc")), http.Header{"Content-Length": nil}
		}, false},
		{"one that is left out", func(r *http.Request) {
			r.Body, r.ContentLength, r.Trailer = io.NopCloser(strings.NewReader("abc")), 3, http.Header{"Content-Length": nil}
		}, true},
		{"a control character in the query", func(r *http.Request) { r.URL.RawQuery = "a=\x00" }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST"} {
				req, _ := http.NewRequest(method, "http://h.test/", nil)
				tc.change(req)
				if got := Writable(req); got != tc.want {
					t.Errorf("%s: %v, want %v", method, got, tc.want)
				}
				if req.Body != nil {
					if b, err := io.ReadAll(req.Body); string(b) != "abc" || err != nil {
						t.Errorf("%s: the body is %q then, %v", method, b, err)
					}
				}
			}
		})
	}
}
