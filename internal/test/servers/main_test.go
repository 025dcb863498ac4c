package servers_test

import (
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

func TestMain(m *testing.M) { needs.Main(m) }
