package upstreampool

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// An option is a setting that transport http does not have. Its field says what
// kind of value it takes: a *caddy.Duration, an *int, or a **bool that is on by
// default.
type option struct {
	name  string
	field func(*Transport) any
	// standsForDefault is a word for the default, if there is one.
	standsForDefault string
	// more reads a second argument, if there can be one.
	more func(t *Transport, arg string) error
	// least is the least duration, if it is not off; whyNotLess ends the refusal of less.
	least      time.Duration
	whyNotLess string
	// canBeOff says that a duration of -1, or the word off, turns it off.
	canBeOff bool
	// needsReuse says that it means nothing where no connection is reused.
	needsReuse bool
}

// options are all of them, in the order of the documentation.
var options = []option{
	{name: "max_idle_time", field: func(t *Transport) any { return &t.MaxIdleTime }, needsReuse: true},
	{name: "upstream_keep_alive", field: func(t *Transport) any { return &t.UpstreamKeepAlive }, standsForDefault: "learn", needsReuse: true},
	{name: "margin", field: func(t *Transport) any { return &t.Margin }, needsReuse: true},
	{name: "max_lifetime", field: func(t *Transport) any { return &t.MaxLifetime }, more: readJitter, needsReuse: true},
	{name: "max_requests", field: func(t *Transport) any { return &t.MaxRequests }, needsReuse: true},
	{name: "max_pending", field: func(t *Transport) any { return &t.MaxPending }},
	{name: "acquire_timeout", field: func(t *Transport) any { return &t.AcquireTimeout }},
	{name: "min_idle", field: func(t *Transport) any { return &t.MinIdle }, needsReuse: true},
	{name: "unacked_timeout", field: func(t *Transport) any { return &t.UnackedTimeout }, least: time.Second,
		whyNotLess: ", since what is lost is sent again first"},
	{name: "ping_interval", field: func(t *Transport) any { return &t.PingInterval }, standsForDefault: "off"},
	{name: "ping_timeout", field: func(t *Transport) any { return &t.PingTimeout }},
	{name: "remember", field: func(t *Transport) any { return &t.Remember }, standsForDefault: "on"},
	// Less would be a slip that has names looked up without a pause.
	{name: "follow_dns", field: func(t *Transport) any { return &t.FollowDNS }, least: 10 * time.Millisecond, canBeOff: true, needsReuse: true},
}

// optionNamed returns the option with a name, or nil if transport http has it or
// nobody does.
func optionNamed(name string) *option {
	for i := range options {
		if options[i].name == name {
			return &options[i]
		}
	}
	return nil
}

// read sets the option from the arguments of a Caddyfile; there is at least one.
// The default is said by leaving an option out, so zero is refused.
func (o *option) read(t *Transport, args []string) error {
	first := args[0]
	if o.standsForDefault != "" && first == o.standsForDefault {
		return nil
	}
	switch field := o.field(t).(type) {
	case *caddy.Duration:
		d, err := o.duration(first)
		if err != nil {
			return err
		}
		*field = d
	case *int:
		n, err := strconv.Atoi(first)
		if err != nil || n <= 0 {
			return fmt.Errorf("parsing %s '%s': must be a whole number above zero; leave it out for the default", o.name, first)
		}
		*field = n
	case **bool:
		if first != "off" {
			return fmt.Errorf("parsing %s '%s': must be on or off", o.name, first)
		}
		*field = new(bool)
	}
	if len(args) > 1 {
		return o.more(t, args[1])
	}
	return nil
}

// duration reads a duration.
func (o *option) duration(arg string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(arg)
	switch {
	case o.canBeOff && arg == "off":
		return -1, nil
	case o.canBeOff && err != nil:
		return 0, fmt.Errorf("parsing %s '%s': must be a duration, or off", o.name, arg)
	case err != nil:
		return 0, fmt.Errorf("parsing %s '%s': %w", o.name, arg, err)
	case d <= 0:
		return 0, fmt.Errorf("parsing %s '%s': must be more than zero; leave it out for the default", o.name, arg)
	}
	return caddy.Duration(d), nil
}

// maxArgs is how many arguments the option takes at most.
func (o *option) maxArgs() int {
	if o.more != nil {
		return 2
	}
	return 1
}

// readJitter reads the second argument of max_lifetime.
func readJitter(t *Transport, arg string) error {
	percent, ok := strings.CutSuffix(arg, "%")
	n, err := strconv.Atoi(percent)
	if err != nil || !ok || n < 0 || n > 100 {
		return fmt.Errorf("parsing max_lifetime jitter '%s': must be from 0%% to 100%%", arg)
	}
	t.MaxLifetimeJitter = &n
	return nil
}
