// Package servers starts the real servers that tests and benchmarks proxy to,
// each with a keep-alive timeout of the caller's choice.
//
// Every server answers GET with "ok", reads the body of any other request, and
// then notes the request as done, which [Server.Done] reports: a request that
// was sent twice is seen twice.
package servers

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/port"
	"github.com/caddy-connreuse/connreuse/internal/test/program"
)

// A Kind is a server program and the protocol it speaks.
type Kind struct {
	Name string // for people
	// Protocol is "http/1.1", "h2" (over TLS) or "h2c" (prior knowledge).
	Protocol string
	// Program is what must be installed, by the Debian package Package; empty
	// for the server of this process.
	Program, Package string
	// Announces: its Keep-Alive header says when it closes.
	Announces bool
	// Late is how much later than its keep-alive timeout it closes.
	Late time.Duration
	// Looks is how often it looks for idle connections, and so how much later than that
	// it may close them.
	Looks time.Duration
	// Whole: its timeout is of whole seconds.
	Whole bool

	start func(*Server) error
}

// The kinds of server. The order is that of tables.
var (
	Node     = Kind{Name: "Node", Protocol: "http/1.1", Program: "node", Package: "nodejs", Announces: true, Late: time.Second, start: startNode}
	NodeH2   = Kind{Name: "Node h2", Protocol: "h2", Program: "node", Package: "nodejs", start: startNode}
	Go       = Kind{Name: "Go", Protocol: "http/1.1", start: startGo}
	GoH2     = Kind{Name: "Go h2", Protocol: "h2", start: startGo}
	GoH2C    = Kind{Name: "Go h2c", Protocol: "h2c", start: startGo}
	Nginx    = Kind{Name: "nginx", Protocol: "http/1.1", Program: "nginx", Package: "nginx-light", start: startNginx}
	NginxH2  = Kind{Name: "nginx h2", Protocol: "h2", Program: "nginx", Package: "nginx-light", start: startNginx}
	Apache   = Kind{Name: "Apache", Protocol: "http/1.1", Program: "apache2", Package: "apache2", Announces: true, start: startApache}
	Gunicorn = Kind{Name: "gunicorn gthread", Protocol: "http/1.1", Program: "gunicorn", Package: "gunicorn", Looks: time.Second, Whole: true, start: startGunicorn}
	Uvicorn  = Kind{Name: "uvicorn", Protocol: "http/1.1", Program: "uvicorn", Package: "uvicorn", Whole: true, start: startUvicorn}

	Kinds = []Kind{Node, Go, GoH2, GoH2C, NodeH2, Nginx, NginxH2, Apache, Gunicorn, Uvicorn}
)

// Installed returns an error that names the package to install, if the server's
// program is missing.
func (k Kind) Installed() error {
	if k.Program == "" {
		return nil
	}
	if _, err := exec.LookPath(k.Program); err != nil {
		return fmt.Errorf("%w: install the package %s", err, k.Package)
	}
	return nil
}

// A Server is a running server on a loopback address that it keeps over
// restarts.
type Server struct {
	Kind
	// KeepAlive is its keep-alive timeout, as it was configured.
	KeepAlive time.Duration
	// Addr is its host:port.
	Addr string

	dir     string
	program *program.Program // nil for the server of this process
	stop    func(graceful bool) error
	cert    tls.Certificate
}

// Start starts a server of a kind in the folder dir, which is the caller's to
// remove, and waits until it accepts connections.
func Start(dir string, kind Kind, keepAlive time.Duration) (*Server, error) {
	port, err := port.Free()
	if err != nil {
		return nil, err
	}
	return StartAt(dir, kind, keepAlive, fmt.Sprintf("127.0.0.1:%d", port))
}

