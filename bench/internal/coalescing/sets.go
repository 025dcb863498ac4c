package coalescing

import (
	"context"
	"crypto/tls"
	"encoding/json"
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

// originSets opens connections to servers with many sites, with the wrapper and
// without, in turn.
func originSets(ctx context.Context, result *report.Result, o report.Options, connections int) error {
	sizes := []int{10, 100, 1000, 10_000}
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	servers := make(map[string]any)
	addrs := make(map[int][2]string) // without and with the wrapper
	for _, size := range sizes {
		var names []string
		for n := range size + 1 { // the name connected to is never told
			names = append(names, strconv.Itoa(n)+wildcard[1:])
		}
		var pair [2]string
		for i := range pair {
			port, err := port.Free()
			if err != nil {
				return err
			}
			pair[i] = fmt.Sprintf("127.0.0.1:%d", port)
			server := map[string]any{
				"listen":          []string{pair[i]},
				"automatic_https": map[string]any{"disable": true}, "tls_connection_policies": []any{map[string]any{}},
				"routes": []any{map[string]any{"match": []any{map[string]any{"host": names}}, "handle": []any{map[string]any{"handler": "static_response", "body": "ok"}}}},
			}
			if i == 1 {
				server["listener_wrappers"] = []any{map[string]any{"wrapper": "origin", "origins": []string{"sites"}, "max_origins": maxOrigins}}
			}
			servers[fmt.Sprintf("%d-%d", size, i)] = server
		}
		addrs[size] = pair
	}
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
		return err
	}
	file := filepath.Join(dir, "caddy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	c, err := logged.Start(ctx, file, dir, addrs[sizes[0]][0], asked)
	if err != nil {
		return err
	}
	defer c.Stop()

	told, ratios, times := make(map[int]first), make(map[int][]float64), make(map[int][2][]float64)
	for n := range connections {
		for _, size := range sizes {
			var both [2]first
			for i := range both {
				i = (i + n) % 2 // each comes first every other time
				if both[i], err = connect(ctx, addrs[size][i]); err != nil {
					return fmt.Errorf("%d names: %w", size, err)
				}
			}
			if both[0].frames != 0 {
				return fmt.Errorf("%d names: ORIGIN frames without the wrapper", size)
			}
			if n == 0 { // the set is built for the first connection
				told[size] = both[1]
				continue
			}
			if both[1].bytes != told[size].bytes {
				return fmt.Errorf("%d names: %d bytes of ORIGIN frames, before %d", size, both[1].bytes, told[size].bytes)
			}
			sample := times[size]
			for i := range both {
				sample[i] = append(sample[i], both[i].took.Seconds()*1000)
			}
			times[size] = sample
			ratios[size] = append(ratios[size], both[1].took.Seconds()/both[0].took.Seconds())
		}
	}

	table := report.Table{
		Title: fmt.Sprintf("Sites under one wildcard certificate, `max_origins %d`, and ms from dialling to the first response header on a new connection "+
			"(medians of %d connections, in turn with a server without the wrapper):", maxOrigins, connections-1),
		Columns: []string{"other sites", "origins told", "ORIGIN frames", "bytes of them", "without, ms", "with, ms", "with / without"},
	}
	plot := report.Plot{Name: "origin-sets", Title: "New connection: time to the first response against sites, 1000 of them told at most", X: "sites", Y: "ms", LogX: true,
		Series: []report.Series{{Name: "without the wrapper"}, {Name: "with"}}}
	for _, size := range sizes {
		var medians [2]float64
		for i := range medians {
			medians[i] = report.Median(times[size][i])
			plot.Series[i].Points = append(plot.Series[i].Points, [2]float64{float64(size), medians[i]})
		}
		table.Rows = append(table.Rows, []string{
			strconv.Itoa(size), strconv.Itoa(told[size].origins), strconv.Itoa(told[size].frames), strconv.Itoa(told[size].bytes),
			fmt.Sprintf("%.2f", medians[0]), fmt.Sprintf("%.2f", medians[1]), fmt.Sprintf("%.3f", report.Median(ratios[size])),
		})
	}
	result.Tables, result.Plots = append(result.Tables, table), append(result.Plots, plot)
	result.AtMost("coalescing/origin-cap", "origins that a connection is told of, of 10 000 sites", float64(told[10_000].origins), maxOrigins)
	result.AtMost("coalescing/first-response", "time to the first response on a new connection with 1000 origins, of that without the wrapper", report.Median(ratios[1000]), o.LooseMost(mostFirst))
	return nil
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
