// Package dns is a DNS server on loopback that says what a test tells it to say.
package dns

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A Server gives the same answer for every name.
type Server struct {
	conn net.PacketConn
	done chan struct{} // closed at its end

	// Asked is how many questions came.
	Asked atomic.Int64

	mu     sync.Mutex
	answer []netip.Addr
	code   dnsmessage.RCode
	silent bool
}

// Start starts a server that names the given addresses.
func Start(addrs ...string) (*Server, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{conn: conn, done: make(chan struct{})}
	s.Name(addrs...)
	go func() { defer close(s.done); s.run() }()
	return s, nil
}

// Stop ends it.
func (s *Server) Stop() {
	_ = s.conn.Close()
	<-s.done
}

// Serve is Start for a test, with which the server ends.
func Serve(t testing.TB, addrs ...string) *Server {
	t.Helper()
	s, err := Start(addrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// Addr is where it listens: host and port.
func (s *Server) Addr() string { return s.conn.LocalAddr().String() }

// Name has the server name these addresses from now on.
func (s *Server) Name(addrs ...string) {
	var answer []netip.Addr
	for _, a := range addrs {
		answer = append(answer, netip.MustParseAddr(a))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.code, s.silent = answer, dnsmessage.RCodeSuccess, false
}

// Fail has it answer with an error.
func (s *Server) Fail(code dnsmessage.RCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.silent = code, false
}

// Mute has it answer nothing at all.
func (s *Server) Mute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = true
}

func (s *Server) run() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var p dnsmessage.Parser
		head, err := p.Start(buf[:n])
		if err != nil {
			continue
		}
		q, err := p.Question()
		if err != nil {
			continue
		}
		s.Asked.Add(1)
		if reply := s.reply(head.ID, q); reply != nil {
			_, _ = s.conn.WriteTo(reply, from)
		}
	}
}

// reply returns the answer to q, or nil.
func (s *Server) reply(id uint16, q dnsmessage.Question) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		return nil
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: true, RecursionAvailable: true, RCode: s.code},
		Questions: []dnsmessage.Question{q},
	}
	for _, a := range s.answer {
		head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		switch {
		case s.code != dnsmessage.RCodeSuccess:
		case q.Type == dnsmessage.TypeA && a.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}
