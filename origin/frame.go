package origin

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/net/http2"
)

// frameType is the type of an ORIGIN frame (RFC 8336 section 2.1).
const frameType http2.FrameType = 0x0c

// ParseFrame returns the origins in frame, as they are, and whether it is an
// ORIGIN frame at all: one on another stream or with flags is none to a client
// (RFC 8336 sections 2.1 and 2.2). An error is about its last entry, which is
// cut short; those before it are returned.
func ParseFrame(frame http2.Frame) (origins []string, ok bool, err error) {
	header := frame.Header()
	raw, unknown := frame.(*http2.UnknownFrame)
	if !unknown || header.Type != frameType || header.StreamID != 0 || header.Flags != 0 {
		return nil, false, nil
	}
	for payload := raw.Payload(); len(payload) > 0; {
		if len(payload) < 2 || len(payload)-2 < int(binary.BigEndian.Uint16(payload)) {
			return origins, true, fmt.Errorf("reading ORIGIN frame: entry %d is longer than the frame", len(origins)+1)
		}
		end := 2 + int(binary.BigEndian.Uint16(payload))
		origins = append(origins, string(payload[2:end]))
		payload = payload[end:]
	}
	return origins, true, nil
}

// maxPayload is the length of the largest frame that every client takes, the
// initial value of SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 4.2): the client's
// own SETTINGS are not known yet when the frame is written.
const maxPayload = 16384

// frames are the ORIGIN frames of one connection, ready to be sent.
type frames struct {
	bytes   []byte
	count   int  // of frames
	origins int  // of entries in them
	cut     bool // there were more
}

// encode writes origins as the payload of ORIGIN frames: entries of a length
// and an ASCII origin (RFC 8336 section 2.1), on stream 0 and without flags
// (section 2.2). It is one frame where that is large enough, also for no origins
// at all; what does not fit goes on in the next, since clients add up the frames
// of a connection (section 2.3).
func encode(origins []origin) frames {
	var (
		buf     bytes.Buffer
		framer  = http2.NewFramer(&buf, nil)
		payload []byte
		out     frames
	)
	flush := func() {
		// a bytes.Buffer returns no errors
		_ = framer.WriteRawFrame(frameType, 0, 0, payload)
		payload = payload[:0]
		out.count++
	}
	for _, o := range origins {
		start := len(payload)
		payload = o.appendEntry(payload)
		if len(payload) > maxPayload {
			entry := bytes.Clone(payload[start:])
			payload = payload[:start]
			flush()
			payload = append(payload, entry...)
		}
	}
	flush()
	out.bytes, out.origins = buf.Bytes(), len(origins)
	return out
}

// appendEntry adds o to the payload of a frame.
func (o origin) appendEntry(payload []byte) []byte {
	start := len(payload)
	payload = o.append(append(payload, 0, 0))
	binary.BigEndian.PutUint16(payload[start:], uint16(len(payload)-start-2))
	return payload
}
