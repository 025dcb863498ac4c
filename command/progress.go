package command

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// remindEvery is how often a plain progress says that it is still waiting.
const remindEvery = 30 * time.Second

// A progress shows what becomes of several targets: one line each that is
// refreshed every second on a terminal, and otherwise a line for every change
// and every 30 seconds.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	width int // of the terminal; 0: it is none
	drawn bool
	lines []progressLine
	ends  chan struct{}
	done  sync.WaitGroup
}

type progressLine struct {
	name, state string
	since       time.Time // when it became idle
}

func (l progressLine) String() string {
	text := l.name + ": " + l.state
	if !l.since.IsZero() {
		text += ", idle for " + time.Since(l.since).Round(time.Second).String()
	}
	return text
}

// terminalWidth is the width of the terminal that out is, if it has room for the
// lines; else it is 0.
func terminalWidth(out io.Writer, lines int) int {
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && lines < height {
			return width
		}
	}
	return 0
}

// newProgress begins to show the progress of targets on out, which is a terminal
// of that width, or none if it is 0.
func newProgress(out io.Writer, width int, targets []target) *progress {
	p := &progress{out: out, width: width, ends: make(chan struct{})}
	for _, t := range targets {
		p.lines = append(p.lines, progressLine{name: t.text, state: "connecting"})
	}
	every := remindEvery
	if width > 0 {
		every = time.Second
	}
	p.done.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-p.ends:
				return
			case <-ticker.C:
				p.tick()
			}
		}
	})
	return p
}

// set says what is done for one target, and since when it is idle.
func (p *progress) set(i int, state string, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines[i].state, p.lines[i].since = state, since
	if p.width > 0 {
		p.draw()
	} else {
		fmt.Fprintf(p.out, "%s: %s\n", p.lines[i].name, state)
	}
}

func (p *progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		p.draw()
		return
	}
	for _, line := range p.lines {
		if !line.since.IsZero() {
			fmt.Fprintln(p.out, line)
		}
	}
}

// draw overwrites the lines.
func (p *progress) draw() {
	var b strings.Builder
	p.up(&b)
	for _, line := range p.lines {
		text := []rune(line.String()) // cut, since what wraps could not be overwritten
		fmt.Fprintf(&b, "\x1b[K%s\n", string(text[:min(len(text), p.width-1)]))
	}
	p.drawn = true
	_, _ = io.WriteString(p.out, b.String())
}

// up goes back to the first line.
func (p *progress) up(b *strings.Builder) {
	if p.drawn {
		fmt.Fprintf(b, "\x1b[%dA\r", len(p.lines))
	}
}

// end stops, and wipes the lines off a terminal.
func (p *progress) end() {
	close(p.ends)
	p.done.Wait()
	if p.width > 0 {
		var b strings.Builder
		p.up(&b)
		_, _ = io.WriteString(p.out, b.String()+"\x1b[J")
	}
}
