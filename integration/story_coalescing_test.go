package integration

import (
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/browser"
)

// The story of example/coalescing: a page with images of four hosts, whose browser
// learns from 421s, or from ORIGIN frames, which connection is for which of them.
func TestStoryCoalescing(t *testing.T) {
	t.Parallel()
	const (
		open          = "OPEN_PORT"
		exact         = "EXACT_PORT"
		exactFrames   = "EXACT_FRAMES_PORT"
		covered       = "COVERED_PORT"
		coveredFrames = "COVERED_FRAMES_PORT"
	)
	// Sites that offer HTTP/3 get one more connection, over QUIC.
	oneConnection := func(v browser.Visit) bool {
		tcp, quic := byTransport(v)
		return tcp == 1 && quic <= 1 && v.Statuses[421] == 0
	}
	fourConnections := func(v browser.Visit) bool {
		tcp, quic := byTransport(v)
		return tcp == 4 && quic == 0 && v.Statuses[421] == 0
	}
	refused := func(v browser.Visit) bool { return len(v.Connections) >= 4 && v.Statuses[421] > 0 }
	for _, test := range []struct {
		browser browser.Browser
		served  string
		check   func(browser.Visit) bool
		want    string
		broken  bool // images may stay broken
	}{
		{browser.Firefox, open, oneConnection, "one connection and no 421", false},
		// Firefox may ask again on a wrong connection, and gives up then.
		{browser.Firefox, exact, refused, "4 connections or more, and 421s", true},
		{browser.Firefox, exactFrames, fourConnections, "4 connections and no 421", false},
		{browser.Firefox, coveredFrames, oneConnection, "one connection and no 421", false},
		{browser.Chromium, exact, refused, "4 connections or more, and 421s", false},
		{browser.Chromium, exactFrames, refused, "4 connections or more, and 421s: it ignores the frames", false},
		{browser.Chromium, covered, oneConnection, "one connection and no 421", false},
	} {
		t.Run(test.browser.Name+"/"+test.served, func(t *testing.T) {
			needBrowser(t, test.browser)
			ports := make(map[string]string)
			var env []string
			for _, name := range []string{open, exact, exactFrames, covered, coveredFrames} {
				ports[name] = freePort(t)
				env = append(env, name+"="+ports[name])
			}
			names := []string{"a.page.localhost", "b.page.localhost", "c.page.localhost", "d.page.localhost"}
			c := startExample(t, "coalescing", env...)
			c.certificates("127.0.0.1:"+ports[test.served], []string{"a.page.localhost"})
			v := visit(t, c, test.browser, browser.Options{Home: t.TempDir(), Root: c.root(), Names: names}, "https://a.page.localhost:"+ports[test.served]+"/")
			t.Logf("%v, loaded in %v", v, v.Load)
			if !test.check(v) {
				t.Errorf("%v, want %s", v, test.want)
			}
			for _, letter := range "abcd" {
				host, want := string(letter)+".page.localhost", 4
				if letter == 'a' {
					want++ // the page
				}
				if v.Answered[host] != want && !test.broken {
					t.Errorf("%s answered %d requests, want %d: %v", host, v.Answered[host], want, v)
				}
			}
			if v.Load <= 0 {
				t.Error("the page did not say how long it took")
			}
		})
	}
}

// byTransport counts connections.
func byTransport(v browser.Visit) (tcp, quic int) {
	for connection := range v.Connections {
		if strings.HasPrefix(connection, "HTTP/3") {
			quic++
		} else {
			tcp++
		}
	}
	return tcp, quic
}
