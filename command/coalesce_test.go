package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// A host is an HTTP/2 server over TLS that does exactly as told.
type host struct {
	certificates []tls.Certificate
	http1        bool     // speaks HTTP/1.1 instead
	origin       bool     // sends an ORIGIN frame
	origins      []string // in it
	cut          int      // octets that are missing at its end
	// goAway ends each connection at its first answer: GOAWAY comes "before" or
	// "behind" that, and what comes then is not answered.
	goAway string
	// status by :authority; 0 closes the connection, -1 resets the stream, -2
	// never answers, -3 refuses the request by GOAWAY. 421 for what is not listed.
	status map[string]int
	// bySNI is asked before, by SNI and :authority.
	bySNI func(sni, authority string) int
	// page is the HTML page of an answer that has a body; nil: one for each authority.
	page func(sni, authority string) string
	// redirect is where an answer leads instead.
	redirect func(sni, authority string) string
}

func (h host) serve(c net.Conn) {
	config := &tls.Config{Certificates: h.certificates, NextProtos: []string{"h2", "http/1.1"}}
	if h.http1 {
		config.NextProtos = nil
	}
	tc := tls.Server(c, config)
	defer tc.Close()
	if tc.Handshake() != nil {
		return
	}
	if h.http1 {
		script("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", time.Minute)(tc)
		return
	}
	f, err := h2.Server(tc, tc, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
	if err != nil {
		return
	}
	f.ReadMetaHeaders = hpack.NewDecoder(0, nil) // a client must not count on more
	if h.origin {
		var payload []byte
		for _, o := range h.origins {
			payload = append(append(payload, byte(len(o)>>8), byte(len(o))), o...)
		}
		_ = f.WriteRawFrame(0x0c, 0, 0, payload[:len(payload)-h.cut])
	}
	for ended := false; ; {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		request, ok := frame.(*http2.MetaHeadersFrame)
		if !ok || ended {
			continue
		}
		status, ok := h.status[request.PseudoValue("authority")]
		if !ok {
			status = http.StatusMisdirectedRequest
		}
		if h.bySNI != nil {
			status = h.bySNI(tc.ConnectionState().ServerName, request.PseudoValue("authority"))
		}
		switch status {
		case 0:
			return
		case -1:
			_ = f.WriteRSTStream(request.StreamID, http2.ErrCodeRefusedStream)
			continue
		case -2:
			continue
		case -3:
			_ = f.WriteGoAway(request.StreamID-2, http2.ErrCodeNo, nil)
			continue
		}
		ended = h.goAway != ""
		if h.goAway == "before" {
			_ = f.WriteGoAway(request.StreamID, http2.ErrCodeNo, nil)
		}
		h.answer(f.Framer, request.StreamID, status, tc.ConnectionState().ServerName, request.PseudoValue("authority"))
		if h.goAway == "behind" {
			_ = f.WriteGoAway(request.StreamID, http2.ErrCodeNo, nil)
		}
	}
}

// answer writes a response.
func (h host) answer(f *http2.Framer, stream uint32, status int, sni, authority string) {
	fields := []hpack.HeaderField{{Name: ":status", Value: strconv.Itoa(status)}}
	body := "<title>" + authority + "</title>"
	switch {
	case h.redirect != nil:
		fields = append(fields, hpack.HeaderField{Name: "location", Value: h.redirect(sni, authority)})
		body = ""
	case h.page != nil:
		body = h.page(sni, authority)
	}
	if body != "" {
		fields = append(fields, hpack.HeaderField{Name: "content-type", Value: "text/html; charset=utf-8"})
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range fields {
		_ = encoder.WriteField(field)
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = f.WriteData(stream, true, []byte(body))
}

// TestCoalesce runs the command against servers of all manners; testdata has
// what it prints.
func TestCoalesce(t *testing.T) {
	const one, two = "10.0.0.1:443", "10.0.0.2:443"
	sites := func(statuses ...any) map[string]int {
		m := make(map[string]int)
		for i := 0; i < len(statuses); i += 2 {
			m[statuses[i].(string)] = statuses[i+1].(int)
		}
		return m
	}
	// one server for all names
	server := func(h host, names ...string) func(*authority) network {
		return func(ca *authority) network {
			h.certificates = []tls.Certificate{ca.issue(names...)}
			return network{one: h.serve}
		}
	}
	both := sites("a.test", 200, "b.test", 200)
	exact := func(sni, authority string) int {
		if sni == authority {
			return 200
		}
		return 421
	}
	// b.test at another address than a.test
	apart := func(o *options) { o.resolve["b.test:443"] = []string{"10.0.0.2"} }

	for _, test := range []scene{
		{name: "shared", network: server(host{status: both}, "a.test", "b.test")},
		{name: "wildcard", urls: "https://a.w.test https://b.w.test https://c.b.w.test",
			network: func(ca *authority) network {
				h := host{status: sites("a.w.test", 200, "b.w.test", 200, "c.b.w.test", 200)}
				h.certificates = []tls.Certificate{ca.issue("*.w.test"), ca.issue("c.b.w.test")}
				return network{one: h.serve}
			}},
		{name: "wrong page", network: server(host{bySNI: func(sni, authority string) int {
			if sni == "a.test" && authority == "b.test" {
				return 404
			}
			return 200
		}}, "a.test", "b.test")},
		{name: "another page", network: server(host{status: both, page: func(sni, _ string) string {
			return "<title>" + strings.ToUpper(sni) + "</title><p>Welcome.</p>"
		}}, "a.test", "b.test")},
		{name: "another page of a third", network: server(host{status: both, page: func(sni, authority string) string {
			if sni == authority {
				return "<title>" + authority + "</title>"
			}
			return "<title>No such site</title>"
		}}, "a.test", "b.test")},
		{name: "a page with a nonce", changes: true, network: server(host{status: both, page: changing(func(_, authority string) string { return authority })}, "a.test", "b.test")},
		{name: "another page with a nonce", changes: true, network: server(host{status: both, page: changing(func(sni, _ string) string { return sni })}, "a.test", "b.test")},
		{name: "not comparable", changes: true, network: server(host{status: both, page: changing(func(_, _ string) string { return "" })}, "a.test", "b.test")},
		{name: "redirects within the site", network: server(host{status: sites("a.test", 302, "b.test", 302), redirect: func(_, _ string) string { return "/login" }}, "a.test", "b.test")},
		{name: "redirects to another site", network: server(host{status: sites("a.test", 302, "b.test", 302), redirect: func(sni, _ string) string {
			return "https://sso.test/auth?client=" + sni
		}}, "a.test", "b.test")},
		{name: "redirects to a third site", network: server(host{status: sites("a.test", 302, "b.test", 302), redirect: func(_, authority string) string {
			return "https://sso.test/auth?client=" + authority
		}}, "a.test", "b.test")},
		{name: "errors alike", network: server(host{status: sites("a.test", 404, "b.test", 404), page: func(_, _ string) string { return "404 page not found" }}, "a.test", "b.test")},
		{name: "different certificates", network: func(ca *authority) network {
			return network{one: host{status: both, certificates: []tls.Certificate{ca.issue("a.test"), ca.issue("b.test")}}.serve}
		}},
		{name: "different certificates and 421", network: func(ca *authority) network {
			return network{one: host{bySNI: exact, certificates: []tls.Certificate{ca.issue("a.test"), ca.issue("b.test")}}.serve}
		}},
		{name: "421", network: server(host{bySNI: exact}, "a.test", "b.test")},
		{name: "421 with an empty ORIGIN", network: server(host{bySNI: exact, origin: true}, "a.test", "b.test")},
		{name: "421 in spite of ORIGIN", network: server(host{bySNI: exact, origin: true, origins: []string{"https://b.test", "https://A.test"}}, "a.test", "b.test")},
		{name: "421 on its own connection", network: server(host{status: sites("a.test", 200)}, "a.test", "b.test")},
		{name: "ORIGIN lists it", network: server(host{status: both, origin: true, origins: []string{"https://a.test", "https://b.test"}}, "a.test", "b.test")},
		{name: "ORIGIN lists others", network: server(host{status: both, origin: true, origins: []string{
			"https://b.test:8443", "https://1.test", "https://2.test", "https://3.test", "https://4.test", "https://5.test",
			"https://6.test", "https://7.test", "https://8.test", "https://9.test", "\x1b[2J", "https://11.test",
		}}, "a.test", "b.test")},
		{name: "ORIGIN malformed", network: server(host{status: both, origin: true, origins: []string{"https://b.test", "https://c.test"}, cut: 1}, "a.test", "b.test")},
		{name: "ORIGIN and different addresses", with: apart, network: func(ca *authority) network {
			h := host{status: both, origin: true, origins: []string{"https://b.test"}, certificates: []tls.Certificate{ca.issue("a.test", "b.test")}}
			return network{one: h.serve, two: host{status: both, certificates: h.certificates}.serve}
		}},
		{name: "different ports", urls: "https://a.test https://b.test:8443", network: func(ca *authority) network {
			h := host{status: sites("a.test", 200, "b.test:8443", 200), certificates: []tls.Certificate{ca.issue("a.test", "b.test")}}
			return network{one: h.serve, "10.0.0.1:8443": h.serve}
		}},
		{name: "connection closed", network: server(host{bySNI: func(sni, authority string) int {
			if sni == authority {
				return 200
			}
			return 0
		}}, "a.test", "b.test")},
		{name: "closed and opened again", urls: "https://a.test https://b.test https://c.test", network: server(host{bySNI: func(sni, authority string) int {
			if authority == "b.test" && sni != "b.test" {
				return 0
			}
			return 200
		}}, "a.test", "b.test", "c.test")},
		{name: "reset", network: server(host{bySNI: func(sni, authority string) int {
			if sni == authority {
				return 200
			}
			return -1
		}}, "a.test", "b.test")},
		{name: "GOAWAY with the first answer", network: server(host{status: both, goAway: "before"}, "a.test", "b.test")},
		{name: "GOAWAY behind the first answer", network: server(host{status: both, goAway: "behind", origin: true, origins: []string{"https://b.test"}}, "a.test", "b.test")},
		{name: "GOAWAY on the first connections", network: func(ca *authority) network {
			var accepted atomic.Int32
			certificates := []tls.Certificate{ca.issue("a.test", "b.test")}
			return network{one: func(c net.Conn) {
				h := host{status: both, certificates: certificates}
				if accepted.Add(1) <= 2 {
					h.goAway = "before"
				}
				h.serve(c)
			}}
		}},
		{name: "GOAWAY instead of an answer", network: server(host{bySNI: func(sni, authority string) int {
			if sni == authority {
				return 200
			}
			return -3
		}}, "a.test", "b.test")},
		{name: "no HTTP2", with: apart, network: func(ca *authority) network {
			c := []tls.Certificate{ca.issue("a.test", "b.test")}
			return network{one: host{status: both, certificates: c}.serve, two: host{http1: true, certificates: c}.serve}
		}},
		{name: "no HTTP2 at all", network: server(host{http1: true}, "a.test", "b.test")},
		{name: "unresolvable", network: server(host{status: both}, "a.test", "b.test"), with: func(o *options) {
			delete(o.resolve, "b.test:443")
			o.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "b.test", IsNotFound: true}
			}
		}},
		{name: "refused", with: apart, network: server(host{status: both}, "a.test", "b.test")},
		{name: "untrusted", network: func(ca *authority) network {
			return network{one: host{status: both, certificates: []tls.Certificate{newAuthority(ca.t).issue("a.test", "b.test")}}.serve}
		}},
		{name: "insecure", with: func(o *options) { o.roots, o.insecure = nil, true }, network: func(ca *authority) network {
			return network{one: host{status: both, certificates: []tls.Certificate{newAuthority(ca.t).issue("a.test")}}.serve}
		}},
		{name: "interrupted", cancel: time.Second, network: server(host{bySNI: func(sni, authority string) int {
			if sni == "b.test" && authority == "a.test" {
				return -2
			}
			return 200
		}}, "a.test", "b.test")},
		{name: "interrupted at once", cancel: time.Nanosecond, network: server(host{status: sites("a.test", -2, "b.test", -2)}, "a.test", "b.test")},
		{name: "no answer in time", network: server(host{bySNI: func(sni, authority string) int {
			if sni == "b.test" && authority == "a.test" {
				return -2
			}
			return 200
		}}, "a.test", "b.test")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.urls == "" {
				test.urls = "https://a.test https://b.test"
			}
			with := test.with
			test.with = func(o *options) {
				for _, name := range []string{"a.test", "b.test", "c.test", "a.w.test", "b.w.test", "c.b.w.test"} {
					o.resolve[name+":443"] = []string{"10.0.0.1"}
				}
				o.resolve["b.test:8443"] = []string{"10.0.0.1"}
				if with != nil {
					with(o)
				}
			}
			test.golden(t, "coalesce", coalesce)
		})
	}
}

