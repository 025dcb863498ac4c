package command

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

// TestProgress: what is shown of two targets, one of which takes 62 s.
func TestProgress(t *testing.T) {
	const up = "\x1b[2A\r"
	for _, test := range []struct {
		name  string
		width int
		idle  time.Duration
		want  string
	}{
		{"plain", 0, 62 * time.Second, "a: waiting for the close\nb: failed\n" +
			"a: waiting for the close, idle for 30s\na: waiting for the close, idle for 1m0s\na: done\n"},
		{"terminal", 80, 2500 * time.Millisecond,
			"\x1b[Ka: waiting for the close, idle for 0s\n\x1b[Kb: connecting\n" +
				up + "\x1b[Ka: waiting for the close, idle for 0s\n\x1b[Kb: failed\n" +
				up + "\x1b[Ka: waiting for the close, idle for 1s\n\x1b[Kb: failed\n" +
				up + "\x1b[Ka: waiting for the close, idle for 2s\n\x1b[Kb: failed\n" +
				up + "\x1b[Ka: done\n\x1b[Kb: failed\n" +
				up + "\x1b[J"},
		{"narrow terminal", 10, 500 * time.Millisecond,
			"\x1b[Ka: waitin\n\x1b[Kb: connec\n" +
				up + "\x1b[Ka: waitin\n\x1b[Kb: failed\n" +
				up + "\x1b[Ka: done\n\x1b[Kb: failed\n" +
				up + "\x1b[J"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				p := newProgress(&out, test.width, []target{{text: "a"}, {text: "b"}})
				p.set(0, "waiting for the close", time.Now())
				p.set(1, "failed", time.Time{})
				time.Sleep(test.idle)
				p.set(0, "done", time.Time{})
				p.end()
				if out.String() != test.want {
					t.Errorf("got\n%q\nwant\n%q", out.String(), test.want)
				}
			})
		})
	}
}
