package command

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// What comparing two pages comes to. The values are part of the JSON output.
type comparison string

const (
	pageSame          comparison = "same"
	pageAnother       comparison = "another"
	pageNotComparable comparison = "not_comparable"
)

// compare compares a page with samples of the page that it should be, and says why
// it comes to its result. Samples taken before and after the page show what of it
// changes by itself: a nonce, a date, a counter. One sample shows nothing of that;
// then pages count as another where samples might show that they are the same.
func compare(samples []*page, got *page) (comparison, string) {
	own := samples[0]
	for _, s := range samples {
		if s.status != own.status {
			return pageNotComparable, fmt.Sprintf("on connections of its own it is answered %d and %d", own.status, s.status)
		}
	}
	if got.status != own.status {
		return differ("statuses", samples, got, func(p *page) string { return fmt.Sprint(p.status) })
	}
	if own.location != nil || got.location != nil {
		return compareRedirects(samples, got)
	}
	for _, part := range []struct {
		name string
		of   func(*page) string
	}{
		{"challenges", func(p *page) string { return p.challenge }},
		{"media types", func(p *page) string { return p.media }},
		{"titles", (*page).title},
	} {
		if alike(samples, part.of) && part.of(got) != part.of(own) {
			return differ(part.name, samples, got, part.of)
		}
	}
	result, why := compareBodies(samples, got)
	switch {
	case result != pageSame:
		return result, why
	case got.status >= http.StatusBadRequest:
		return pageNotComparable, fmt.Sprintf("both answers are %s, which many sites say alike; give the URL of a page", answer{status: got.status})
	case got.empty():
		return pageNotComparable, "both pages are empty; give the URL of a page with something on it"
	}
	return result, why
}

// alike tells whether something is the same in all samples.
func alike(samples []*page, of func(*page) string) bool {
	for _, s := range samples {
		if of(s) != of(samples[0]) {
			return false
		}
	}
	return true
}

func differ(what string, samples []*page, got *page, of func(*page) string) (comparison, string) {
	return pageAnother, fmt.Sprintf("the %s differ: '%s', and '%s' on a connection of its own", what, of(got), of(samples[0]))
}

// compareRedirects compares where redirects lead. A redirect within the site shows
// nothing of it: servers make it of the host that was asked for.
func compareRedirects(samples []*page, got *page) (comparison, string) {
	own := samples[0].location
	for _, s := range samples {
		if s.location == nil || own == nil {
			return differ("redirects", samples, got, redirect(nil))
		}
	}
	changing := make(map[string]bool) // parameters, such as a state
	for _, s := range samples {
		for name, values := range s.location.Query() {
			if strings.Join(values, "&") != strings.Join(own.Query()[name], "&") {
				changing[name] = true
			}
		}
	}
	to := redirect(changing)
	switch {
	case !alike(samples, to):
		return pageNotComparable, "on connections of its own it is redirected elsewhere each time"
	case to(got) != to(samples[0]):
		return differ("redirects", samples, got, to)
	case got.location.Host == got.asked:
		return pageNotComparable, fmt.Sprintf("both answers are a redirect within the site; give the URL that it leads to, %s", to(got))
	default:
		return pageSame, "both are redirected to " + to(got)
	}
}

// redirect writes where a page redirects to, but for the values of some parameters.
func redirect(changing map[string]bool) func(*page) string {
	return func(p *page) string {
		if p.location == nil {
			return "none"
		}
		to := url.URL{Scheme: p.location.Scheme, Host: p.location.Host, Path: p.location.Path, RawQuery: p.location.RawQuery}
		if len(changing) > 0 {
			query := to.Query()
			for name := range changing {
				if query.Has(name) {
					query.Set(name, "*")
				}
			}
			to.RawQuery = query.Encode()
		}
		return to.String()
	}
}

// compareBodies compares pages that are alike in everything else.
func compareBodies(samples []*page, got *page) (comparison, string) {
	for _, s := range samples {
		if s.hash() == got.hash() && s.cut == got.cut {
			if len(got.body) == 0 && got.cut != "" {
				return pageNotComparable, got.cut
			}
			return pageSame, sameWhy(got)
		}
	}
	for _, p := range append([]*page{got}, samples...) {
		if p.cut != "" && len(p.body) < maxPage {
			return pageNotComparable, p.cut
		}
	}
	if alike(samples, (*page).hash) {
		return pageAnother, fmt.Sprintf("the contents differ (%d bytes, and %d on a connection of its own, where it is the same each time)",
			len(got.body), len(samples[0].body))
	}
	if !got.text() || !samples[0].text() {
		return pageNotComparable, "on connections of its own it is different each time"
	}
	return compareWords(samples, got)
}

func sameWhy(p *page) string {
	if p.cut != "" {
		return "the contents are equal; " + p.cut
	}
	return "the contents are equal"
}

// Bounds for pages that change from answer to answer.
const (
	fewWords  = 10 // as many that stay say something of a page
	moreWords = 5  // as many may be new beyond twice what changes otherwise
)

// compareWords compares texts that change from answer to answer by their words:
// those that stay must be there, and no more may be new than changes otherwise.
func compareWords(samples []*page, got *page) (comparison, string) {
	stay := samples[0].words()
	known := make(map[string]bool)
	for _, s := range samples {
		words := s.words()
		maps.DeleteFunc(stay, func(word string, _ bool) bool { return !words[word] })
		maps.Copy(known, words)
	}
	changing := (len(known) - len(stay)) / len(samples) // in one sample
	words := got.words()
	missing, strange := without(stay, words), without(words, known)
	switch {
	case len(stay) < fewWords:
		return pageNotComparable, "on connections of its own it is different each time, and too little of it stays"
	case missing == 0 && strange <= 2*changing+moreWords:
		return pageSame, "what changes on connections of its own, changes, and all else is equal"
	case 2*missing > len(stay):
		return pageAnother, fmt.Sprintf("the contents differ: of %d words that are always on the page, %d are missing", len(stay), missing)
	default:
		return pageNotComparable, fmt.Sprintf("on connections of its own it is different each time, and of %d words that are always on the page, %d are missing", len(stay), missing)
	}
}

// without counts the words of a that are not in b.
func without(a, b map[string]bool) (n int) {
	for word := range a {
		if !b[word] {
			n++
		}
	}
	return n
}
