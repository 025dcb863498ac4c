package origin

import (
	"crypto/tls"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

// certificate is for connections below Caddy.
var certificate = func() tls.Certificate {
	cert, err := testcert.SelfSigned("a.test")
	if err != nil {
		panic(err)
	}
	return cert
}()
