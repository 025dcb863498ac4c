// Package metrics registers Prometheus collectors in a way that survives
// config reloads.
package metrics

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Register registers c with reg and returns the collector to use from now on:
// c itself, or the equal collector that reg already holds (several handlers of
// one config ask for the same one).
//
// Caddy gives each loaded config a registry of its own, so a package builds
// its collectors once and calls Register in every Provision: the counts then
// go on where they were before the reload.
func Register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		existing, ok := already.ExistingCollector.(C)
		if !ok {
			return c, fmt.Errorf("registering metrics: the name belongs to a %T already, want %T", already.ExistingCollector, c)
		}
		return existing, nil
	}
	if err != nil {
		return c, fmt.Errorf("registering metrics: %w", err)
	}
	return c, nil
}
