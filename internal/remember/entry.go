package remember

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

const (
	// version is that of the format. Another one is as good as nothing.
	version = 1

	// maxSize is how long a stored value may be. Ours have less than 1 KiB, but for
	// long addresses.
	maxSize = 16 << 10

	// prefix is where values are kept in the storage.
	prefix = "connreuse/upstreampool"
)

// A Key says whose timeout something is: a server's, at an address or behind a
// proxy, for one protocol.
type Key struct {
	Scheme   string `json:"scheme"`
	Network  string `json:"network"`
	Address  string `json:"address"`
	Proxy    string `json:"proxy,omitempty"` // URL of the forward proxy
	Protocol string `json:"protocol"`
}

// path returns where the value of k is kept for an instance of Caddy. An address
// like 127.0.0.1:3000 is another server on each machine of a fleet, whatever they
// share. Addresses may hold anything, so the name is a hash.
func (k Key) path(instance string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{k.Scheme, k.Network, k.Address, k.Proxy, k.Protocol}, "\x00")))
	return prefix + "/" + instance + "/" + hex.EncodeToString(sum[:16]) + ".json"
}

// shown returns k without the password of the proxy.
func (k Key) shown() Key {
	if u, err := url.Parse(k.Proxy); err != nil {
		k.Proxy = "invalid"
	} else {
		k.Proxy = u.Redacted()
	}
	return k
}

// A value is what is stored. The upstream is there for people, and to know that it
// is the right one.
type value struct {
	Version  int             `json:"version"`
	Upstream Key             `json:"upstream"`
	Learned  idletime.Memory `json:"learned"`
}

func encode(k Key, m idletime.Memory) ([]byte, error) {
	return json.MarshalIndent(value{version, k.shown(), m}, "", "\t")
}

// errInvalid is part of each error of parse.
var errInvalid = errors.New("parsing what is remembered")

// parse reads what is stored for k. It comes from outside, so nothing is taken for
// granted: whoever can write it could otherwise have connections used for longer
// than is safe, or not at all.
func parse(k Key, stored []byte) (idletime.Memory, error) {
	if len(stored) > maxSize {
		return idletime.Memory{}, fmt.Errorf("%w: %d bytes, more than %d", errInvalid, len(stored), maxSize)
	}
	d := json.NewDecoder(bytes.NewReader(stored))
	var v value
	if err := d.Decode(&v); err != nil {
		return idletime.Memory{}, fmt.Errorf("%w: %w", errInvalid, err)
	}
	switch {
	case v.Version != version:
		return idletime.Memory{}, fmt.Errorf("%w: version %d, must be %d", errInvalid, v.Version, version)
	case v.Upstream != k.shown():
		return idletime.Memory{}, fmt.Errorf("%w: it is about upstream '%s'", errInvalid, v.Upstream.Address)
	case v.Learned.KeepAlive <= 0 || v.Learned.KeepAlive > maxKeepAlive:
		return idletime.Memory{}, fmt.Errorf("%w: keep_alive '%s' must be above zero and at most %s", errInvalid,
			v.Learned.KeepAlive, maxKeepAlive)
	case v.Learned.SeenAt.IsZero():
		return idletime.Memory{}, fmt.Errorf("%w: seen_at is missing", errInvalid)
	}
	return v.Learned, nil
}

// maxKeepAlive is the longest timeout that can have been seen.
const maxKeepAlive = 24 * time.Hour
