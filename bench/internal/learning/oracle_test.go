package learning

import (
	"testing"
	"time"
)

func TestOracle(t *testing.T) {
	const keepAlive = 1000 // ms
	for _, tc := range []struct {
		name     string
		requests [][2]int // ms
		shared   bool
		want     int
	}{
		{"none", nil, false, 0},
		{"idle for less than the timeout", [][2]int{{0, 10}, {1009, 1020}}, false, 1},
		{"idle for the timeout", [][2]int{{0, 10}, {1010, 1020}}, false, 2},
		{"the timeout starts anew with each request", [][2]int{{0, 10}, {900, 910}, {1800, 1810}}, false, 1},
		{"in any order", [][2]int{{1800, 1810}, {0, 10}, {900, 910}}, false, 1},
		{"at the same time", [][2]int{{0, 10}, {5, 15}}, false, 2},
		{"at the same time, shared", [][2]int{{0, 10}, {5, 15}, {1014, 1020}}, true, 1},
		{"one that ends earlier does not make the connection older", [][2]int{{0, 100}, {5, 15}, {1050, 1060}}, true, 1},
		{"the youngest, so that the other one ages", [][2]int{{0, 10}, {0, 100}, {900, 910}, {1020, 1030}, {1025, 1035}}, false, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
			var requests []span
			for _, r := range tc.requests {
				requests = append(requests, span{at(r[0]), at(r[1])})
			}
			if got := oracle(requests, keepAlive*time.Millisecond, tc.shared); got != tc.want {
				t.Errorf("%d connections, want %d", got, tc.want)
			}
		})
	}
}
