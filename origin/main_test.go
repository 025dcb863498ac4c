package origin

import (
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/parallel"
)

func TestMain(m *testing.M) {
	parallel.AtLeast(len(stockServers)) // which wait for their timeouts
	needs.Main(m)
}