// StartAt is Start with an address to listen on.
func StartAt(dir string, kind Kind, keepAlive time.Duration, addr string) (*Server, error) {
	s := &Server{Kind: kind, KeepAlive: keepAlive, Addr: addr, dir: dir}
	if kind.Whole && keepAlive%time.Second != 0 {
		return nil, fmt.Errorf("starting %s: its keep-alive timeout is of whole seconds, not %v", kind.Name, keepAlive)
	}
	if kind.Protocol == "h2" {
		if err := s.makeCertificate(); err != nil {
			return nil, err
		}
	}
	return s, s.run()
}

// Closes is when it closes an idle connection.
func (s *Server) Closes() time.Duration { return s.KeepAlive + s.Late }

// Announced is what its Keep-Alive header says, or zero.
func (s *Server) Announced() time.Duration {
	if !s.Announces {
		return 0
	}
	return s.KeepAlive.Truncate(time.Second)
}

// URL is the address as a client writes it: h2c as "http".
func (s *Server) URL() string {
	if s.Protocol == "h2" {
		return "https://" + s.Addr
	}
	return "http://" + s.Addr
}

// CA trusts the server.
func (s *Server) CA() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.cert.Leaf)
	return pool
}

// CAFile is the name of a PEM file that trusts the server.
func (s *Server) CAFile() string { return s.path("cert.pem") }

// Transport is what reverse_proxy's transport needs to speak to the server, as
// JSON has it.
func (s *Server) Transport() map[string]any {
	switch s.Protocol {
	case "h2":
		return map[string]any{"tls": map[string]any{
			"server_name": "localhost",
			"ca":          map[string]any{"provider": "file", "pem_files": []string{s.CAFile()}},
		}}
	case "h2c":
		return map[string]any{"versions": []string{"h2c"}}
	}
	return map[string]any{}
}

// Done counts the requests it has done, by "METHOD target". It may note one just
// after it has answered.
func (s *Server) Done() (map[string]int, error) {
	text, err := os.ReadFile(s.path("done"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	done := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		if strings.HasSuffix(line, "\n") { // or it is being written
			done[strings.TrimSpace(line)]++
		}
	}
	return done, nil
}

// Stop ends it: gracefully, as its own documentation says (requests in progress
// are finished), or at once (SIGKILL).
func (s *Server) Stop(graceful bool) error {
	if s.stop == nil {
		return nil
	}
	stop := s.stop
	s.stop = nil
	if err := stop(graceful); err != nil {
		return fmt.Errorf("stopping %s: %w", s.Name, err)
	}
	return nil
}

// Ended returns an error with its last words if it has ended by itself.
func (s *Server) Ended() error {
	if s.stop == nil || s.program == nil {
		return nil
	}
	return s.program.Ended()
}

// Restart ends it and starts it anew on the same address.
func (s *Server) Restart(graceful bool, keepAlive time.Duration) error {
	if err := s.Stop(graceful); err != nil {
		return err
	}
	s.KeepAlive = keepAlive
	return s.run()
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// run starts it and waits until it accepts connections.
func (s *Server) run() error {
	err := s.start(s)
	if err == nil && s.program != nil {
		if err = s.program.Listens(s.Addr); err != nil {
			_ = s.Stop(false)
		}
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", s.Name, err)
	}
	return nil
}

// awaitRefusal waits until nobody accepts connections any more: a child may live on
// for a moment.
func (s *Server) awaitRefusal() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) { // polls other processes
		conn, err := net.Dial("tcp", s.Addr)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

// command runs a program that ends gracefully by a signal.
func (s *Server) command(graceful os.Signal, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	p, err := program.Start(cmd)
	if err != nil {
		return fmt.Errorf("%w (Debian package %s)", err, s.Package)
	}
	s.program = p
	s.stop = func(wait bool) error {
		if wait {
			return p.Stop(graceful, 20*time.Second)
		}
		p.Kill()
		s.awaitRefusal()
		return nil
	}
	return nil
}

// port is the port of its address.
func (s *Server) port() string {
	_, port, _ := net.SplitHostPort(s.Addr)
	return port
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
