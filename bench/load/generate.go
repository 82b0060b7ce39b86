//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	smallConns = 400
	smallBody  = 120
	largeConns = 40
	largeBody  = 500_000
	shortConns = 150_000
	shortBody  = 6_600 // 150,000 of them make a gigabyte
	shortPool  = 64    // at once
	// Several addresses, since a port is not free again at once for the same one.
	addresses = 16
)

// generate runs server and client inside the namespace. It returns when ctx is
// done, or when every short connection has been made.
func generate(ctx context.Context, kind string, rate int) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("10000 65000"), 0); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(serve)}
	go srv.Serve(ln)
	defer srv.Close()
	g := &generator{ctx: ctx}
	if rate > 0 {
		t := time.NewTicker(10 * time.Millisecond)
		defer t.Stop()
		g.tokens = make(chan struct{}, max(1, rate/20))
		go func() {
			for range t.C {
				for range rate / 100 {
					select {
					case g.tokens <- struct{}{}:
					default:
					}
				}
			}
		}()
	}
	switch kind {
	case "small":
		return g.keepAlive(smallConns, "/small")
	case "large":
		return g.keepAlive(largeConns, "/large")
	case "short":
		return g.short()
	}
	return fmt.Errorf("no kind of traffic is called %q", kind)
}

var bodies = map[string][]byte{
	"/small": bytes.Repeat([]byte("s"), smallBody),
	"/large": bytes.Repeat([]byte("l"), largeBody),
	"/short": bytes.Repeat([]byte("t"), shortBody),
}

// serve answers with the body that the path names; with ?abort it then resets
// the connection.
func serve(w http.ResponseWriter, r *http.Request) {
	body := bodies[r.URL.Path]
	if r.URL.RawQuery != "abort" {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.Write(body)
		return
	}
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	buf.Flush()
	// A reset throws away what the client has not read: wait for its word.
	buf.ReadByte()
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// A generator is the client.
type generator struct {
	ctx    context.Context
	tokens chan struct{} // one per request, if the rate is limited
}

// next waits for permission to send a request.
func (g *generator) next() bool {
	if g.tokens != nil {
		select {
		case <-g.tokens:
		case <-g.ctx.Done():
		}
	}
	return g.ctx.Err() == nil
}

// keepAlive repeats a request on each of n connections.
func (g *generator) keepAlive(n int, path string) error {
	errs := make(chan error, n)
	for i := range n {
		go func() {
			errs <- func() error {
				c, err := net.Dial("tcp", address(i))
				if err != nil {
					return err
				}
				defer c.Close()
				r := bufio.NewReaderSize(c, 64<<10)
				for k := 0; g.next(); k++ {
					if err := exchange(c, r, fmt.Sprintf("GET %s?c=%d&k=%d HTTP/1.1\r\nHost: bench\r\nUser-Agent: load\r\n\r\n", path, i, k)); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	var all error
	for range n {
		all = errors.Join(all, <-errs)
	}
	return all
}

// exchange sends a request and reads the whole response.
func exchange(c net.Conn, r *bufio.Reader, request string) error {
	if _, err := io.WriteString(c, request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// short makes the short connections, which end in four ways by turns.
func (g *generator) short() error {
	var count atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, shortPool)
	for range shortPool {
		wg.Go(func() {
			for g.next() {
				i := int(count.Add(1)) - 1
				if i >= shortConns {
					return
				}
				if err := oneShort(i); err != nil {
					errs <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return errors.Join(<-errs, g.ctx.Err())
}

func oneShort(i int) error {
	conn, err := net.Dial("tcp", address(i))
	if err != nil {
		return err
	}
	defer conn.Close()
	c := conn.(*net.TCPConn)
	query, header := "", ""
	switch i % 4 {
	case 0: // the server closes first
		header = "Connection: close\r\n"
	case 1: // the server resets
		query = "?abort"
	}
	r := bufio.NewReaderSize(c, 8<<10)
	if err := exchange(c, r, fmt.Sprintf("GET /short%s HTTP/1.1\r\nHost: bench\r\nUser-Agent: load\r\n%s\r\n", query, header)); err != nil {
		return err
	}
	switch i % 4 {
	case 0:
		r.ReadByte() // the end of the stream
	case 1:
		c.Write([]byte{'\n'}) // an empty line before a request that never comes
		r.ReadByte()          // the reset
	case 2: // the client resets
		c.SetLinger(0)
	case 3: // the client closes first
	}
	return nil
}

func address(i int) string { return fmt.Sprintf("127.0.0.%d:9000", 1+i%addresses) }
