//go:build race

package upstreampool

const raceEnabled = true
