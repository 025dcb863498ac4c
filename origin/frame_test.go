package origin

import (
	"bytes"
	"encoding/hex"
	"errors"
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

// decodeFrame reads a frame that must be an ORIGIN frame.
func decodeFrame(t testing.TB, frame http2.Frame) []string {
	t.Helper()
	origins, ok, err := ParseFrame(frame)
	if !ok {
		t.Fatalf("%v is no ORIGIN frame on stream 0 without flags", frame.Header())
	}
	if err != nil {
		t.Fatal(err)
	}
	return origins
}

// O1 RFC 8336 2.1, O2 RFC 8336 2.2, O5 RFC 8336 B: exact bytes.
//
// Checklist: O1, O2, O5.
func TestFrameBytes(t *testing.T) {
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
//
// Checklist: O11.
func TestLongFramesAreSplit(t *testing.T) {
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

// TestParseFrame: what a client makes of a frame (RFC 8336 section 2.2).
func TestParseFrame(t *testing.T) {
	const a, b = "\x00\x0ehttps://a.test", "\x00\x0ehttps://b.test"
	for _, test := range []struct {
		name    string
		kind    http2.FrameType
		flags   http2.Flags
		stream  uint32
		payload string
		want    []string
		ok      bool
		err     string
	}{
		{"empty", 0x0c, 0, 0, "", nil, true, ""},
		{"two", 0x0c, 0, 0, a + b, []string{"https://a.test", "https://b.test"}, true, ""},
		{"an empty entry", 0x0c, 0, 0, "\x00\x00" + a, []string{"", "https://a.test"}, true, ""},
		{"no room for a length", 0x0c, 0, 0, a + "\x00", []string{"https://a.test"}, true, "reading ORIGIN frame: entry 2 is longer than the frame"},
		{"cut", 0x0c, 0, 0, a[:len(a)-1], nil, true, "reading ORIGIN frame: entry 1 is longer than the frame"},
		{"on a stream", 0x0c, 0, 1, a, nil, false, ""},
		{"with a flag", 0x0c, 1, 0, a, nil, false, ""},
		{"of another type", 0x0d, 0, 0, a, nil, false, ""},
		{"of a known type", http2.FramePing, 0, 0, "12345678", nil, false, ""},
	} {
		var buf bytes.Buffer
		framer := http2.NewFramer(&buf, &buf)
		if err := framer.WriteRawFrame(test.kind, test.flags, test.stream, []byte(test.payload)); err != nil {
			t.Fatal(err)
		}
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		got, ok, err := ParseFrame(frame)
		if err == nil {
			err = errors.New("")
		}
		if !slices.Equal(got, test.want) || ok != test.ok || err.Error() != test.err {
			t.Errorf("%s: %q, %v, %q; want %q, %v, %q", test.name, got, ok, err, test.want, test.ok, test.err)
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
