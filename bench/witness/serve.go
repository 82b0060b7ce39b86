//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An event is a line of a program's log, whatever language it is written in.
type event struct {
	Who  string `json:"who"` // "client" or "server"
	ID   string `json:"id,omitempty"`
	What string `json:"what,omitempty"` // server: begin, end, abort (the handler did not come to its end)

	Time float64 `json:"time,omitempty"` // server: seconds since 1970
	Peer int     `json:"peer,omitempty"` // server: the client's port

	Client    string  `json:"client,omitempty"` // the kind of client
	OK        bool    `json:"ok,omitempty"`     // the library delivered a whole response, and the client wanted it
	Status    int     `json:"status,omitempty"`
	Bytes     int64   `json:"bytes,omitempty"`
	Cancelled bool    `json:"cancelled,omitempty"` // the client had enough, in the middle of the response
	Error     string  `json:"error,omitempty"`     // verbatim
	Start     float64 `json:"start,omitempty"`
	End       float64 `json:"end,omitempty"`
	Ports     []int   `json:"ports,omitempty"` // client: local port of each attempt, where the library tells
}

// An eventLog writes events to standard output, each with one write, so that a
// killed program has logged what it has done.
type eventLog struct{ mu sync.Mutex }

func (l *eventLog) add(e event) {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // there is nothing in an event that cannot be marshalled
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	os.Stdout.Write(append(b, '\n'))
}

// epoch returns t as the seconds since 1970.
func epoch(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// requestID returns the last element of a target's path.
func requestID(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path[strings.LastIndexByte(path, '/')+1:]
}

var action = regexp.MustCompile(`^([a-z]*)(\d*)$`)

// serve is the Go server: serve ADDRESS IDLE-SECONDS [CERT KEY].
func serve(args []string) error {
	if len(args) < 2 {
		return errors.New("serve needs an address and an idle time")
	}
	idle, err := strconv.ParseFloat(args[1], 64)
	if err != nil {
		return err
	}
	var log eventLog
	srv := &http.Server{
		Addr: args[0],
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, port, _ := net.SplitHostPort(r.RemoteAddr)
			peer, _ := strconv.Atoi(port)
			note := func(what string) {
				log.add(event{Who: "server", What: what, ID: requestID(r.URL.Path), Time: epoch(time.Now()), Peer: peer})
			}
			note("begin")
			ended := false
			defer func() {
				if !ended {
					note("abort")
				}
			}()
			act(w, r)
			note("end")
			ended = true
		}),
		IdleTimeout: time.Duration(idle * 1e9), ReadHeaderTimeout: 2 * time.Second,
		ReadTimeout: 3 * time.Second, WriteTimeout: 8 * time.Second,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		<-stop
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
		close(done)
	}()
	if len(args) > 3 {
		err = srv.ListenAndServeTLS(args[2], args[3])
	} else {
		err = srv.ListenAndServe()
	}
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return nil
	}
	return err
}

// act does what the request's "do" parameter says.
func act(w http.ResponseWriter, r *http.Request) {
	m := action.FindStringSubmatch(r.URL.Query().Get("do"))
	if m == nil {
		m = []string{"", "", ""}
	}
	number, _ := strconv.Atoi(m[2])
	switch m[1] {
	case "unread":
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	case "unreadclose":
		panic(http.ErrAbortHandler)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler) // the read timeout, or the client went away
	}
	switch m[1] {
	case "slow":
		time.Sleep(time.Duration(number) * time.Millisecond)
		io.WriteString(w, "slow\n")
	case "big":
		if number == 0 {
			number = 5000
		}
		for range 20 {
			if _, err := io.WriteString(w, strings.Repeat("y", number)); err != nil {
				panic(http.ErrAbortHandler)
			}
			w.(http.Flusher).Flush()
			time.Sleep(15 * time.Millisecond)
		}
	case "trunc":
		w.Header().Set("Content-Length", "10000")
		io.WriteString(w, strings.Repeat("t", truncatedBytes))
	case "truncchunk":
		io.WriteString(w, strings.Repeat("t", 8000))
		w.(http.Flusher).Flush()
		if !r.ProtoAtLeast(1, 1) {
			// Without chunks only a reset tells a proxy that this was not all.
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.(*net.TCPConn).SetLinger(0)
				time.Sleep(20 * time.Millisecond)
				c.Close()
			}
		}
		panic(http.ErrAbortHandler)
	case "crash":
		panic(http.ErrAbortHandler)
	case "reset", "upgrade":
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		if m[1] == "reset" {
			if t, ok := c.(*net.TCPConn); ok {
				t.SetLinger(0)
			}
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		c.Read(make([]byte, 100))
		c.Write([]byte{0x88, 2, 0x03, 0xe9}) // a close frame, going away
	case "closeme":
		w.Header().Set("Connection", "close")
		io.WriteString(w, "bye\n")
	default:
		io.WriteString(w, "ok\n")
	}
}
