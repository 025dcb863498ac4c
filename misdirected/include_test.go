package misdirected

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// A page that includes another asks the server for it by a request of Caddy's own,
// which came over no connection. A client cannot make its request look like one.
func TestPagesIncludeOthers(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"index.html": `outer {{httpInclude "/inner.html"}}`, "inner.html": "inner"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := serve(t, `{"handler":"misdirected"},{"handler":"templates"},{"handler":"file_server","root":"`+dir+`"}`, "")
	if w := testcaddy.Get(srv, "a.test", "a.test"); w.Code != 200 || strings.TrimSpace(w.Body.String()) != "outer inner" {
		t.Errorf("status %d, body %q; want 200, %q", w.Code, w.Body, "outer inner")
	}

	r := httptest.NewRequest("GET", "/inner.html", nil)
	r.Host = "a.test"
	r.Header.Set("Caddy-Templates-Include", "1")
	r = r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, new(http.Server)))
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, r)
	if w.Code != 421 {
		t.Errorf("status %d for a client's request that looks included; want 421", w.Code)
	}
}
