package servers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/neterr"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

// startGo starts net/http's server in this process.
func startGo(s *Server) error {
	done, err := os.OpenFile(s.path("done"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	srv := &http.Server{
		IdleTimeout: s.KeepAlive,
		Protocols:   new(http.Protocols),
		ErrorLog:    log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			fmt.Fprintf(done, "%s %s\n", r.Method, r.URL.RequestURI())
			_, _ = io.WriteString(w, "ok\n")
		}),
	}
	srv.Protocols.SetHTTP1(s.Protocol == "http/1.1")
	srv.Protocols.SetHTTP2(s.Protocol == "h2")
	srv.Protocols.SetUnencryptedHTTP2(s.Protocol == "h2c")
	ln, err := net.Listen("tcp", s.Addr)
	// A process that is being started holds a copy of the listener before this one
	// until it runs its program.
	for end := time.Now().Add(5 * time.Second); neterr.IsTaken(err) && time.Now().Before(end); ln, err = net.Listen("tcp", s.Addr) {
		time.Sleep(time.Millisecond) // polls another process
	}
	if err != nil {
		return err
	}
	serve := srv.Serve
	if s.Protocol == "h2" {
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{s.cert}}
		serve = func(ln net.Listener) error { return srv.ServeTLS(ln, "", "") }
	}
	ends := make(chan struct{})
	go func() {
		_ = serve(ln)
		close(ends)
	}()
	s.stop = func(graceful bool) error {
		defer done.Close()
		end := srv.Close
		if graceful {
			end = func() error {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				return srv.Shutdown(ctx)
			}
		}
		err := end()
		<-ends
		return err
	}
	return nil
}

// makeCertificate makes a certificate for localhost and 127.0.0.1, for as long
// as the server is there.
func (s *Server) makeCertificate() error {
	template := testcert.For("localhost", "127.0.0.1")
	template.IsCA, template.BasicConstraintsValid = true, true
	var err error
	if s.cert, err = testcert.Issue(nil, template); err != nil {
		return err
	}
	return testcert.WritePEM(s.cert, s.path("cert.pem"), s.path("key.pem"))
}
