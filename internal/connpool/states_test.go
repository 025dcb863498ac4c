package connpool

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/memory"
)

// docs/architecture.md shows the table as it is.
func TestStatesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for from := range numStates {
		var to []string
		for _, s := range allowed[from] {
			to = append(to, s.String())
		}
		line := fmt.Sprintf("| %s | %s |", from, strings.Join(to, ", "))
		if !strings.Contains(string(text), line) {
			t.Errorf("docs/architecture.md lacks %q", line)
		}
	}
}

// Every move that the table has keeps a connection in the list of its state, and in
// the list of all pools while it is idle. Every other move panics.
func TestMoves(t *testing.T) {
	for from := range numStates {
		for to := range numStates {
			t.Run(fmt.Sprintf("%v to %v", from, to), func(t *testing.T) {
				g := NewGroup(Config{})
				p := g.NewPool(Options{Memory: new(memory.Upstream)})
				c := &conn{pool: p}
				c.state.Store(uint32(from))
				if from == sensor {
					t.Skip("leaving it needs a learner")
				}
				p.lists[c.listOfLocked(from)].Push(&c.place, c)
				if from == idle || from == fresh {
					g.idle.Push(&c.inGroup, c)
				}
				if !moves(from, to) {
					defer func() {
						if recover() == nil {
							t.Error("no panic")
						}
					}()
				}
				p.moveLocked(c, to)
				total := 0
				for _, l := range p.lists {
					total += l.Len()
				}
				if want := 1; to == closed && total != 0 || to != closed && (total != want || p.lists[c.listOfLocked(to)].Len() != 1) {
					t.Errorf("%d connections in lists after it, %d in that of %v", total, p.lists[c.listOfLocked(to)].Len(), to)
				}
				if n := g.Idle(); (n == 1) != (to == idle || to == fresh) {
					t.Errorf("%d idle connections of all pools", n)
				}
			})
		}
	}
}

// Time that has passed is never less than none.
func TestElapsed(t *testing.T) {
	since := time.Now()
	for _, later := range []time.Duration{-time.Millisecond, 0, time.Minute} {
		want := max(0, later)
		if got := elapsed(since, since.Add(later)); got != want {
			t.Errorf("%s later: %s have passed, want %s", later, got, want)
		}
	}
}
