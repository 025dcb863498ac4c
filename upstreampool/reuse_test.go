package upstreampool

import (
	"bufio"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// echo answers every request with the number of its connection.
func echo(n int64, c net.Conn, r *bufio.Reader) {
	for fake.ReadRequest(r) != nil {
		fake.Respond(c, strconv.FormatInt(n, 10))
	}
}

func TestReuse(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, nil)
	for range 10 {
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
			t.Fatalf("answered by connection %s", got)
		}
		mustSend(t, tr, newRequest(t, "POST", s.addr(), strings.NewReader("body")))
	}
	st := onlyPool(t, tr).snapshot()
	if st.Requests != 20 || st.Reused != 19 || st.Opened != 1 {
		t.Errorf("state = %+v", st)
	}
}
