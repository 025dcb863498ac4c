package owner

import "testing"

// A keeper counts the owners that it was told of.
type keeper struct{ told int }

func (k *keeper) Disown(o *Owner) {
	k.told++
	o.LeftBy(k) // as pools do: no lock is held
}

// Each keeper is told of the end once, if it keeps something then.
func TestEnd(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(o *Owner, k *keeper)
		told int
	}{
		{"nothing is kept", func(o *Owner, k *keeper) { o.End() }, 0},
		{"something is kept", func(o *Owner, k *keeper) { o.KeptBy(k); o.End() }, 1},
		{"two things are kept", func(o *Owner, k *keeper) { o.KeptBy(k); o.KeptBy(k); o.End() }, 1},
		{"nothing is kept any more", func(o *Owner, k *keeper) { o.KeptBy(k); o.LeftBy(k); o.End() }, 0},
		{"it is kept after the end", func(o *Owner, k *keeper) { o.End(); o.KeptBy(k) }, 0},
		{"it ends twice", func(o *Owner, k *keeper) { o.KeptBy(k); o.End(); o.KeptBy(k); o.End() }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var o Owner
			var k, other keeper
			o.KeptBy(&other)
			if o.Ended() || !o.Kept() {
				t.Error("it has ended")
			}
			test.do(&o, &k)
			if k.told != test.told || other.told != 1 || !o.Ended() || o.Kept() {
				t.Errorf("told %d times, want %d; the other one %d times; ended = %v", k.told, test.told, other.told, o.Ended())
			}
		})
	}
}
