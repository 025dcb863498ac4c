package origin

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// A layout is the way to what Caddy and quic-go keep to themselves, and what an ORIGIN
// frame on HTTP/3 needs: a server's http3.Server, and a connection's control stream.
// Every step of it is checked by name and type before anything is touched.
type layout struct {
	h3server   reflect.StructField // of caddyhttp.Server
	streamsMap reflect.StructField // of quic.Conn
	outgoing   reflect.StructField // of that
}

// getStream is a method of the outgoing streams.
const getStream = "GetStream"

// controlStream is the first unidirectional stream of a server (RFC 9000 section 2.1).
// quic-go's HTTP/3 server opens it for SETTINGS and GOAWAY (RFC 9114 section 6.2.1).
const controlStream quic.StreamID = 3

// quicLayout is the layout of the Caddy and the quic-go that this program is built
// with.
var quicLayout = sync.OnceValues(func() (*layout, error) {
	return findLayout(reflect.TypeFor[caddyhttp.Server](), reflect.TypeFor[quic.Conn]())
})

func findLayout(server, conn reflect.Type) (*layout, error) {
	l := new(layout)
	var err error
	if l.h3server, err = fieldOf(server, "h3server"); err != nil {
		return nil, err
	}
	if want := reflect.TypeFor[*http3.Server](); l.h3server.Type != want {
		return nil, fmt.Errorf("%v.h3server is a %v, not a %v", server, l.h3server.Type, want)
	}
	if l.streamsMap, err = fieldOf(conn, "streamsMap"); err != nil {
		return nil, err
	}
	if l.outgoing, err = fieldOf(pointee(l.streamsMap.Type), "outgoingUniStreams"); err != nil {
		return nil, err
	}
	if pointee(l.outgoing.Type) == nil {
		return nil, fmt.Errorf("outgoingUniStreams is a %v, not a pointer", l.outgoing.Type)
	}
	method, ok := l.outgoing.Type.MethodByName(getStream)
	if !ok {
		return nil, fmt.Errorf("%v has no method %s", l.outgoing.Type, getStream)
	}
	// the receiver counts as the first argument
	want := reflect.FuncOf([]reflect.Type{l.outgoing.Type, reflect.TypeFor[quic.StreamID]()},
		[]reflect.Type{reflect.TypeFor[*quic.SendStream](), reflect.TypeFor[error]()}, false)
	if method.Type != want {
		return nil, fmt.Errorf("%s is a %v, not a %v", getStream, method.Type, want)
	}
	return l, nil
}

func fieldOf(t reflect.Type, name string) (reflect.StructField, error) {
	if t == nil || t.Kind() != reflect.Struct {
		return reflect.StructField{}, fmt.Errorf("what should have a field %s is no struct", name)
	}
	field, ok := t.FieldByName(name)
	if !ok || len(field.Index) != 1 {
		return field, fmt.Errorf("%v has no field %s", t, name)
	}
	return field, nil
}

// pointee returns what a pointer type points to, nil for another type.
func pointee(t reflect.Type) reflect.Type {
	if t.Kind() != reflect.Pointer {
		return nil
	}
	return t.Elem()
}

// server returns the place of a server's http3.Server.
func (l *layout) server(srv *caddyhttp.Server) **http3.Server {
	field := reflect.ValueOf(srv).Elem().FieldByIndex(l.h3server.Index)
	return reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Interface().(**http3.Server)
}

var errNoControlStream = errors.New("the connection has no control stream")

// control returns the control stream of a connection whose SETTINGS are queued.
func (l *layout) control(conn *quic.Conn) (*quic.SendStream, error) {
	streams := reflect.ValueOf(conn).Elem().FieldByIndex(l.streamsMap.Index)
	if streams.IsNil() {
		return nil, errNoControlStream
	}
	outgoing := streams.Elem().FieldByIndex(l.outgoing.Index)
	if outgoing.IsNil() {
		return nil, errNoControlStream
	}
	// a pointer that was not read from a field: its methods can be called
	callable := reflect.NewAt(outgoing.Type().Elem(), outgoing.UnsafePointer())
	results := callable.MethodByName(getStream).Call([]reflect.Value{reflect.ValueOf(controlStream)})
	if err, ok := reflect.TypeAssert[error](results[1]); ok {
		return nil, err
	}
	stream := results[0].Interface().(*quic.SendStream)
	if stream == nil { // it was closed
		return nil, errNoControlStream
	}
	return stream, nil
}
