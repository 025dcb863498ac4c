package upstreampool

import (
	"io"
	"log"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if os.Getenv("UPSTREAMPOOL_CHILD") != "" {
		child()
		return
	}
	if addresses := os.Getenv(serverVariable); addresses != "" {
		if err := runServer(addresses); err != nil {
			log.Fatal(err)
		}
		return
	}
	log.SetOutput(io.Discard) // net/http reports surplus bytes there
	os.Exit(m.Run())
}
