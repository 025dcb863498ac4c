package command

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A dialer opens connections as the flags say.
type dialer struct {
	roots    *x509.CertPool // nil: the system's
	insecure bool
	timeout  time.Duration       // of connecting, and of each answer
	resolve  map[string][]string // by host:port, instead of DNS
	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
}

// A connection has been opened for one target. One goroutine reads and writes
// it; others may only interrupt that.
type connection struct {
	net.Conn
	wire      *wire
	tls       *tls.ConnectionState // nil without TLS
	h2        bool
	timeout   time.Duration
	roundTrip time.Duration // that connecting took, without TLS

	mu          sync.Mutex
	interrupted bool
}

// allow sets the time for what comes next.
func (c *connection) allow(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.interrupted {
		_ = c.SetDeadline(time.Now().Add(d))
	}
}

// interrupt ends the time for all that comes.
func (c *connection) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = true
	_ = c.SetDeadline(time.Unix(1, 0))
}

// A wire is what lies below TLS. It remembers how reading ended: crypto/tls
// returns io.EOF for a close_notify and for a bare FIN alike.
type wire struct {
	net.Conn
	err error
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.err = err
	return n, err
}

// addresses are the IP addresses of a target.
func (d *dialer) addresses(ctx context.Context, t target) ([]string, error) {
	if with, ok := d.resolve[t.address()]; ok {
		return with, nil
	}
	if hostname.IsIP(t.name) {
		return []string{t.name}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	ips, err := d.lookup(ctx, "ip", t.name)
	if err == nil && len(ips) == 0 {
		err = errors.New("no address")
	}
	if err != nil {
		return nil, fmt.Errorf("resolving '%s': %w", t.name, err)
	}
	addrs := make([]string, len(ips))
	for i, ip := range ips {
		addrs[i] = ip.Unmap().String()
	}
	return addrs, nil
}

// open opens a connection: over TLS with the protocols that Caddy's proxy
// offers, and to the first address that accepts.
func (d *dialer) open(ctx context.Context, t target) (*connection, error) {
	network, list := "unix", []string{t.socket}
	if t.socket == "" {
		network = "tcp"
		addrs, err := d.addresses(ctx, t)
		if err != nil {
			return nil, err
		}
		list = nil
		for _, addr := range addrs {
			list = append(list, net.JoinHostPort(addr, t.port))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c, err := d.connect(ctx, network, list)
	if err != nil {
		return nil, err
	}
	if t.scheme != "https" {
		c.h2 = t.scheme == "h2c"
		return c, nil
	}
	config := &tls.Config{
		RootCAs: d.roots, InsecureSkipVerify: d.insecure,
		ServerName: cmp.Or(t.sni, t.name), NextProtos: []string{"h2", "http/1.1"},
	}
	conn := tls.Client(c.Conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, explainTLS(err)
	}
	state := conn.ConnectionState()
	c.Conn, c.tls, c.h2 = conn, &state, state.NegotiatedProtocol == "h2"
	return c, nil
}

// connect tries the addresses in order, each for its share of the time that is
// left, as net.Dialer does.
func (d *dialer) connect(ctx context.Context, network string, list []string) (*connection, error) {
	var errs []error
	deadline, _ := ctx.Deadline()
	for i, address := range list {
		share := time.Until(deadline) / time.Duration(len(list)-i)
		one, cancel := context.WithTimeout(ctx, share)
		begin := time.Now()
		conn, err := d.dial(one, network, address)
		took := time.Since(begin)
		cancel()
		if err == nil {
			w := &wire{Conn: conn}
			return &connection{Conn: w, wire: w, timeout: d.timeout, roundTrip: took}, nil
		}
		errs = append(errs, fmt.Errorf("connecting to %s: %w", address, reason(err)))
	}
	return nil, errors.Join(errs...)
}

// reason is err without the addresses, which the message has already.
func reason(err error) error {
	switch op, ok := errors.AsType[*net.OpError](err); {
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("timed out")
	case ok:
		return op.Err
	default:
		return err
	}
}

// explainTLS says what to do about a handshake that failed.
func explainTLS(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("the certificate is not trusted: %w (--cacert <file> names a CA to trust, --insecure does without)", err)
	}
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("the server speaks no TLS: %s", header.Msg)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return errors.New("the TLS handshake timed out")
	}
	return fmt.Errorf("the TLS handshake failed: %w", reason(err))
}
