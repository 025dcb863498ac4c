package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what Caddyfiles refer to

	_ "github.com/caddy-connreuse/connreuse/caddyfile"
	_ "github.com/caddy-connreuse/connreuse/upstreampool"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/golden"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/parallel"
)

// asCaddy in the environment makes the test binary the caddy command.
const asCaddy = "CONNREUSE_TEST_AS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return
	}
	parallel.AtLeast(6) // servers that wait for their timeouts
	needs.Main(m)
}

// A network is what the commands find when they connect to an address: a
// function that is the server's end of the connection. It is a net.Pipe, so that
// all of it runs on the clock of a synctest bubble.
type network map[string]func(net.Conn)

// A scene is a network that a command runs in, and how.
type scene struct {
	name    string
	urls    string
	network func(*authority) network
	with    func(*options)
	cancel  time.Duration // when the command is interrupted; 0: not at all
	changes bool          // pages are different each time, and so are their hashes
}

// golden runs a command, with text and with JSON output, and compares what it
// prints with a file in testdata.
func (s scene) golden(t *testing.T, name string, command func(context.Context, []string, options) (int, error)) {
	var got bytes.Buffer
	for _, json := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		var code int
		var err error
		synctest.Test(t, func(t *testing.T) {
			ca := newAuthority(t)
			servers := s.network(ca)
			var wg sync.WaitGroup
			dial := func(_ context.Context, _, address string) (net.Conn, error) {
				serve := servers[address]
				if serve == nil {
					return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
				}
				c, s := net.Pipe()
				client, server := buffer(c), buffer(s)
				wg.Go(func() {
					defer server.Close()
					serve(server)
				})
				return client, nil
			}
			o := options{
				dialer:  dialer{timeout: defaultTimeout, dial: dial, resolve: map[string][]string{}, roots: ca.pool()},
				maxWait: defaultMaxWait, stdout: &stdout, stderr: &stderr, json: json,
			}
			if s.with != nil {
				s.with(&o)
			}
			ctx, cancel := context.WithCancel(t.Context())
			if s.cancel > 0 {
				time.AfterFunc(s.cancel, cancel)
			}
			code, err = command(ctx, strings.Fields(s.urls), o)
			cancel()
			wg.Wait()
		})
		if json {
			fmt.Fprintf(&got, "\n== --json\n%s", &stdout)
			continue
		}
		fmt.Fprintf(&got, "$ caddy connreuse %s %s\n%s\n== exit code %d\n", name, s.urls, &stdout, code)
		if err != nil {
			t.Error(err)
		}
		// what is done side by side has no order
		progress := slices.SortedStableFunc(strings.Lines(stderr.String()), func(a, b string) int {
			a, _, _ = strings.Cut(a, ": ")
			b, _, _ = strings.Cut(b, ": ")
			return strings.Compare(a, b)
		})
		if len(progress) > 0 {
			fmt.Fprintf(&got, "\n== stderr\n%s", strings.Join(progress, ""))
		}
	}
	if s.changes {
		text := regexp.MustCompile(`"sha256": "[0-9a-f]{64}"`).ReplaceAllString(got.String(), `"sha256": "HASH"`)
		got = *bytes.NewBufferString(text)
	}
	file := filepath.Join("testdata", name, strings.ReplaceAll(s.name, " ", "_")+".txt")
	golden.Check(t, file, got.Bytes())
}

// A buffered connection is one end of a net.Pipe whose Write does not wait for
// the other end, as that of a socket.
type buffered struct {
	net.Conn
	queue  chan []byte
	closed chan struct{}
	once   sync.Once
}

func buffer(c net.Conn) *buffered {
	b := &buffered{Conn: c, queue: make(chan []byte, 1000), closed: make(chan struct{})}
	go func() {
		defer c.Close()
		for {
			select {
			case p := <-b.queue:
				_, _ = c.Write(p)
			case <-b.closed:
				for len(b.queue) > 0 {
					_, _ = c.Write(<-b.queue)
				}
				return
			}
		}
	}()
	return b
}

func (b *buffered) Write(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, net.ErrClosed
	case b.queue <- bytes.Clone(p):
		return len(p), nil
	}
}

// The deadlines of a write would hit what is buffered.
func (b *buffered) SetDeadline(t time.Time) error    { return b.SetReadDeadline(t) }
func (b *buffered) SetWriteDeadline(time.Time) error { return nil }

func (b *buffered) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// An authority makes certificates.
type authority struct {
	t  testing.TB
	ca tls.Certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca, err := testcert.Issue(nil, x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true})
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, ca}
}

// issue makes a certificate for DNS names.
func (a *authority) issue(names ...string) tls.Certificate {
	a.t.Helper()
	cert, err := testcert.Issue(&a.ca, testcert.For(names...))
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca.Leaf)
	return pool
}

// A listener hands connections to net/http's server.
type listener chan net.Conn

func (l listener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l listener) Close() error   { return nil }
func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

// gone waits, and tells whether the client went in the meantime.
func gone(c net.Conn, d time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(d))
	_, err := io.Copy(io.Discard, c)
	_ = c.SetReadDeadline(time.Time{})
	return err == nil
}
