package idletime

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Checklist: P12.
func TestKeepAliveNeedsItsConnectionToken(t *testing.T) {
	for _, tc := range []struct {
		name       string
		connection []string
		want       bool
	}{
		{"named", []string{"keep-alive"}, true},
		{"any case", []string{"Keep-Alive"}, true},
		{"in a list", []string{"foo, keep-alive"}, true},
		{"on another line", []string{"foo", "keep-alive"}, true},
		{"no Connection field", nil, false},
		{"other token", []string{"close"}, false},
		{"part of a token", []string{"keep-alive-not"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := http.Header{"Keep-Alive": {"timeout=5"}, "Connection": tc.connection}
			d, ok := AnnouncedTimeout(h)
			if ok != tc.want {
				t.Errorf("AnnouncedTimeout = %v, %v; want %v", d, ok, tc.want)
			}
		})
	}
}

var keepAliveCases = []struct {
	fields []string
	want   time.Duration
	ok     bool
}{
	{[]string{"timeout=2"}, 2 * time.Second, true},
	{[]string{"timeout=1"}, time.Second, true},
	{[]string{"timeout=0"}, 0, true},
	{[]string{"timeout=9999"}, 9999 * time.Second, true},
	{[]string{"timeout=5, max=100"}, 5 * time.Second, true},
	{[]string{"max=100,timeout=5"}, 5 * time.Second, true},
	{[]string{"max=100"}, 0, false},
	{[]string{"TIMEOUT=5"}, 5 * time.Second, true},
	{[]string{" timeout\t=  5 "}, 5 * time.Second, true},
	{[]string{`timeout="5"`}, 5 * time.Second, true},
	{[]string{"timeout=005"}, 5 * time.Second, true},
	{[]string{"timeout=9999999999"}, maxAnnounced, true},
	{[]string{"timeout=" + strings.Repeat("9", 1<<20)}, maxAnnounced, true},
	{[]string{strings.Repeat("a=b,", 1<<18) + "timeout=5"}, 5 * time.Second, true},
	{[]string{"timeout=-1"}, 0, false},
	{[]string{"timeout=+5"}, 0, false},
	{[]string{"timeout=5.5"}, 0, false},
	{[]string{"timeout=5s"}, 0, false},
	{[]string{"timeout=0x10"}, 0, false},
	{[]string{"timeout=５"}, 0, false},
	{[]string{"timeout="}, 0, false},
	{[]string{"timeout"}, 0, false},
	{[]string{`timeout="`}, 0, false},
	{[]string{""}, 0, false},
	{[]string{"xtimeout=5"}, 0, false},
	{[]string{"timeout=10, timeout=3"}, 3 * time.Second, true},
	{[]string{"timeout=10", "timeout=3"}, 3 * time.Second, true},
	{[]string{"timeout=garbage", "timeout=3"}, 3 * time.Second, true},
}

// Checklist: P13.
func TestKeepAliveValues(t *testing.T) {
	for _, tc := range keepAliveCases {
		name := strings.Join(tc.fields, "|")
		t.Run(name[:min(len(name), 40)], func(t *testing.T) {
			got, ok := AnnouncedTimeout(http.Header{"Keep-Alive": tc.fields, "Connection": {"keep-alive"}})
			if got != tc.want || ok != tc.ok {
				t.Errorf("AnnouncedTimeout = %v, %v; want %v, %v", got, ok, tc.want, tc.ok)
			}
		})
	}
}

// Whatever an upstream announces, the idle limit stays within max_idle_time,
// and what it announces is never negative.
func FuzzKeepAlive(f *testing.F) {
	for _, tc := range keepAliveCases {
		if s := strings.Join(tc.fields, "\n"); len(s) < 100 {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := AnnouncedTimeout(http.Header{"Keep-Alive": strings.Split(s, "\n"), "Connection": {"keep-alive"}})
		if d < 0 || d > maxAnnounced || !ok && d != 0 {
			t.Fatalf("AnnouncedTimeout(%q) = %v, %v", s, d, ok)
		}
		k := knowledge{Config: Config{MaxIdle: 2 * time.Minute}}
		if ok {
			k.announced = Known(d)
		}
		if l := k.limit(); l.Value < 0 || l.Value > 2*time.Minute || l.Margin < 0 {
			t.Fatalf("limit after %q = %+v", s, l)
		}
	})
}

// Who asks for the timeout changes a copy of the request.
func TestAsking(t *testing.T) {
	for _, header := range []http.Header{nil, {"X": {"1"}}} {
		req := &http.Request{Header: header}
		if asking := Asking(req); asking == req || asking.Header.Get("Connection") != "keep-alive" || asking.Header.Get("X") != header.Get("X") {
			t.Errorf("%v becomes %v", header, asking.Header)
		}
		if header.Get("Connection") != "" {
			t.Error("the caller's header has changed")
		}
	}
}
