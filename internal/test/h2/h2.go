// Package h2 speaks HTTP/2 frame by frame, for tests and benchmarks that send what
// no library would send, or look at what a library would hide.
package h2

import (
	"bytes"
	"fmt"
	"io"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A Peer is one end of an HTTP/2 connection. It reads and writes frames, and does
// nothing by itself; ReadFrame returns header sections as [http2.MetaHeadersFrame].
type Peer struct {
	net.Conn
	*http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

// New is a peer on a connection on which nothing was said so far. What it reads
// comes from r.
func New(conn net.Conn, r io.Reader) *Peer {
	p := &Peer{Conn: conn, Framer: http2.NewFramer(conn, r)}
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.encoder = hpack.NewEncoder(&p.block)
	return p
}

// Client begins as a client: with the preface and SETTINGS.
func Client(conn net.Conn, settings ...http2.Setting) (*Peer, error) {
	p := New(conn, conn)
	_, err := io.WriteString(conn, http2.ClientPreface)
	if err == nil {
		err = p.WriteSettings(settings...)
	}
	return p, err
}

// Server begins as a server: it reads the client's preface from r, then writes
// SETTINGS.
func Server(conn net.Conn, r io.Reader, settings ...http2.Setting) (*Peer, error) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(r, preface); err != nil {
		return nil, err
	}
	if string(preface) != http2.ClientPreface {
		return nil, fmt.Errorf("the client begins with %q", preface)
	}
	p := New(conn, r)
	return p, p.WriteSettings(settings...)
}

// Headers writes a header section in one frame; end ends the stream.
func (p *Peer) Headers(stream uint32, end bool, fields ...[2]string) error {
	p.block.Reset()
	for _, field := range fields {
		if err := p.encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: end})
}

// Get asks for https://authority/.
func (p *Peer) Get(stream uint32, authority string) error {
	return p.Headers(stream, true, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", authority}, {":path", "/"}}...)
}

// Next returns the next frame after it has answered SETTINGS and PING, if that is
// one to be answered.
func (p *Peer) Next() (http2.Frame, error) {
	frame, err := p.ReadFrame()
	if err != nil {
		return nil, err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			err = p.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			err = p.WritePing(true, f.Data)
		}
	}
	return frame, err
}

// Response reads frames until the header section of a stream's response is there,
// and returns that.
func (p *Peer) Response(stream uint32) (*http2.MetaHeadersFrame, error) {
	for {
		frame, err := p.Next()
		if err != nil {
			return nil, err
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f, nil
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return nil, fmt.Errorf("stream %d was reset: %v", stream, f.ErrCode)
			}
		}
	}
}
