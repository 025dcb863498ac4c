package admin

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
)

// page is all of the status page: it loads nothing but the endpoints beside it.
//
//go:embed status.html
var page string

// policy lets the page run its own style and script, by their hashes, and ask its
// own server; nothing else (W3C Content Security Policy Level 3).
var policy = fmt.Sprintf("default-src 'none'; style-src %s; script-src %s; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	hash("<style>", "</style>"), hash("<script>", "</script>"))

// hash returns the CSP source of the page's text between two tags.
func hash(open, end string) string {
	_, rest, _ := strings.Cut(page, open)
	text, _, _ := strings.Cut(rest, end)
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func servePage(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path != base {
		return failed(http.StatusNotFound, "there is no endpoint '%s'", r.URL.Path)
	}
	if err := allow(w, r, http.MethodGet); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // Caddy asks where its API is used from
	_, err := w.Write([]byte(page))
	return err
}
