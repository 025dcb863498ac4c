package origin

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// An h3client is a client's end of an HTTP/3 connection that shows every frame on the
// server's control stream.
type h3client struct {
	*quic.Conn
	t        testing.TB
	patience time.Duration // with an answer

	mu     sync.Mutex
	frames []h3frame
	ended  error
}

type h3frame struct {
	kind    uint64
	payload []byte
}

const settingsHTTP3, goAwayHTTP3 = 0x04, 0x07 // RFC 9114 section 7.2

func dialH3(t testing.TB, port int, sni string) *h3client {
	t.Helper()
	conn, err := quic.DialAddr(t.Context(), address(port), clientTLS(sni, http3.NextProtoH3), nil)
	if err != nil {
		t.Fatal(err)
	}
	return openH3(t, conn)
}

func openH3(t testing.TB, conn *quic.Conn) *h3client {
	c := &h3client{Conn: conn, t: t, patience: 20 * time.Second}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	go c.readControl()
	return c
}

// readControl reads the control stream (RFC 9114 section 6.2.1).
func (c *h3client) readControl() {
	err := func() error {
		for {
			stream, err := c.AcceptUniStream(context.Background())
			if err != nil {
				return err
			}
			r := bufio.NewReader(stream)
			if kind, err := quicvarint.Read(r); err != nil || kind != 0 {
				continue
			}
			for {
				kind, err := quicvarint.Read(r)
				if err != nil {
					return err
				}
				length, err := quicvarint.Read(r)
				if err != nil {
					return err
				}
				payload := make([]byte, length)
				if _, err := io.ReadFull(r, payload); err != nil {
					return err
				}
				c.mu.Lock()
				c.frames = append(c.frames, h3frame{kind, payload})
				c.mu.Unlock()
			}
		}
	}()
	c.mu.Lock()
	c.ended = err
	c.mu.Unlock()
}

// get asks for / of a host, and returns whether the answer is 200.
func (c *h3client) get(host string) (ok bool, err error) {
	// RFC 9204 appendix A: GET is number 17 in the static table, https 23, and / 1;
	// section 4.5.4 for the name of number 0 with a value of its own.
	fields := append([]byte{0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1, 0x50, byte(len(host))}, host...)
	request := append(quicvarint.Append(quicvarint.Append(nil, 0x01), uint64(len(fields))), fields...)
	stream, err := c.OpenStreamSync(context.Background())
	if err != nil {
		return false, err
	}
	_ = stream.SetDeadline(time.Now().Add(c.patience))
	if _, err := stream.Write(request); err != nil {
		return false, err
	}
	stream.Close()
	answer, err := io.ReadAll(stream)
	if err != nil {
		return false, err
	}
	r := bytes.NewReader(answer)
	if kind, err := quicvarint.Read(r); err != nil || kind != 0x01 {
		return false, fmt.Errorf("the answer begins with a frame of type %d: %w", kind, err)
	}
	length, err := quicvarint.Read(r)
	if err != nil || length < 3 {
		return false, fmt.Errorf("%d bytes of field section: %w", length, err)
	}
	// 200 is number 25 in the static table
	return answer[len(answer)-r.Len()+2] == 0xc0|25, nil
}

// mustGet asks for / of a host and wants a 200.
func (c *h3client) mustGet(host string) {
	c.t.Helper()
	if ok, err := c.get(host); err != nil || !ok {
		c.t.Errorf("%s is answered 200: %v, %v", host, ok, err)
	}
}

// seen returns the frames on the control stream so far.
func (c *h3client) seen() []h3frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]h3frame(nil), c.frames...)
}

// settled returns them once nothing more is to come that was written so far: a request
// that is answered behind them may overtake them, so it takes a moment.
func (c *h3client) settled(least int) []h3frame {
	c.t.Helper()
	poll.Until(c.t, fmt.Sprintf("%d frames on the control stream", least), func() bool { return len(c.seen()) >= least })
	time.Sleep(50 * time.Millisecond) // for a frame that must not come
	return c.seen()
}

// origins wants SETTINGS and one ORIGIN frame on the control stream, and returns what is
// in that.
func (c *h3client) origins() []string {
	c.t.Helper()
	got := c.settled(2)
	if len(got) != 2 || got[0].kind != settingsHTTP3 || got[1].kind != uint64(frameType) {
		c.t.Fatalf("frames on the control stream: %v", kinds(got))
	}
	return entries(c.t, got[1].payload)
}

func kinds(frames []h3frame) (list []uint64) {
	for _, f := range frames {
		list = append(list, f.kind)
	}
	return list
}

// entries reads the payload of an ORIGIN frame to its exact end.
func entries(t testing.TB, payload []byte) (list []string) {
	t.Helper()
	for len(payload) > 0 {
		if len(payload) < 2 || len(payload) < 2+int(payload[0])<<8+int(payload[1]) {
			t.Fatalf("the last entry is cut short: %x", payload)
		}
		end := 2 + int(payload[0])<<8 + int(payload[1])
		list = append(list, string(payload[2:end]))
		payload = payload[end:]
	}
	return list
}
