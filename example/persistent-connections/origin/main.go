// Command origin is an upstream that answers as the path says, and tells on which
// connection a request came and which of its fields are for one connection only.
// In front of it, on a second port, is a dumb proxy.
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// answers are the status lines and fields, by path.
var answers = map[string]string{
	"/1.0":            "HTTP/1.0 200 OK\r\n",
	"/1.0-keep-alive": "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n",
	"/1.1":            "HTTP/1.1 200 OK\r\n",
	"/1.1-close":      "HTTP/1.1 200 OK\r\nConnection: close\r\n",
	"/hop-by-hop":     "HTTP/1.1 200 OK\r\nConnection: Keep-Alive, X-Hop\r\nKeep-Alive: timeout=5, max=100\r\nX-Hop: 1\r\nX-End: 1\r\n",
}

func main() {
	origin := "127.0.0.1:" + cmp.Or(os.Getenv("ORIGIN_PORT"), "8081")
	dumb := "127.0.0.1:" + cmp.Or(os.Getenv("DUMB_PORT"), "8082")
	go listen(dumb, func(client net.Conn, _ int64) error { return relay(client, origin) })
	listen(origin, answer)
}

func listen(addr string, serve func(conn net.Conn, number int64) error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	var number atomic.Int64
	for {
		conn, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			if err := serve(conn, number.Add(1)); err != nil && err != io.EOF {
				log.Print(err)
			}
		}()
	}
}

// answer answers all requests on a connection. It never closes one first, not
// even where it says that it will, so that nothing but the rules of HTTP keeps a
// client from using it again. The exception is a request that asks for it.
func answer(conn net.Conn, number int64) error {
	reader := bufio.NewReader(conn)
	for n := 1; ; n++ {
		req, err := http.ReadRequest(reader)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return err
		}
		head, ok := answers[req.URL.Path]
		if !ok {
			head = "HTTP/1.1 404 Not Found\r\n"
		}
		var body strings.Builder
		body.WriteString(fmt.Sprintf("connection %d, request %d\n", number, n))
		for _, name := range slices.Sorted(maps.Keys(req.Header)) {
			body.WriteString(fmt.Sprintf("%s: %s\n", name, strings.Join(req.Header[name], ", ")))
		}
		if _, err := fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", head, len(body.String()), body.String()); err != nil || req.Close {
			return err
		}
	}
}

// relay is the dumb proxy of RFC 2068 section 19.7.1: it does not know the field
// Connection, forwards all there is, and takes for the end of a response what was
// the end when it was written: that the server closes the connection.
func relay(client net.Conn, origin string) error {
	server, err := net.Dial("tcp", origin)
	if err != nil {
		return err
	}
	defer server.Close()
	head := textproto.NewReader(bufio.NewReader(client))
	for line := "?"; line != ""; {
		if line, err = head.ReadLine(); err != nil {
			return err
		}
		if _, err := io.WriteString(server, line+"\r\n"); err != nil {
			return err
		}
	}
	_, err = io.Copy(client, server)
	return err
}
