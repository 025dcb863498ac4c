package replay

import (
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// versionLife is for how long an answer in HTTP/1.1 shows that an upstream
	// speaks it.
	versionLife = 10 * time.Minute

	// versionEvery is how exactly times are noted: answers are frequent.
	versionEvery = time.Minute
)

// Versions is what the answers of an upstream say of the version of HTTP/1 that it
// speaks. The zero value is ready for use, at the same time by many.
type Versions struct {
	at10, at11 atomic.Int64 // last answers, in nanoseconds since 1970; 0: none
}

// Answered notes an HTTP/1 response. An answer in HTTP/1.0 counts only if it is a
// success or redirect: some servers of HTTP/1.1 write their error pages in
// HTTP/1.0.
func (v *Versions) Answered(now time.Time, resp *http.Response) {
	switch {
	case resp.ProtoAtLeast(1, 1):
		note(&v.at11, now)
	case resp.StatusCode/100 == 2 || resp.StatusCode/100 == 3:
		note(&v.at10, now)
	}
}

func note(at *atomic.Int64, now time.Time) {
	if nano := now.UnixNano(); at.Load() == 0 || nano-at.Load() >= int64(versionEvery) {
		at.Store(nano)
	}
}

// Only10 tells whether the upstream is known to speak HTTP/1.0 and nothing newer:
// it answered so, with no answer in HTTP/1.1 since and within the last ten minutes.
func (v *Versions) Only10(now time.Time) bool {
	at10, at11 := v.at10.Load(), v.at11.Load()
	return at10 > at11 && (at11 == 0 || now.UnixNano()-at11 >= int64(versionLife))
}
