// Package browsers measures how browsers share connections with a Caddy as people
// run it: HTTP/3 on, and told of by Caddy itself.
package browsers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/logged"
	"github.com/caddy-connreuse/connreuse/bench/internal/network"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/browser"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

const delay = 10 * time.Millisecond // each way

var both = []browser.Browser{browser.Firefox, browser.Chromium}

// seen are all visits of one browser in one scenario, session by session: each begins
// with a new profile.
type seen [][]browser.Visit

// Run lets browsers visit the page, scenario by scenario, in turn.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	sessions, visits := 2, 6
	chosen := scenarios
	if o.Quick {
		sessions, visits = 1, 4
		chosen = slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return !s.quick })
	}
	result := &report.Result{
		Title: "How browsers share connections",
		Text: fmt.Sprintf("A page with %d images of each of four hosts, behind one certificate and a network with a round trip of %v, served by Caddy. "+
			"All that is not named is as Caddy has it by default: HTTP/3 is on, and browsers learn of it from Caddy's Alt-Svc. %d sessions of %d visits of each kind, "+
			"in turn; each session begins with a new profile, so its first visit knows of no HTTP/3.", images, 2*delay, sessions, visits),
		Versions: append(browser.Versions(), sidebyside.QUIC()),
	}
	visited, err := browse(ctx, o, chosen, sessions, visits)
	if err != nil {
		return nil, err
	}
	addTable(result, chosen, visited, sessions*visits)
	addClaims(result, visited, sessions*visits)
	return result, nil
}

// browse returns what the browsers did, by browser and scenario.
func browse(ctx context.Context, o report.Options, chosen []scenario, sessions, visits int) (found, error) {
	state, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(state)
	ports := make([]string, len(chosen))
	for i := range chosen {
		free, err := port.Free()
		if err != nil {
			return nil, err
		}
		ports[i] = strconv.Itoa(free)
	}
	file := filepath.Join(state, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile(state, chosen, ports, visits)), 0o600); err != nil {
		return nil, err
	}
	c, err := logged.Start(ctx, file, state, "127.0.0.1:"+ports[0], hosts[0])
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	measured := found{browser.Firefox.Name: {}, browser.Chromium.Name: {}}
	for session := range sessions {
		for i, s := range chosen {
			for _, b := range both {
				all, err := visit(ctx, c, b, s, ports[i], state, visits)
				if err == nil || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
					// It may have got stuck: with a page that stays a 421.
					all = slices.DeleteFunc(all, func(v browser.Visit) bool { return !v.Done })
				} else {
					return nil, fmt.Errorf("%s, %s: %w", b.Name, s.name, err)
				}
				measured[b.Name][s.name] = append(measured[b.Name][s.name], all)
				fmt.Fprintf(o.Progress, "browsers: session %d, %s, %s: %d visits\n", session+1, b.Name, s.name, len(all))
			}
		}
	}
	return measured, nil
}

// visit is one session.
func visit(ctx context.Context, c *logged.Caddy, b browser.Browser, s scenario, port, state string, visits int) ([]browser.Visit, error) {
	home, err := os.MkdirTemp("", "connreuse-browser-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(home)
	network, err := network.StartHosts(hosts, port, 21, s.apart, true, delay)
	if err != nil {
		return nil, err
	}
	defer network.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second+time.Duration(visits)*5*time.Second)
	defer cancel()
	before := c.Log.Len()
	return b.Visits(ctx, browser.Options{
		Home: home, Root: filepath.Join(state, "pki", "authorities", "local", "root.crt"), Hosts: network.Addresses,
	}, "https://"+hosts[0]+":"+port+"/page?visit=1", visits, func() string { return c.Log.Since(before) })
}
