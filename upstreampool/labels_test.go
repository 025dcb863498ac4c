package upstreampool

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// The values of the upstream label are bounded. A place is free once nobody holds
// it, and the one that was given back first goes first.
//
// Checklist: P28.
func TestLabelsAreBoundedAndFreed(t *testing.T) {
	var gone []string
	s := labelSet{drop: func(name string) { gone = append(gone, name) }}
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
	if fmt.Sprint(gone) != "[7]" {
		t.Errorf("%v lost their metrics, want 7", gone)
	}
	if got := s.take("two more"); got != "two more" {
		t.Errorf("although a place is free, a label is %q", got)
	}
	if got := s.take("three more"); got != otherLabel || fmt.Sprint(gone) != "[7 5]" {
		t.Errorf("although all are held, a label is %q; %v lost their metrics, want 7 and 5", got, gone)
	}
	if got := s.take("8"); got != "8" {
		t.Errorf("label 8 is %q", got)
	}
	s.giveBack("one more")
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
	dropSeries(s.addr())
	if has() {
		t.Error("the metrics are still there")
	}
	if now := Sums(); now.Requests != before.Requests+3 || now.Opened != before.Opened+1 || now.Waits != before.Waits+1 {
		t.Errorf("sums are %+v, and were %+v before three requests", now, before)
	}
}

// Of an upstream that is forgotten no series is left, and to forget one of many takes
// no longer than to forget one of few.
func TestForgottenUpstreams(t *testing.T) {
	var collected []string
	use := func(upstream string) {
		r := newRequestCounters(upstream)
		r.count(true)
		r.firstByte.of(418).Observe(1)
		countClosed(upstream, connpool.CloseSensor)
		countReplayed(upstream, replay.Refused)
		countWaited(upstream, time.Second)
		(&dialTimes{handshake: 1, resumed: true}).observe(upstream)
		collected = append(collected, upstream)
	}
	took := func(upstream string) time.Duration {
		least := time.Hour
		for range 20 {
			use(upstream)
			start := time.Now()
			dropSeries(upstream)
			least = min(least, time.Since(start))
		}
		return least
	}
	few := took("forgotten.test:80")
	for i := range 3000 {
		use(fmt.Sprintf("among-many-%d.test:80", i))
	}
	if many := took("forgotten.test:80"); many > 5*few {
		t.Errorf("one of 3000 takes %v, one of few %v", many, few)
	} else {
		t.Logf("one of 3000 takes %v, one of few %v", many, few)
	}
	for _, upstream := range collected {
		dropSeries(upstream)
	}
	reg := prometheus.NewRegistry()
	if err := registerMetrics(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, label := range m.GetLabel() {
				if slices.Contains(collected, label.GetValue()) {
					t.Fatalf("%s is left: %v", f.GetName(), m.GetLabel())
				}
			}
		}
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
