package coalescing

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/net/http2"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/logged"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

const (
	maxOrigins = 1000          // the most that the module can be told to send
	originType = 0x0c          // RFC 8336 section 2
	asked      = "0.sets.test" // the name connected to
	wildcard   = "*.sets.test" // of the certificate
	mostFirst  = 1.5           // time to the first response with 1000 origins, of that without
	perDial    = 20 * time.Second
)

// A first is what a new connection brings up to its first response.
type first struct {
	took    time.Duration
	origins int
	frames  int
	bytes   int // of these frames, their headers included
}

// A set is the origins of a number of sites, on a server with the wrapper and on one
// without.
type set struct {
	size   int       // sites beside the one that is connected to
	addrs  [2]string // without and with the wrapper
	told   first     // on each connection
	times  [2][]float64
	ratios []float64
}

// originSets opens connections to servers with many sites, with the wrapper and
// without, in turn.
func originSets(ctx context.Context, result *report.Result, o report.Options, connections int) error {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var sets []*set
	servers := make(map[string]any)
	for _, size := range []int{10, 100, 1000, 10_000} {
		s := &set{size: size}
		if err := s.addServers(servers); err != nil {
			return err
		}
		sets = append(sets, s)
	}
	file, err := writeConfig(dir, servers)
	if err != nil {
		return err
	}
	c, err := logged.Start(ctx, file, dir, sets[0].addrs[0], asked)
	if err != nil {
		return err
	}
	defer c.Stop()
	for n := range connections {
		for _, s := range sets {
			if err := s.sample(ctx, n); err != nil {
				return fmt.Errorf("%d names: %w", s.size, err)
			}
		}
	}
	addSets(result, o, sets, connections)
	return nil
}

// addServers adds both servers of the set.
func (s *set) addServers(servers map[string]any) error {
	var names []string
	for n := range s.size + 1 { // the name connected to is never told
		names = append(names, strconv.Itoa(n)+wildcard[1:])
	}
	for i := range s.addrs {
		port, err := port.Free()
		if err != nil {
			return err
		}
		s.addrs[i] = fmt.Sprintf("127.0.0.1:%d", port)
		server := map[string]any{
			"listen":          []string{s.addrs[i]},
			"automatic_https": map[string]any{"disable": true}, "tls_connection_policies": []any{map[string]any{}},
			"routes": []any{sidebyside.Site(sidebyside.Routes(map[string]any{"handler": "static_response", "body": "ok"}), names...)},
		}
		if i == 1 {
			server["listener_wrappers"] = []any{map[string]any{"wrapper": "origin", "origins": []string{"sites"}, "max_origins": maxOrigins}}
		}
		servers[fmt.Sprintf("%d-%d", s.size, i)] = server
	}
	return nil
}

// writeConfig writes the configuration of a Caddy with these servers.
func writeConfig(dir string, servers map[string]any) (file string, err error) {
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"storage": map[string]any{"module": "file_system", "root": dir},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"apps": map[string]any{
			"http": map[string]any{"servers": servers},
			"tls": map[string]any{
				"certificates": map[string]any{"automate": []string{wildcard}},
				"automation":   map[string]any{"policies": []any{map[string]any{"issuers": []any{map[string]any{"module": "internal"}}}}},
			},
			"pki": map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}},
		},
	})
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "caddy.json")
	return file, os.WriteFile(file, config, 0o600)
}

// sample opens the n-th connection to each of both servers.
func (s *set) sample(ctx context.Context, n int) (err error) {
	var both [2]first
	for i := range both {
		i = (i + n) % 2 // each comes first every other time
		if both[i], err = connect(ctx, s.addrs[i]); err != nil {
			return err
		}
	}
	switch {
	case both[0].frames != 0:
		return errors.New("ORIGIN frames without the wrapper")
	case n == 0: // the set is built for the first connection
		s.told = both[1]
		return nil
	case both[1].bytes != s.told.bytes:
		return fmt.Errorf("%d bytes of ORIGIN frames, before %d", both[1].bytes, s.told.bytes)
	}
	for i := range both {
		s.times[i] = append(s.times[i], both[i].took.Seconds()*1000)
	}
	s.ratios = append(s.ratios, both[1].took.Seconds()/both[0].took.Seconds())
	return nil
}

// addSets adds table, plot and claims.
func addSets(result *report.Result, o report.Options, sets []*set, connections int) {
	table := report.Table{
		Title: fmt.Sprintf("Sites under one wildcard certificate, `max_origins %d`, and ms from dialling to the first response header on a new connection "+
			"(medians of %d connections, in turn with a server without the wrapper):", maxOrigins, connections-1),
		Columns: []string{"other sites", "origins told", "ORIGIN frames", "bytes of them", "without, ms", "with, ms", "with / without"},
	}
	plot := report.Plot{Name: "origin-sets", Title: "New connection: time to the first response against sites, 1000 of them told at most", X: "sites", Y: "ms", LogX: true,
		Series: []report.Series{{Name: "without the wrapper"}, {Name: "with"}}}
	for _, s := range sets {
		var medians [2]float64
		for i := range medians {
			medians[i] = report.Median(s.times[i])
			plot.Series[i].Points = append(plot.Series[i].Points, [2]float64{float64(s.size), medians[i]})
		}
		table.Rows = append(table.Rows, []string{
			strconv.Itoa(s.size), strconv.Itoa(s.told.origins), strconv.Itoa(s.told.frames), strconv.Itoa(s.told.bytes),
			fmt.Sprintf("%.2f", medians[0]), fmt.Sprintf("%.2f", medians[1]), fmt.Sprintf("%.3f", report.Median(s.ratios)),
		})
		switch s.size {
		case 10_000:
			result.AtMost("coalescing/origin-cap", "origins that a connection is told of, of 10 000 sites", float64(s.told.origins), maxOrigins)
		case maxOrigins:
			result.AtMost("coalescing/first-response", "time to the first response on a new connection with 1000 origins, of that without the wrapper", report.Median(s.ratios), o.LooseMost(mostFirst))
		}
	}
	result.Tables, result.Plots = append(result.Tables, table), append(result.Plots, plot)
}

// connect opens a connection, asks for / and reads up to the first response
// header. TLS sessions are not resumed.
func connect(ctx context.Context, addr string) (got first, err error) {
	ctx, cancel := context.WithTimeout(ctx, perDial)
	defer cancel()
	started := time.Now()
	dialer := tls.Dialer{NetDialer: new(net.Dialer), Config: &tls.Config{ServerName: asked, InsecureSkipVerify: true, NextProtos: []string{"h2"}}}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return got, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(started.Add(perDial))

	peer, err := h2.Client(conn)
	if err == nil {
		err = peer.Get(1, asked)
	}
	if err != nil {
		return got, err
	}
	for {
		frame, err := peer.ReadFrame()
		if err != nil {
			return got, err
		}
		switch f := frame.(type) {
		case *http2.UnknownFrame:
			if f.Type == originType {
				got.frames++
				got.bytes += 9 + len(f.Payload())
				got.origins += entries(f.Payload())
			}
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status != "200" {
				return got, fmt.Errorf("status %s", status)
			}
			got.took = time.Since(started)
			return got, nil
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			return got, fmt.Errorf("the server sent %v", f)
		}
	}
}

// entries counts the origins in a frame (RFC 8336 section 2.1).
func entries(payload []byte) (n int) {
	for len(payload) >= 2 {
		length := 2 + int(payload[0])<<8 + int(payload[1])
		payload = payload[min(length, len(payload)):]
		n++
	}
	return n
}
