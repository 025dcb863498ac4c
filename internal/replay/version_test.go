package replay

import (
	"net/http"
	"testing"
	"time"
)

func TestVersions(t *testing.T) {
	type answer struct {
		minor, status int
		after         time.Duration
	}
	for _, tc := range []struct {
		name    string
		answers []answer
		then    time.Duration
		want    bool
	}{
		{"unknown", nil, 0, false},
		{"an answer in 1.0", []answer{{0, 200, 0}}, 0, true},
		{"still, hours later", []answer{{0, 200, 0}}, 5 * time.Hour, true},
		{"a redirect in 1.0", []answer{{0, 302, 0}}, 0, true},
		{"an error page in 1.0", []answer{{0, 502, 0}}, 0, false},
		{"a refusal in 1.0", []answer{{0, 400, 0}}, 0, false},
		{"an answer in 1.1", []answer{{1, 200, 0}}, 0, false},
		{"1.1 before, nine minutes ago", []answer{{1, 200, 0}, {0, 200, 9 * time.Minute}}, 0, false},
		{"1.1 before, ten minutes ago", []answer{{1, 200, 0}, {0, 200, 10 * time.Minute}}, 0, true},
		{"ten minutes without 1.1 are over later", []answer{{1, 200, 0}, {0, 200, 5 * time.Minute}}, 5 * time.Minute, true},
		{"1.1 since", []answer{{0, 200, 0}, {1, 500, time.Minute}}, time.Hour, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var v Versions
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			for _, a := range tc.answers {
				now = now.Add(a.after)
				v.Answered(now, &http.Response{ProtoMajor: 1, ProtoMinor: a.minor, StatusCode: a.status})
			}
			if got := v.Only10(now.Add(tc.then)); got != tc.want {
				t.Errorf("= %v, want %v", got, tc.want)
			}
		})
	}
}
