package upstreampool

import (
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

const factsPrefix = "http.upstreampool."

// factNames are the names of all facts, as [facts.value] knows them.
var factNames = [...]string{"connection", "idle", "wait", "connect", "limit_source", "replay"}

// facts is what logs and header fields can say of the last attempt at a request, as
// placeholders below factsPrefix. They are empty where there is nothing to say. Their
// methods take values, so that the function of a Replacer is the one object they cost.
type facts struct {
	connection  string
	idle        time.Duration
	wait        time.Duration
	connect     time.Duration
	limitSource string
	replay      replay.Reason
}

// use notes the connection of an attempt.
func (f *facts) use(l *connpool.Lease) {
	f.connection, f.limitSource = "new", ""
	f.idle, f.wait, f.connect = l.Idle, l.Waited, l.Connect()
	if l.Reused {
		f.connection, f.limitSource, f.connect = "reused", string(l.LimitSource), 0
	}
}

// value returns a fact.
func (f facts) value(name string) (any, bool) {
	switch name {
	case "connection":
		return f.connection, true
	case "replay":
		return string(f.replay), true
	case "limit_source":
		return f.limitSource, true
	case "idle":
		return f.duration(f.idle), true
	case "wait":
		return f.duration(f.wait), true
	case "connect":
		return f.duration(f.connect), true
	}
	return nil, false
}

// duration returns d, or nothing where there was no connection.
func (f facts) duration(d time.Duration) any {
	if f.connection == "" {
		return ""
	}
	return d
}

// A listener is who is told the facts of a client's request. reverse_proxy may try several
// upstreams for one: the last try counts.
type listener struct {
	repl  *caddy.Replacer // nil: nobody is told
	again bool            // it knows the facts of another try
}

// listener finds out who is told. That is done before the request is sent, while what
// is looked through lies in the processor's cache.
func (x *exchange) listener() (l listener) {
	if !x.need.Probe {
		l.repl, _ = x.ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	}
	if l.repl != nil {
		_, l.again = l.repl.Get(factsPrefix + "connection")
	}
	return l
}

// tell makes f the facts of the request. Functions are asked in the order in which they
// were added, and after what was set, so all further tries set theirs.
func (l listener) tell(f facts) {
	switch {
	case l.repl == nil:
	case l.again:
		for _, name := range factNames {
			v, _ := f.value(name)
			l.repl.Set(factsPrefix+name, v)
		}
	default:
		l.repl.Map(func(key string) (any, bool) {
			name, ours := strings.CutPrefix(key, factsPrefix)
			if !ours {
				return nil, false
			}
			return f.value(name)
		})
	}
}
