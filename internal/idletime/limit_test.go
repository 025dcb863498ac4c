package idletime

import (
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	const (
		ms = time.Millisecond
		s  = time.Second
		m  = time.Minute
	)
	type testCase struct {
		name   string
		k      knowledge
		value  time.Duration
		source Source
		text   string
	}
	check := func(t *testing.T, tc testCase, l Limit) {
		t.Helper()
		if l.Value != tc.value || l.Source != tc.source || l.String() != tc.text {
			t.Errorf("limit = %v (%s)\n  text %q\n  want %v (%s)\n       %q", l.Value, l.Source, l, tc.value, tc.source, tc.text)
		}
	}
	for _, tc := range []testCase{
		{"nothing known", knowledge{Config: Config{MaxIdle: 2 * m}}, 3800 * ms, SourceAssumed,
			"idle limit 3.8 s: assumed timeout 4 s minus margin 200 ms"},
		{"announced", knowledge{Config: Config{MaxIdle: 2 * m}, announced: Known(5 * s)}, 4750 * ms, SourceAnnounced,
			"idle limit 4.75 s: announced timeout 5 s minus margin 250 ms"},
		{"configured beats announced", knowledge{Config: Config{MaxIdle: 2 * m, KeepAlive: 10 * s}, announced: Known(5 * s)},
			9500 * ms, SourceConfigured, "idle limit 9.5 s: configured upstream_keep_alive 10 s minus margin 500 ms"},
		{"announced beats a longer learned one", knowledge{Config: Config{MaxIdle: 2 * m}, announced: Known(5 * s), learned: Known(6 * s)},
			4750 * ms, SourceAnnounced, "idle limit 4.75 s: announced timeout 5 s minus margin 250 ms"},
		{"a confirmed earlier close beats announced", knowledge{Config: Config{MaxIdle: 2 * m}, announced: Known(60 * s), learned: Known(5 * s)},
			4750 * ms, SourceLearned, "idle limit 4.75 s: learned timeout 5 s minus margin 250 ms"},
		{"not one that is as good as announced", knowledge{Config: Config{MaxIdle: 2 * m}, announced: Known(s), learned: Known(950 * ms)},
			900 * ms, SourceAnnounced, "idle limit 900 ms: announced timeout 1 s minus margin 100 ms"},
		{"but one that takes more than half of the margin", knowledge{Config: Config{MaxIdle: 2 * m}, announced: Known(s), learned: Known(949 * ms)},
			849 * ms, SourceLearned, "idle limit 849 ms: learned timeout 949 ms minus margin 100 ms"},
		{"and configured", knowledge{Config: Config{MaxIdle: 2 * m, KeepAlive: 60 * s}, learned: Known(5 * s)},
			4750 * ms, SourceLearned, "idle limit 4.75 s: learned timeout 5 s minus margin 250 ms"},
		{"max_idle_time is the hard cap", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(10 * m)}, 2 * m, SourceLearned,
			"idle limit 2 m: max_idle_time, below learned timeout 10 m minus margin 30 s"},
		{"round trips", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(2 * s), connect: 40 * ms}, 1820 * ms, SourceLearned,
			"idle limit 1.82 s: learned timeout 2 s minus margin 180 ms"},
		{"round trips by response times", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(2 * s), connect: ms, response: 40 * ms}, 1820 * ms, SourceLearned,
			"idle limit 1.82 s: learned timeout 2 s minus margin 180 ms"},
		{"but not the upstream's work", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(2 * s), connect: ms, response: 20 * s}, 1400 * ms, SourceLearned,
			"idle limit 1.4 s: learned timeout 2 s minus margin 600 ms"},
		{"fixed margin", knowledge{Config: Config{MaxIdle: 2 * m, Margin: 50 * ms}, learned: Known(2 * s), connect: s, races: 8}, 1950 * ms, SourceLearned,
			"idle limit 1.95 s: learned timeout 2 s minus margin 50 ms"},
		{"races", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(10 * s), races: 4}, 8 * s, SourceLearned,
			"idle limit 8 s: learned timeout 10 s minus margin 2 s (raised by races)"},
		{"races reach K/2 at most", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(10 * s), races: 1e9}, 5 * s, SourceLearned,
			"idle limit 5 s: learned timeout 10 s minus margin 5 s (raised by races)"},
		{"read_timeout caps", knowledge{Config: Config{MaxIdle: 2 * m, ReadTimeout: 10 * s}, learned: Known(75 * s)}, 9500 * ms, SourceLearned,
			"idle limit 9.5 s: read_timeout, below learned timeout 75 s minus margin 3.75 s"},
		{"an unconfirmed early close caps", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(75 * s), early: early{idle: 20 * s, bound: BoundEarlyClose}}, 19 * s, SourceLearned,
			"idle limit 19 s: unconfirmed close after 20 s minus margin 1 s, despite learned timeout 75 s"},
		{"but never below 500 ms", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(75 * s), early: early{idle: 10 * ms, bound: BoundEarlyClose}}, 500 * ms, SourceLearned,
			"idle limit 500 ms: unconfirmed close after 10 ms minus margin 100 ms, despite learned timeout 75 s"},
		{"and never raises", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(700 * ms), early: early{idle: 650 * ms, bound: BoundEarlyClose}}, 550 * ms, SourceLearned,
			"idle limit 550 ms: unconfirmed close after 650 ms minus margin 100 ms, despite learned timeout 700 ms"},
		{"announced 0", knowledge{Config: Config{MaxIdle: 2 * m}, announced: Known(0)}, 0, SourceAnnounced,
			"not reused: announced timeout 0 ms is less than twice the margin 100 ms"},
		{"K below twice the margin", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(s), connect: 300 * ms}, 0, SourceLearned,
			"not reused: learned timeout 1 s is less than twice the margin 700 ms"},
		{"K of exactly twice the margin", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(200 * ms)}, 100 * ms, SourceLearned,
			"idle limit 100 ms: learned timeout 200 ms minus margin 100 ms"},
		{"max_idle_time below everything", knowledge{Config: Config{MaxIdle: 100 * ms}, announced: Known(5 * s)}, 100 * ms, SourceAnnounced,
			"idle limit 100 ms: max_idle_time, below announced timeout 5 s minus margin 250 ms"},
	} {
		t.Run(tc.name, func(t *testing.T) { check(t, tc, tc.k.limit()) })
	}
	for _, tc := range []testCase{
		{"a connection never used is not in keep-alive yet", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(75 * s)}, 3800 * ms, SourceLearned,
			"idle limit 3.8 s: never used, below learned timeout 75 s minus margin 3.75 s"},
		{"whatever is configured", knowledge{Config: Config{MaxIdle: 2 * m, KeepAlive: m, Margin: 10 * s}}, 3800 * ms, SourceConfigured,
			"idle limit 3.8 s: never used, below configured upstream_keep_alive 1 m minus margin 10 s"},
		{"unless less is", knowledge{Config: Config{MaxIdle: 2 * m}, learned: Known(2 * s)}, 1900 * ms, SourceLearned,
			"idle limit 1.9 s: learned timeout 2 s minus margin 100 ms"},
	} {
		t.Run(tc.name, func(t *testing.T) { check(t, tc, tc.k.unusedLimit()) })
	}
}

// TestDefaultLimit: what a pool without settings makes of a timeout.
func TestDefaultLimit(t *testing.T) {
	for _, tc := range []struct{ keepAlive, roundTrip, value, margin time.Duration }{
		{5 * time.Second, 0, 4750 * time.Millisecond, 250 * time.Millisecond},
		{2 * time.Second, 40 * time.Millisecond, 1820 * time.Millisecond, 180 * time.Millisecond},
		{10 * time.Minute, 0, 2 * time.Minute, 30 * time.Second},
		{150 * time.Millisecond, 0, 0, 100 * time.Millisecond},
		{0, 0, 0, 100 * time.Millisecond},
	} {
		if l := DefaultLimit(tc.keepAlive, tc.roundTrip); l.Value != tc.value || l.Margin != tc.margin {
			t.Errorf("DefaultLimit(%v, %v) is %v with margin %v, want %v with %v", tc.keepAlive, tc.roundTrip, l.Value, l.Margin, tc.value, tc.margin)
		}
	}
}
