package idletime

import "time"

const (
	// hintAfter is the age from which a remembered value is only a hint, which a
	// close must confirm first.
	hintAfter = 24 * time.Hour

	// maxRemembered bounds what is believed of a stored value.
	maxRemembered = 24 * time.Hour
)

// A Memory is what is worth knowing of an upstream in another process.
type Memory struct {
	// After how long the upstream closes an idle connection.
	KeepAlive time.Duration `json:"keep_alive"`
	// No close was seen: the upstream keeps connections for at least KeepAlive.
	AtLeast bool `json:"at_least,omitempty"`
	// When that was seen last.
	SeenAt time.Time `json:"seen_at"`
}

// valid tells whether a Memory, which comes from a file, can be true.
func (m Memory) valid() bool {
	return m.KeepAlive >= leastTimeout && m.KeepAlive <= maxRemembered
}

// Export returns what was learned, and whether there is anything. What was
// imported and not beaten since counts.
func (l *Learner) Export(now time.Time) (Memory, bool) {
	l.begin(now)
	defer l.end()
	if d, ok := l.closes.learned.Get(); ok {
		return Memory{KeepAlive: d, AtLeast: l.closes.outlived, SeenAt: l.closes.learnedAt}, true
	}
	return l.imported, l.imported.valid()
}

// Import makes use of what another process learned: the value counts until a
// close, or a sensor, shows more. One that is older than a day, or from the future,
// only saves a close that confirms it. An invalid one is ignored.
func (l *Learner) Import(now time.Time, m Memory) {
	l.begin(now)
	defer l.end()
	if _, known := l.closes.learned.Get(); known || !m.valid() {
		return
	}
	l.imported = m
	if age := now.Sub(m.SeenAt); age >= 0 && age < hintAfter {
		l.remembered = Known(m.KeepAlive)
	}
	if !m.AtLeast {
		l.closes.witnesses = append(l.closes.witnesses, Close{At: now, Idle: m.KeepAlive, Open: m.KeepAlive})
	}
}

// beaten forgets what another process learned, if a close at that age shows that
// it is true no longer.
func (l *Learner) beaten(closed time.Duration) {
	if m := l.imported; m.valid() && closed < m.KeepAlive && (m.AtLeast || !SameAge(closed, m.KeepAlive)) {
		l.imported, l.remembered = Memory{}, Optional{}
	}
}
