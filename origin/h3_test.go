package origin

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// O16 RFC 9412: as long as there is no way to put the frame on the control
// stream, HTTP/3 has none. Should this fail since quic-go sends one on its own,
// there is a way.
//
// Checklist: O16.
func TestNoFrameOnHTTP3(t *testing.T) {
	const name = "a.h3.test"
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{name, "b.h3.test"}), wrapped(port, "", onePolicy+`"routes":[`+hostRoutes(name, "b.h3.test")+`]`))
	if len(dialH2(t, port, name).origins()) != 1 {
		t.Fatal("nothing to advertise, so nothing is tested")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := quic.DialAddr(ctx, address(port), clientTLS(name, http3.NextProtoH3), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseWithError(0, "")
	for {
		stream, err := c.AcceptUniStream(ctx)
		if err != nil {
			t.Fatalf("waiting for the control stream: %v", err)
		}
		r := bufio.NewReader(stream)
		if kind, err := quicvarint.Read(r); err != nil || kind != 0 { // RFC 9114 section 6.2.1
			continue
		}
		_ = stream.SetReadDeadline(time.Now().Add(20 * time.Second))
		settings := false
		for {
			kind, err := quicvarint.Read(r)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() && settings {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			length, err := quicvarint.Read(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
				t.Fatal(err)
			}
			switch kind {
			case 0x04:
				settings = true
				// whatever else is to come on it at the start is there by now
				_ = stream.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			case uint64(frameType):
				t.Fatal("an ORIGIN frame on HTTP/3")
			}
		}
	}
}
