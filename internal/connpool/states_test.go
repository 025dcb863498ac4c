package connpool

import (
	"fmt"
	"os"
	"strings"
	"testing"
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
				p := g.NewPool(Options{Memory: new(Memory)})
				c := &conn{pool: p}
				c.state.Store(uint32(from))
				if from == sensor {
					t.Skip("leaving it needs a learner")
				}
				p.lists[c.listOf(from)].push(c)
				if from == idle || from == fresh {
					g.idle.push(c)
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
					total += l.n
				}
				if want := 1; to == closed && total != 0 || to != closed && (total != want || p.lists[c.listOf(to)].n != 1) {
					t.Errorf("%d connections in lists after it, %d in that of %v", total, p.lists[c.listOf(to)].n, to)
				}
				if n := g.Idle(); (n == 1) != (to == idle || to == fresh) {
					t.Errorf("%d idle connections of all pools", n)
				}
			})
		}
	}
}

// A list keeps its order, whichever connection leaves it.
func TestList(t *testing.T) {
	conns := []*conn{{}, {}, {}}
	for leaves := range conns {
		var l list
		for _, c := range conns {
			l.push(c)
		}
		l.touch(conns[0])
		l.touch(conns[0])
		if l.last != conns[0] || l.first != conns[1] || l.n != 3 {
			t.Error("touching the first does not make it the last")
		}
		if !l.remove(conns[leaves]) || l.remove(conns[leaves]) {
			t.Error("a connection does not leave once")
		}
		var order []*conn
		for c := l.last; c != nil; c = l.before(c) {
			order = append(order, c)
		}
		if len(order) != 2 || order[1] != l.first || l.n != 2 {
			t.Errorf("%d connections are left", len(order))
		}
		for _, c := range order {
			l.remove(c)
		}
		if l.first != nil || l.last != nil || l.n != 0 {
			t.Error("the list is not empty")
		}
	}
}
