package idletime

import (
	"maps"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// maxAnnounced is what an announced timeout is cut to. It is far above any
// idle limit, so it only keeps the arithmetic from overflowing.
const maxAnnounced = 24 * time.Hour

// Asking returns req with a Connection field: Apache and Tomcat announce their timeout
// only to those who ask. The caller's header stays as it is.
func Asking(req *http.Request) *http.Request {
	asking := *req
	asking.Header = maps.Clone(req.Header)
	if asking.Header == nil {
		asking.Header = make(http.Header, 1)
	}
	asking.Header["Connection"] = []string{"keep-alive"}
	return &asking
}

// AnnouncedTimeout returns the idle timeout that an HTTP/1 response announces
// in its Keep-Alive field (RFC 2068 section 19.7.1.1), and whether there is one.
//
// The field counts only when Connection names it: an intermediary that knows
// nothing of it would pass it on, and then it speaks of another connection.
// Of several valid timeouts the smallest counts. What is no plain decimal
// number (a sign, a fraction, text, nothing) is as good as absent, since a
// value we misread in the other direction costs a request.
func AnnouncedTimeout(h http.Header) (time.Duration, bool) {
	fields := h["Keep-Alive"]
	if len(fields) == 0 || !httpguts.HeaderValuesContainsToken(h["Connection"], "keep-alive") {
		return 0, false
	}
	least, found := maxAnnounced, false
	for _, field := range fields {
		for more := true; more; {
			var param string
			param, field, more = strings.Cut(field, ",")
			name, value, _ := strings.Cut(param, "=")
			if !strings.EqualFold(trimOWS(name), "timeout") {
				continue
			}
			if d, ok := parseSeconds(trimOWS(value)); ok {
				least, found = min(least, d), true
			}
		}
	}
	if !found {
		return 0, false
	}
	return least, true
}

// parseSeconds parses 1*DIGIT, optionally quoted. A number too large to count
// is maxAnnounced.
func parseSeconds(s string) (time.Duration, bool) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if s == "" {
		return 0, false
	}
	var d time.Duration
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		d = min(d*10+time.Duration(s[i]-'0')*time.Second, maxAnnounced)
	}
	return d, true
}

// trimOWS removes optional whitespace (RFC 9110 section 5.6.3).
func trimOWS(s string) string {
	return strings.Trim(s, " \t")
}
