package command

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// shown is a page as a response shows it, for https://b.test/.
func shown(t *testing.T, status int, header, body string) *page {
	t.Helper()
	fields := make(http.Header)
	for field := range strings.SplitSeq(header, "\n") {
		if name, value, ok := strings.Cut(field, ": "); ok {
			fields.Set(name, value)
		}
	}
	p := new(page)
	p.describe(target{scheme: "https", name: "b.test", port: "443", url: &url.URL{Path: "/"}}, fields.Get)
	if err := p.read(strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	p.finish(status)
	return p
}

func gzipped(text string, level int) string {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, level)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

// TestCompare: what a client gets, beside three samples of what it should get. A
// sample is what stands there with % replaced by another number each time.
func TestCompare(t *testing.T) {
	const (
		html   = "Content-Type: text/html; charset=utf-8"
		gzHTML = html + "\nContent-Encoding: gzip"
		login  = "<title>Log in</title><p>Welcome to the console of the example company, please say who you are.</p>"
	)
	feed := strings.Repeat("x", maxPage)
	for _, test := range []struct {
		name        string
		status      int
		header, own string
		gotStatus   int // 0: the same
		gotHeader   string
		got         string
		want        comparison
		why         string
	}{
		{name: "equal", header: html, own: login, got: login, want: pageSame, why: "the contents are equal"},
		{name: "another title", header: html, own: "<title>KEYCLOAK</title>", got: "<title>CONSOLE</title>", want: pageAnother, why: "the titles differ: 'CONSOLE', and 'KEYCLOAK' on a connection of its own"},
		{name: "a title for none", header: html, own: "<p>hi", got: "<title>x</title><p>hi", want: pageAnother, why: "the titles differ: 'x', and ''"},
		{name: "another title with a nonce in both", header: html, own: "<title>KEYCLOAK</title>%", got: "<title>CONSOLE</title>%", want: pageAnother, why: "titles"},
		{name: "a title that counts", header: html, own: "<title>Inbox (%)</title>" + login, got: "<title>Inbox (99)</title>" + login, want: pageSame, why: "what changes"},
		{name: "the title of a drawing is not that of the page", header: html, own: "<title>a</title><svg><title>b</title></svg>", got: "<title>a</title><svg><title>b</title></svg>", want: pageSame},
		{name: "other contents, always the same", header: html, own: "<p>b</p>", got: "<p>a</p>", want: pageAnother, why: "the contents differ (8 bytes, and 8 on a connection of its own, where it is the same each time)"},
		{name: "a nonce", header: html, own: login + "<script nonce=n%>", got: login + "<script nonce=n99>", want: pageSame, why: "what changes on connections of its own, changes"},
		{name: "a nonce in another page", header: html, own: login + "<script nonce=n%>", got: "<title>Log in</title><p>Something else altogether, for members of the other club only</p><script nonce=n99>", want: pageAnother, why: "words that are always on the page"},
		{name: "a nonce in a page with more on it", header: html, own: login + "<script nonce=n%>", got: login + "<ul><li>one<li>two<li>three<li>four<li>five<li>six<li>seven<li>eight<li>nine</ul>", want: pageNotComparable, why: "different each time"},
		{name: "a date and little else", own: "%", got: "99", want: pageNotComparable, why: "too little of it stays"},
		{name: "bytes that change", header: "Content-Type: image/png", own: "\x00%", got: "\x0099", want: pageNotComparable, why: "it is different each time"},
		{name: "bytes that do not", header: "Content-Type: image/png", own: "\x00b", got: "\x00a", want: pageAnother, why: "the contents differ"},
		{name: "JSON", header: "Content-Type: application/json", own: `{"app":"b"}`, got: `{"app":"a"}`, want: pageAnother},
		{name: "another media type", header: html, own: "ok", gotHeader: "Content-Type: text/plain", got: "ok", want: pageAnother, why: "the media types differ: 'text/plain', and 'text/html'"},
		{name: "compressed otherwise", header: gzHTML, own: gzipped(login, 1), got: gzipped(login, 9), want: pageSame},
		{name: "compressed and not", header: html, own: login, gotHeader: gzHTML, got: gzipped(login, 9), want: pageSame},
		{name: "an unknown coding", header: html + "\nContent-Encoding: br", own: "\x0b%", got: "\x0b99", want: pageNotComparable},
		{name: "large and equal at its beginning", header: html, own: feed + "%", got: feed + "99", want: pageSame, why: "only the first 1024 KiB are compared"},
		{name: "large and not", header: html, own: "b" + feed, got: "a" + feed, want: pageAnother},
		{name: "a stream", header: "Content-Type: text/event-stream", own: "", got: "", want: pageNotComparable, why: "a stream without an end"},
		{name: "empty", own: "", got: "", want: pageNotComparable, why: "both pages are empty"},
		{name: "empty instead", header: html, own: login, gotHeader: html, got: "", want: pageAnother},

		{name: "another status", header: html, own: login, gotStatus: 404, got: login, want: pageAnother, why: "the statuses differ: '404', and '200'"},
		{name: "an error alike", status: 404, header: html, own: "no", got: "no", want: pageNotComparable, why: "both answers are 404 Not Found"},
		{name: "another error page", status: 404, header: html, own: "<center>nginx", got: "404 page not found", want: pageAnother},
		{name: "an error with an ID", status: 502, own: "%", got: "99", want: pageNotComparable},
		{name: "who asks for a password", status: 401, header: `WWW-Authenticate: Basic realm="keycloak"`, own: "no", gotHeader: `WWW-Authenticate: Basic realm="console"`, got: "no",
			want: pageAnother, why: `the challenges differ: 'Basic realm="console"', and 'Basic realm="keycloak"'`},
		{name: "a challenge with a nonce", status: 401, header: `WWW-Authenticate: Digest realm="b", nonce="%"`, own: "no", gotHeader: `WWW-Authenticate: Digest realm="b", nonce="99"`, got: "no", want: pageNotComparable, why: "401"},

		{name: "a redirect elsewhere", status: 302, header: "Location: https://sso.test/b", gotHeader: "Location: https://sso.test/b", own: "x", got: "y", want: pageSame, why: "both are redirected to https://sso.test/b"},
		{name: "a redirect for another", status: 302, header: "Location: https://sso.test/?for=b", gotHeader: "Location: https://sso.test/?for=a", want: pageAnother, why: "the redirects differ"},
		{name: "a redirect with a state", status: 302, header: "Location: https://sso.test/?for=b&state=%", gotHeader: "Location: https://sso.test/?for=b&state=99", want: pageSame},
		{name: "a redirect with a state for another", status: 302, header: "Location: https://sso.test/?for=b&state=%", gotHeader: "Location: https://sso.test/?for=a&state=99", want: pageAnother},
		{name: "a redirect elsewhere each time", status: 302, header: "Location: https://sso.test/%", gotHeader: "Location: https://sso.test/99", want: pageNotComparable},
		{name: "a redirect within the site", status: 302, header: "Location: /login", gotHeader: "Location: https://b.test/login", want: pageNotComparable, why: "give the URL that it leads to, https://b.test/login"},
		{name: "a redirect to the other site", status: 302, header: "Location: /login", gotHeader: "Location: https://a.test/login", want: pageAnother, why: "the redirects differ"},
		{name: "no redirect", status: 302, header: "Location: /login", own: "", got: "", gotHeader: "A: b", want: pageAnother, why: "the redirects differ: 'none', and 'https://b.test/login'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.status == 0 {
				test.status = http.StatusOK
			}
			if test.gotStatus == 0 {
				test.gotStatus = test.status
			}
			if test.gotHeader == "" {
				test.gotHeader = test.header
			}
			var samples []*page
			for i := range 3 {
				samples = append(samples, shown(t, test.status, strings.ReplaceAll(test.header, "%", fmt.Sprint(i+10)), strings.ReplaceAll(test.own, "%", fmt.Sprint(i+10))))
			}
			result, why := compare(samples, shown(t, test.gotStatus, test.gotHeader, test.got))
			if result != test.want || !strings.Contains(why, test.why) {
				t.Errorf("%s: %s; want %s: %s", result, why, test.want, test.why)
			}
		})
	}
}

// TestCompareSamplesThatDisagree: where a site's own answers differ in their status,
// nothing is said of another.
func TestCompareSamplesThatDisagree(t *testing.T) {
	samples := []*page{shown(t, 200, "", "hello"), shown(t, 429, "", "slow down")}
	if result, why := compare(samples, shown(t, 200, "", "hi")); result != pageNotComparable || why != "on connections of its own it is answered 200 and 429" {
		t.Errorf("%s: %s", result, why)
	}
}

// TestCompareTooLate: what did not end in time is compared only if it is equal.
func TestCompareTooLate(t *testing.T) {
	late := func(body string) *page {
		p := shown(t, 200, "", body)
		p.tooLate(time.Second)
		return p
	}
	for _, test := range []struct {
		own, got *page
		want     comparison
	}{
		{late("tick"), late("tick tock"), pageNotComparable},
		{late("tick"), shown(t, 200, "", "tick"), pageNotComparable},
		{late("tick"), late("tick"), pageSame},
		{late(""), late(""), pageNotComparable},
	} {
		if result, why := compare([]*page{test.own, test.own}, test.got); result != test.want {
			t.Errorf("%q beside %q: %s, %s; want %s", test.got.body, test.own.body, result, why, test.want)
		}
	}
}
