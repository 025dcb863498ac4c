package remember

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

var someKey = Key{Scheme: "https", Network: "tcp", Address: "a.test:443", Proxy: "http://user:secret@proxy.test:3128", Protocol: "h2"}

// What is written can be read, by the same key alone, and holds no password.
func TestEncode(t *testing.T) {
	m := idletime.Memory{KeepAlive: 5 * time.Second, AtLeast: true, SeenAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	text, err := encode(someKey, m)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "secret") {
		t.Errorf("a password is stored: %s", text)
	}
	got, err := parse(someKey, text)
	if err != nil || got != m {
		t.Errorf("read %v, %v, want %v", got, err, m)
	}
	other := someKey
	other.Address = "b.test:443"
	if _, err := parse(other, text); err == nil {
		t.Error("a value about another upstream is taken")
	}
}

// Every part of a key, and the instance, makes another place.
func TestPath(t *testing.T) {
	seen := make(map[string]string)
	for name, path := range map[string]string{
		"key":      someKey.path("one"),
		"instance": someKey.path("two"),
		"scheme":   Key{"http", someKey.Network, someKey.Address, someKey.Proxy, someKey.Protocol}.path("one"),
		"network":  Key{someKey.Scheme, "unix", someKey.Address, someKey.Proxy, someKey.Protocol}.path("one"),
		"address":  Key{someKey.Scheme, someKey.Network, "../../etc/passwd", someKey.Proxy, someKey.Protocol}.path("one"),
		"proxy":    Key{someKey.Scheme, someKey.Network, someKey.Address, "", someKey.Protocol}.path("one"),
		"protocol": Key{someKey.Scheme, someKey.Network, someKey.Address, someKey.Proxy, "http/1.1"}.path("one"),
	} {
		if before, ok := seen[path]; ok {
			t.Errorf("%s and %s share the place %s", name, before, path)
		}
		seen[path] = name
		if strings.Contains(path, "..") || strings.Count(path, "/") != 3 {
			t.Errorf("%s: place %s", name, path)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const upstream = `"upstream":{"scheme":"https","network":"tcp","address":"a.test:443","proxy":"http://user:xxxxx@proxy.test:3128","protocol":"h2"}`
	good := `{"version":1,` + upstream + `,"learned":{"keep_alive":5000000000,"seen_at":"2026-01-02T03:04:05Z"}}`
	if _, err := parse(someKey, []byte(good)); err != nil {
		t.Fatalf("the test shows nothing: %v", err)
	}
	for name, text := range map[string]string{
		"nothing":         "",
		"no JSON":         "keep_alive=5",
		"half of it":      good[:len(good)/2],
		"another version": strings.Replace(good, `"version":1`, `"version":2`, 1),
		"no version":      strings.Replace(good, `"version":1,`, ``, 1),
		"another address": strings.Replace(good, "a.test", "b.test", 1),
		"zero":            strings.Replace(good, "5000000000", "0", 1),
		"negative":        strings.Replace(good, "5000000000", "-1", 1),
		"a week":          strings.Replace(good, "5000000000", "604800000000000", 1),
		"a string":        strings.Replace(good, "5000000000", `"5s"`, 1),
		"no time":         strings.Replace(good, `,"seen_at":"2026-01-02T03:04:05Z"`, "", 1),
		"too long":        good + strings.Repeat(" ", maxSize),
	} {
		if m, err := parse(someKey, []byte(text)); err == nil {
			t.Errorf("%s: taken for %v", name, m)
		}
	}
}

// Whatever is stored, reading it neither panics nor gives a timeout that cannot be.
func FuzzParse(f *testing.F) {
	good, err := encode(someKey, idletime.Memory{KeepAlive: time.Minute, SeenAt: time.Unix(1e9, 0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"learned":{"keep_alive":1e99}}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, stored []byte) {
		m, err := parse(someKey, stored)
		if err != nil {
			return
		}
		if m.KeepAlive <= 0 || m.KeepAlive > maxKeepAlive || m.SeenAt.IsZero() {
			t.Errorf("%q is taken for %+v", stored, m)
		}
		text, err := encode(someKey, m)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if again, err := parse(someKey, text); err != nil || !again.SeenAt.Equal(m.SeenAt) || again.KeepAlive != m.KeepAlive {
			t.Errorf("%+v is read as %+v, %v", m, again, err)
		}
	})
}
