package command

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"golang.org/x/net/html"
)

// maxPage is how much of a page is read and compared, in octets.
const maxPage = 1 << 20

// A page is what a response shows, as far as that tells one site from another.
// No request carries a cookie, so what a server sets by Set-Cookie is no part.
type page struct {
	asked     string // the host that was asked for
	status    int
	location  *url.URL // where a redirect leads; nil: it is none
	challenge string   // scheme and realm of WWW-Authenticate
	media     string   // Content-Type without parameters
	coding    string   // Content-Encoding
	body      []byte
	cut       string // why the body is not whole; empty: it is
}

// describe takes what counts from the header of a response to a request for t.
func (p *page) describe(t target, field func(name string) string) {
	p.asked = t.authority()
	if text := field("Location"); text != "" {
		// Relative to the URL that was asked for (RFC 9110 section 10.2.2).
		base := url.URL{Scheme: t.scheme, Host: t.authority(), Path: t.url.Path}
		if location, err := base.Parse(text); err == nil {
			p.location = location
		}
	}
	p.challenge = challenge(field("WWW-Authenticate"))
	p.media, _, _ = mime.ParseMediaType(field("Content-Type"))
	p.coding = strings.ToLower(field("Content-Encoding"))
	switch p.media {
	case "text/event-stream", "multipart/x-mixed-replace":
		p.cut = "it is a stream without an end"
	}
}

var realm = regexp.MustCompile(`(?i)\brealm\s*=\s*("[^"]*"|[^\s,]*)`)

// challenge is a WWW-Authenticate field without what may change from response to
// response, such as a nonce (RFC 9110 section 11.6.1).
func challenge(field string) string {
	scheme, rest, _ := strings.Cut(field, " ")
	return strings.TrimSpace(scheme + " " + realm.FindString(rest))
}

// add adds to the body, and tells whether there is room for more.
func (p *page) add(data []byte) bool {
	p.body = append(p.body, data[:min(len(data), maxPage-len(p.body))]...)
	if len(p.body) == maxPage {
		p.cut = fmt.Sprintf("only the first %d KiB are compared", maxPage>>10)
	}
	return p.cut == ""
}

// read reads the body, no more of it than counts.
func (p *page) read(body io.Reader) error {
	buf := make([]byte, 16<<10)
	for p.cut == "" {
		n, err := body.Read(buf)
		p.add(buf[:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tooLate notes that the body did not end in time.
func (p *page) tooLate(timeout time.Duration) {
	p.cut = fmt.Sprintf("it did not end within %s", timeout)
}

// finish undoes the content coding, which was not asked for: equal pages may be
// compressed differently. What has another coding is compared as it came.
func (p *page) finish(status int) {
	p.status = status
	var plain io.Reader
	var err error
	switch p.coding {
	case "gzip", "x-gzip":
		plain, err = gzip.NewReader(bytes.NewReader(p.body))
	case "deflate": // RFC 9110 section 8.4.1.2: the zlib format
		plain, err = zlib.NewReader(bytes.NewReader(p.body))
	}
	if plain == nil || err != nil {
		return
	}
	// The error is that of a body which was cut, or that is no such coding. What
	// came before it counts.
	body, _ := io.ReadAll(io.LimitReader(plain, maxPage))
	if len(body) > 0 || len(p.body) == 0 {
		p.body, p.coding = nil, ""
		p.add(body)
	}
}

// text tells whether the body consists of words.
func (p *page) text() bool {
	if p.coding != "" && p.coding != "identity" {
		return false
	}
	for _, kind := range []string{"text/", "json", "xml", "javascript"} {
		if strings.Contains(p.media, kind) {
			return true
		}
	}
	return p.media == "" && bytes.IndexByte(p.body, 0) < 0
}

// title is that of an HTML page; empty: there is none.
func (p *page) title() string {
	if p.media != "text/html" && p.media != "application/xhtml+xml" || !p.text() {
		return ""
	}
	tokens := html.NewTokenizer(bytes.NewReader(p.body))
	for within := false; ; {
		switch tokens.Next() {
		case html.ErrorToken:
			return ""
		case html.StartTagToken:
			name, _ := tokens.TagName()
			within = string(name) == "title"
		case html.TextToken:
			if within {
				return strings.Join(strings.Fields(string(tokens.Text())), " ")
			}
		case html.EndTagToken:
			within = false
		}
	}
}

// hash is the SHA-256 hash of the body.
func (p *page) hash() string {
	sum := sha256.Sum256(p.body)
	return hex.EncodeToString(sum[:])
}

// empty tells whether nothing came.
func (p *page) empty() bool { return len(p.body) == 0 && p.cut == "" }

// words are the parts of a text, as a set.
func (p *page) words() map[string]bool {
	words := make(map[string]bool)
	for word := range strings.FieldsFuncSeq(string(p.body), func(r rune) bool {
		return r <= ' ' || strings.ContainsRune(`<>"'=&;,/(){}[]`, r)
	}) {
		words[word] = true
	}
	return words
}

// String says for people what tells the page from others.
func (p *page) String() string {
	var facts []string
	switch {
	case p.status == http.StatusMisdirectedRequest: // a refusal, of whichever page
		return answer{status: p.status}.String()
	case p.location != nil:
		facts = append(facts, "to "+p.location.String())
	case p.challenge != "":
		facts = append(facts, p.challenge)
	}
	if p.media != "" {
		facts = append(facts, p.media)
	}
	if p.cut == "" {
		facts = append(facts, fmt.Sprintf("%d bytes", len(p.body)))
	}
	if title := p.title(); title != "" {
		facts = append(facts, fmt.Sprintf("%q", title))
	}
	text := answer{status: p.status}.String()
	if len(facts) > 0 {
		text += " (" + strings.Join(facts, ", ") + ")"
	}
	return text
}
