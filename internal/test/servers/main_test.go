package servers_test

import (
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/parallel"
)

func TestMain(m *testing.M) {
	parallel.AtLeast(6) // they wait for timeouts
	needs.Main(m)
}