// changing makes pages with a nonce that is another one each time. Those with a name
// on them have more to say.
func changing(name func(sni, authority string) string) func(sni, authority string) string {
	var n atomic.Int32
	return func(sni, authority string) string {
		nonce := fmt.Sprintf("%08x", uint32(n.Add(1))*0x9e3779b1)
		name := name(sni, authority)
		if name == "" {
			return nonce
		}
		text := "<title>Log in</title>"
		for i := range 20 {
			text += fmt.Sprintf("<p>%s-%d</p>", name, i)
		}
		return text + "<script nonce=" + nonce + "></script>"
	}
}

// TestOriginBound: ORIGIN frames that never end do not fill the memory.
func TestOriginBound(t *testing.T) {
	var wire bytes.Buffer
	h := &http2Conn{framer: http2.NewFramer(io.Discard, &wire)}
	payload := bytes.Repeat([]byte("\x00\x0ehttps://a.test"), 1024) // 16 KiB
	for range 17 {
		if err := http2.NewFramer(&wire, nil).WriteRawFrame(0x0c, 0, 0, payload); err != nil {
			t.Fatal(err)
		}
		if _, err := h.next(); err != nil {
			t.Fatal(err)
		}
	}
	if h.originErr == nil || h.originErr.Error() != "there are more than 256 KiB of ORIGIN frames" || len(h.origins) != 16*1024 {
		t.Errorf("%d origins are kept, %v", len(h.origins), h.originErr)
	}
}
