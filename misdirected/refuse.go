package misdirected

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// texts are the bodies of refusals.
var texts = map[int]string{
	http.StatusMisdirectedRequest: "421 Misdirected Request: this connection is not the right one for the host. Ask again on a new connection.\n",
	http.StatusBadRequest:         "400 Bad Request: the host is missing, invalid or ambiguous.\n",
}

// refuse answers a request, or returns the error for error routes to answer it.
//
// By default it answers at once: an error route for the pages of some upstream's
// failures would turn a refusal into a 200, so that no client asks again, or ask
// another upstream and so answer the very request that is refused.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, v verdict) error {
	status := v.reason.Status()
	header := w.Header()
	// RFC 7540 section 9.1.2 let caches keep a 421, and an alternative service
	// would lead the client back here (RFC 7838 section 6).
	header.Set("Cache-Control", "no-store")
	header.Del("Alt-Svc")
	if h.Close && status == http.StatusMisdirectedRequest && r.ProtoMajor < 3 {
		// net/http makes GOAWAY of it on HTTP/2. In HTTP/3 the field makes the
		// response malformed (RFC 9114 section 4.2).
		header.Set("Connection", "close")
	}
	if h.ErrorRoutes {
		return caddyhttp.Error(status, fmt.Errorf("host '%s' over a connection with SNI '%s': %s", v.host, v.sni, v.reason))
	}
	// These may be there for the response that is not to come.
	for _, field := range [...]string{"Content-Encoding", "Content-Range", "Etag", "Last-Modified"} {
		header.Del(field)
	}
	text := texts[status]
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, text) // the client is gone if this fails
	}
	return nil
}
