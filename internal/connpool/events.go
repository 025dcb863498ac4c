package connpool

// unlock unlocks the pool and does what was noted meanwhile.
func (p *Pool) unlock() {
	after := p.after
	p.after = nil
	p.mu.Unlock()
	for _, do := range after {
		do()
	}
}

// afterLocked has something done once the pool is unlocked. What the lock guards may
// have changed by then.
func (p *Pool) afterLocked(do func()) { p.after = append(p.after, do) }
