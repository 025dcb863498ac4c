package upstreampool

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// The values of the upstream label are bounded. A place is free once nobody holds
// it, and the one that was given back first goes first.
//
// Checklist: P28.
func TestLabelsAreBoundedAndFreed(t *testing.T) {
	gone := make(chan []string, 1)
	s := labelSet{drop: func(names []string) { gone <- names }}
	for i := range maxLabels {
		if got := s.take(strconv.Itoa(i)); got == otherLabel {
			t.Fatalf("label %d is %q", i, got)
		}
	}
	if got := s.take("one more"); got != otherLabel {
		t.Errorf("label %d is %q", maxLabels+1, got)
	}
	if got := s.take("5"); got != "5" {
		t.Errorf("label 5, a second time, is %q", got)
	}
	s.giveBack(otherLabel)
	s.giveBack("5")
	if got := s.take("one more"); got != otherLabel {
		t.Errorf("although all are held, a label is %q", got)
	}
	s.giveBack("7")
	s.giveBack("5")
	s.giveBack("8")
	if got := s.take("8"); got != "8" { // it is there yet
		t.Errorf("label 8, taken again, is %q", got)
	}
	if got := s.take("one more"); got != "one more" {
		t.Errorf("although two places are free, a label is %q", got)
	}
	if names := <-gone; fmt.Sprint(names) != "[7 5]" {
		t.Errorf("%v lost their metrics, want 7 and 5", names)
	}
	if got := s.take("8"); got != "8" {
		t.Errorf("label 8 is %q", got)
	}
	if got := s.take("\xff"); got != "\uFFFD" {
		t.Errorf("a label that is no UTF-8 is %q", got)
	}
}

// The sums lose nothing with the metrics of an upstream.
func TestSumsOutliveMetrics(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, known)
	before := Sums()
	for range 3 {
		mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
		eventually(t, "the connection is back", func() bool { return tr.core.group.Idle() == 1 }) // or the next one waits for it
	}
	has := func() bool {
		_, ok := metric(t, "caddy_upstreampool_requests_total", map[string]string{"upstream": s.addr()})
		return ok
	}
	if !has() {
		t.Fatal("there are no metrics")
	}
	dropSeries([]string{s.addr()})
	if has() {
		t.Error("the metrics are still there")
	}
	if now := Sums(); now.Requests != before.Requests+3 || now.Opened != before.Opened+1 || now.Waits != before.Waits+1 {
		t.Errorf("sums are %+v, and were %+v before three requests", now, before)
	}
}

// An upstream holds its label until it is forgotten.
func TestLabelOfAnUpstream(t *testing.T) {
	s := serveRaw(t, echo)
	tr := &Transport{HTTPTransport: &reverseproxy.HTTPTransport{MaxResponseHeaderSize: 10<<20 + unique.Add(1)}}
	provision(t, tr)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	holders := func() int {
		labels.mu.Lock()
		defer labels.mu.Unlock()
		if l := labels.held[s.addr()]; l != nil {
			return l.holders
		}
		return -1
	}
	if n := holders(); n != 1 {
		t.Errorf("%d hold the label, want 1", n)
	}
	if err := tr.Cleanup(); err != nil {
		t.Fatal(err)
	}
	if n := holders(); n != 0 {
		t.Errorf("after its configuration is gone, %d hold the label", n)
	}
}
