package upstreams

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	if err := os.WriteFile(s.path("cert.pem"), certPEM, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("key.pem"), keyPEM, 0o600); err != nil {
		return err
	}
	s.cert, err = tls.X509KeyPair(certPEM, keyPEM)
	return err
}
