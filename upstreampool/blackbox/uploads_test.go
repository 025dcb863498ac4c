package blackbox

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// talk answers the requests of HTTP/2 connections: the n-th one of all gets what respond
// says as soon as some of its body is there, until that returns false.
func talk(l *fake.Listener, respond func(p *h2.Peer, stream uint32, data *http2.DataFrame, conn int64) bool) {
	l.ServeRaw(func(n int64, c net.Conn, r *bufio.Reader) {
		p, err := h2.Server(c, r)
		for err == nil {
			var frame http2.Frame
			if frame, err = p.Next(); err != nil {
				return
			}
			if data, is := frame.(*http2.DataFrame); is && !respond(p, data.StreamID, data, n) {
				return
			}
		}
	})
}

// A client that has sent some of a body may wait for what the upstream says to it, as
// those of gRPC do, or stop sending once it is refused. It hears of the end at once.
func TestUpstreamEndsWhileTheClientWaits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		end    func(p *h2.Peer, stream uint32) (goesOn bool)
		status int // 0: the request fails
	}{
		{"closed", func(p *h2.Peer, stream uint32) bool { return false }, 0},
		{"GOAWAY at its stream, and closed", func(p *h2.Peer, stream uint32) bool {
			_ = p.WriteGoAway(stream, http2.ErrCodeNo, nil)
			return false
		}, 0},
		{"RST_STREAM", func(p *h2.Peer, stream uint32) bool {
			return p.WriteRSTStream(stream, http2.ErrCodeCancel) == nil
		}, 0},
		{"refused twice", func(p *h2.Peer, stream uint32) bool {
			return p.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
		}, 0},
		{"an early answer", func(p *h2.Peer, stream uint32) bool {
			_ = p.Headers(stream, false, [2]string{":status", "401"})
			return p.WriteData(stream, true, []byte("no")) == nil
		}, http.StatusUnauthorized},
		{"an early answer and NO_ERROR", func(p *h2.Peer, stream uint32) bool {
			_ = p.Headers(stream, false, [2]string{":status", "413"})
			_ = p.WriteData(stream, true, []byte("no"))
			return p.WriteRSTStream(stream, http2.ErrCodeNo) == nil
		}, http.StatusRequestEntityTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, nil)
			talk(l, func(p *h2.Peer, stream uint32, _ *http2.DataFrame, _ int64) bool { return tc.end(p, stream) })
			tr := newTransport(t, overH2C)
			for _, length := range []int64{-1, 100} {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				body, client := io.Pipe()
				go func() { _, _ = io.WriteString(client, "hello") }()
				req := newRequest(t, ctx, "POST", addr(l), body)
				req.ContentLength = length
				r := send(tr, req)
				cancel()
				if r.status != tc.status || (r.err == nil) != (tc.status > 0) || !r.within(5*time.Second) {
					t.Errorf("length %d: %v, want status %d at once", length, r, tc.status)
				}
				_ = client.CloseWithError(io.ErrUnexpectedEOF)
			}
		})
	}
}

// An upload that a GOAWAY refuses is sent again at once, although the client waits with
// the rest of it. What it sends then goes where it belongs.
func TestRefusedUploadGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	again, length := make(chan bool), 0
	talk(l, func(p *h2.Peer, stream uint32, data *http2.DataFrame, conn int64) bool {
		if conn == 1 {
			return p.WriteGoAway(0, http2.ErrCodeNo, nil) == nil
		}
		if length == 0 {
			close(again)
		}
		length += len(data.Data())
		if !data.StreamEnded() {
			return true
		}
		_ = p.Headers(stream, false, [2]string{":status", "200"})
		return p.WriteData(stream, true, []byte(strconv.Itoa(length))) == nil
	})
	tr := newTransport(t, overH2C)
	body, client := io.Pipe()
	go func() {
		_, _ = io.WriteString(client, "hello")
		<-again
		_, _ = io.WriteString(client, " world")
		_ = client.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req := newRequest(t, ctx, "POST", addr(l), body)
	req.ContentLength = -1
	if r := mustSend(t, tr, req, 0); r.body != "11" {
		t.Errorf("%s bytes arrived, want 11", r.body)
	}
}
