package resolve

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// addrs reads addresses, separated by spaces.
func addrs(t testing.TB, text string) []netip.Addr {
	t.Helper()
	var list []netip.Addr
	for s := range strings.FieldsSeq(text) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
	}
	return list
}

func TestGone(t *testing.T) {
	const a, b, c = "192.0.2.1", "192.0.2.2", "192.0.2.3"
	for _, test := range []struct {
		name    string
		answers []string
		addr    string
		want    bool
	}{
		{"no answer yet", nil, a, false},
		{"named", []string{a, a, a}, a, false},
		{"left out once", []string{a, a, b}, a, false},
		{"left out twice", []string{a, b, b}, a, false},
		{"left out three times", []string{a, b, b, b}, a, true},
		{"never named, by three answers: it was dialed before", []string{b, b, b}, a, true},
		{"two answers are too few", []string{b, b}, a, false},
		{"back again", []string{a, b, b, a}, a, false},
		{"an empty answer says nothing", []string{a, b, b, ""}, a, false},
		{"0.0.0.0 is this host", []string{"0.0.0.0", "0.0.0.0", "0.0.0.0"}, "127.0.0.1", false},
		{":: is this host", []string{":: " + a, "::1 ::", "::"}, "::1", false},
		{"of another family alone: nothing", []string{a, "2001:db8::1", "2001:db8::1", "2001:db8::1"}, a, false},
		{"IPv6, beside IPv4", []string{"2001:db8::1 " + a, "2001:db8::2 " + a, "2001:db8::2", "2001:db8::2"}, "2001:db8::1", true},
		{"mapped", []string{"::ffff:" + a, b, "::ffff:" + a}, a, false},
		{"mapped the other way", []string{a, a, a}, "::ffff:" + a, false},
		{"with a zone", []string{"fe80::1", "fe80::1", "fe80::1"}, "fe80::1%eth0", false},
		{"one of several", []string{a + " " + b, b + " " + c, b + " " + c, c + " " + b}, a, true},
		{"three disjoint answers: they rotate", []string{a, b, c, a, b, c, b, c, b}, a, false},
		{"a move of three steps is no rotation for ever", append([]string{a, b}, strings.Split(strings.Repeat(c+",", 30)+c, ",")...), a, true},
		{"it came back after three: they rotate", []string{a + " " + b, b, b, b, a + " " + b, b, b, b, b}, a, false},
		{"rotation, and then it is gone for good",
			append([]string{a, b, c, a}, strings.Split(strings.Repeat(b+" "+c+",", 30)+c, ",")...), a, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var h History
			for _, answer := range test.answers {
				h.Add(addrs(t, answer))
			}
			if got := h.Gone(addrs(t, test.addr)[0]); got != test.want {
				t.Errorf("Gone(%s) = %v after %q, want %v", test.addr, got, test.answers, test.want)
			}
		})
	}
}

// A resolver that names some of sixteen addresses at a time, in turn or at random,
// has hardly any of them given up.
func TestRotation(t *testing.T) {
	var all []netip.Addr
	for i := range 16 {
		all = append(all, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	for _, size := range []int{1, 2, 4, 8, 12} {
		for _, random := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d at a time, random %v", size, random), func(t *testing.T) {
				if size == 1 && random {
					t.Skip("one of sixteen at random: each is left out of twenty answers one time in four")
				}
				r := rand.New(rand.NewPCG(1, 1))
				var h History
				given, asked := 0, 0
				for round := range 2000 {
					answer := make([]netip.Addr, 0, size)
					for i := range size {
						answer = append(answer, all[(round*size+i)%len(all)])
					}
					if random {
						answer = answer[:0]
						for _, i := range r.Perm(len(all))[:size] {
							answer = append(answer, all[i])
						}
					}
					h.Add(answer)
					for _, a := range all {
						asked++
						if h.Gone(a) {
							given++
						}
					}
				}
				most := asked / 20
				if random && size == 2 {
					most = asked / 10 // each is left out of twenty answers one time in fifteen
				}
				if given > most {
					t.Errorf("given up %d times of %d, want at most %d", given, asked, most)
				}
			})
		}
	}
}

// Memory is bounded whatever a server answers, and an answer that is too long
// gives nothing up.
func TestLongAnswer(t *testing.T) {
	var h History
	long := make([]netip.Addr, maxAddrs+1)
	for i := range long {
		long[i] = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
	}
	h.Add(addrs(t, "192.0.2.1"))
	for range 10 * many {
		h.Add(long)
	}
	if h.Gone(addrs(t, "192.0.2.1")[0]) {
		t.Error("given up by answers that are too long to be kept")
	}
	for range 10 * many {
		h.Add(long[:maxAddrs])
	}
	if n := len(h.v4.answers); n != many {
		t.Errorf("%d answers are kept, want %d", n, many)
	}
}
