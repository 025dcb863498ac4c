package origin_test

import (
	"bytes"
	"fmt"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/origin"
)

// A client reads frames with golang.org/x/net's Framer, which does not know the
// ORIGIN frame.
func ExampleParseFrame() {
	var connection bytes.Buffer
	framer := http2.NewFramer(&connection, &connection)
	_ = framer.WriteRawFrame(0x0c, 0, 0, []byte("\x00\x13https://a.test:8443\x00\x0ehttps://b.test"))

	frame, err := framer.ReadFrame()
	if err != nil {
		fmt.Println(err)
		return
	}
	origins, ok, err := origin.ParseFrame(frame)
	fmt.Println(origins, ok, err)
	// Output: [https://a.test:8443 https://b.test] true <nil>
}
