package h2

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// peers are both ends of a connection.
func peers(t *testing.T) (client, server *Peer) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	if client, err = Client(dialed); err == nil {
		server, err = Server(accepted, accepted)
	}
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestPeers(t *testing.T) {
	client, server := peers(t)
	_ = client.Get(1, "a.test")
	_ = client.Get(3, "b.test")
	for _, want := range []string{"a.test", "b.test"} {
		frame := next(t, server, http2.FrameHeaders).(*http2.MetaHeadersFrame)
		if frame.PseudoValue("authority") != want || !frame.StreamEnded() {
			t.Errorf("%v, want one for %s", frame, want)
		}
	}
	_ = server.WritePing(false, [8]byte{1}) // to be answered
	_ = server.Headers(3, true, [2]string{":status", "200"}, [2]string{"n", "3"})
	_ = server.WriteRSTStream(1, http2.ErrCodeCancel)
	answer, err := client.Response(3)
	if err != nil || answer.PseudoValue("status") != "200" || answer.RegularFields()[0].Value != "3" {
		t.Errorf("%v, %v", answer, err)
	}
	if ping := next(t, server, http2.FramePing).(*http2.PingFrame); !ping.IsAck() {
		t.Errorf("the PING was answered by %v", ping)
	}
	if _, err := client.Response(1); err == nil || !strings.Contains(err.Error(), "CANCEL") {
		t.Errorf("a stream that was reset: %v", err)
	}
}

// next is the next frame of a type.
func next(t *testing.T, p *Peer, of http2.FrameType) http2.Frame {
	t.Helper()
	for {
		frame, err := p.Next()
		if err != nil {
			t.Fatal(err)
		}
		if frame.Header().Type == of {
			return frame
		}
	}
}

func TestServerWantsPreface(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	go func() { _, _ = a.Write([]byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")) }()
	if _, err := Server(b, b); err == nil {
		t.Error("a request in HTTP/1.1 passes for a preface")
	}
}
