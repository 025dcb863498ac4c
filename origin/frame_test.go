package origin

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// decode reads frames until the end, all of which must be ORIGIN frames.
func decode(t testing.TB, data []byte) (origins [][]string) {
	t.Helper()
	framer := http2.NewFramer(nil, bytes.NewReader(data))
	for {
		frame, err := framer.ReadFrame()
		if err == io.EOF {
			return origins
		}
		if err != nil {
			t.Fatal(err)
		}
		origins = append(origins, decodeFrame(t, frame))
	}
}

// decodeFrame reads an ORIGIN frame as a client does (RFC 8336 section 2.2).
func decodeFrame(t testing.TB, frame http2.Frame) []string {
	t.Helper()
	h := frame.Header()
	raw, ok := frame.(*http2.UnknownFrame)
	if !ok || h.Type != 0x0c || h.StreamID != 0 || h.Flags != 0 {
		t.Fatalf("%v is no ORIGIN frame on stream 0 without flags", h)
	}
	origins, payload := []string{}, raw.Payload()
	for len(payload) > 0 {
		if len(payload) < 2 || len(payload)-2 < int(binary.BigEndian.Uint16(payload)) {
			t.Fatalf("the last entry is cut: %x", payload)
		}
		end := 2 + int(binary.BigEndian.Uint16(payload))
		origins = append(origins, string(payload[2:end]))
		payload = payload[end:]
	}
	return origins
}

// O1 RFC 8336 2.1, O2 RFC 8336 2.2, O5 RFC 8336 B: exact bytes.
func TestO1O2O5Bytes(t *testing.T) {
	for _, test := range []struct {
		origins []origin
		want    string
	}{
		{nil, "000000" + "0c" + "00" + "00000000"},
		{
			[]origin{{"a.test", 443}},
			"000010" + "0c" + "00" + "00000000" + "000e" + hex.EncodeToString([]byte("https://a.test")),
		},
		{
			[]origin{{"a.test", 8443}, {"::1", 443}},
			"000024" + "0c" + "00" + "00000000" +
				"0013" + hex.EncodeToString([]byte("https://a.test:8443")) +
				"000d" + hex.EncodeToString([]byte("https://[::1]")),
		},
	} {
		got := encode(test.origins)
		if hex.EncodeToString(got.bytes) != test.want {
			t.Errorf("%v\n  is %x\nwant %s", test.origins, got.bytes, test.want)
		}
		if got.count != 1 || got.origins != len(test.origins) {
			t.Errorf("%v: %d frames, %d origins", test.origins, got.count, got.origins)
		}
	}
}

// O11 RFC 9113 4.2: at most 16384 octets a frame, split at entries, and no more
// frames than it takes.
func TestO11Split(t *testing.T) {
	// an entry is 2 + len("https://") + len(name)
	named := func(n, length int) (list []origin) {
		for i := range n {
			name := fmt.Sprintf("%0*d", length-10-5, i) + ".test"
			list = append(list, origin{name, 443})
		}
		return list
	}
	for _, test := range []struct {
		origins []origin
		frames  []int // payload lengths
	}{
		{named(256, 64), []int{16384}},
		{named(257, 64), []int{16384, 64}},
		{append(named(255, 64), named(1, 65)...), []int{255 * 64, 65}},
		{named(1000, 263), []int{62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 62 * 263, 8 * 263}},
	} {
		got := encode(test.origins)
		var lengths []int
		var names, want []string
		framer := http2.NewFramer(nil, bytes.NewReader(got.bytes))
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				break
			}
			lengths = append(lengths, int(frame.Header().Length))
			names = append(names, decodeFrame(t, frame)...)
		}
		for _, o := range test.origins {
			want = append(want, o.String())
		}
		if !slices.Equal(lengths, test.frames) || got.count != len(test.frames) || got.origins != len(test.origins) {
			t.Errorf("%d origins: frames of %v, counted %d with %d; want %v", len(test.origins), lengths, got.count, got.origins, test.frames)
		}
		if !slices.Equal(names, want) {
			t.Errorf("%d origins come back as %d, or changed", len(want), len(names))
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("a.test b.test:8443 [::1]:1")
	f.Add("")
	f.Add(strings.Repeat("a.test:1 ", 900))
	f.Fuzz(func(t *testing.T, text string) {
		var list []origin
		want := []string{}
		for field := range strings.FieldsSeq(text) {
			if o, err := parseOrigin("https://" + field); err == nil {
				list = append(list, o)
				want = append(want, o.String())
			}
		}
		if got := slices.Concat(decode(t, encode(list).bytes)...); !slices.Equal(got, want) {
			t.Errorf("%q comes back as %q", want, got)
		}
	})
}
