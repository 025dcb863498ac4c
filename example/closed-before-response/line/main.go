// Command line is a line to the upstream on which a FIN is late: it arrives when
// the next request has left. On a real line both cross if the request leaves
// within the time that a packet takes; here they always do.
package main

import (
	"cmp"
	"io"
	"log"
	"net"
	"os"
	"sync/atomic"
)

func main() {
	from := "127.0.0.1:" + cmp.Or(os.Getenv("LINE_PORT"), "8082")
	to := "127.0.0.1:" + cmp.Or(os.Getenv("UPSTREAM_PORT"), "8081")
	ln, err := net.Listen("tcp", from)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("%s leads to %s", from, to)
	for {
		proxy, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go connect(proxy, to)
	}
}

// connect carries what a proxy and the upstream say on one connection.
func connect(proxy net.Conn, to string) {
	defer proxy.Close()
	upstream, err := net.Dial("tcp", to)
	if err != nil {
		log.Print(err)
		return
	}
	defer upstream.Close()
	var closed atomic.Bool // by the upstream
	go func() {
		_, _ = io.Copy(proxy, upstream)
		closed.Store(true)
	}()
	for buffer := make([]byte, 16<<10); !closed.Load(); {
		n, err := proxy.Read(buffer)
		if err != nil {
			return
		}
		if _, err := upstream.Write(buffer[:n]); err != nil {
			return
		}
	}
}
