//go:build !race

// Package race tells tests whether the race detector is on.
package race

// Enabled: it is.
const Enabled = false
