//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// A script is what a client reads from its standard input: conversations to hold
// side by side, each on a connection of its own as long as the library keeps it.
type script struct {
	Base string   `json:"base"` // "http://10.77.0.2:9000"
	TLS  string   `json:"tls,omitempty"`
	Host string   `json:"host,omitempty"` // raw: host and port to connect to
	Conn [][]step `json:"conns"`
	// Linger is how long to keep idle connections after the last request, in seconds.
	Linger float64 `json:"linger"`
	Raw    [][]op  `json:"raw,omitempty"`
}

// A step is one request.
type step struct {
	ID         string  `json:"id"`
	Cause      string  `json:"-"` // what is provoked; see expectations
	Method     string  `json:"method"`
	Target     string  `json:"target"`
	Body       int     `json:"body,omitempty"`        // bytes
	Pause      float64 `json:"pause,omitempty"`       // seconds since the end of the step before
	Timeout    float64 `json:"timeout,omitempty"`     // the client's patience, in seconds
	ReadOnly   int     `json:"read_only,omitempty"`   // cancel after so many bytes of the response
	Pieces     int     `json:"pieces,omitempty"`      // send the body in so many pieces
	PiecePause float64 `json:"piece_pause,omitempty"` // seconds after each
	Close      bool    `json:"close,omitempty"`       // Connection: close
}

// call runs a Go client on the script on standard input: call go|curl|raw.
func call(args []string) error {
	if len(args) != 1 {
		return errors.New("call needs a kind of client")
	}
	var s script
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return err
	}
	var log eventLog
	var wg sync.WaitGroup
	switch args[0] {
	case "go":
		for _, steps := range s.Conn {
			wg.Go(func() { s.converse(steps, &log) })
		}
	case "curl":
		for _, steps := range s.Conn {
			wg.Go(func() { s.curl(steps, &log) })
		}
	case "raw":
		for _, ops := range s.Raw {
			wg.Go(func() { s.speak(ops, &log) })
		}
	default:
		return fmt.Errorf("no client is called %q", args[0])
	}
	wg.Wait()
	return nil
}

func sleep(seconds float64) { time.Sleep(time.Duration(seconds * 1e9)) }

func (s *script) tlsConfig() *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	if s.TLS == "1.2" {
		c.MaxVersion = tls.VersionTLS12
	}
	return c
}

// converse holds one conversation with net/http.
func (s *script) converse(steps []step, log *eventLog) {
	t := &http.Transport{MaxIdleConnsPerHost: 1, DisableCompression: true, TLSClientConfig: s.tlsConfig()}
	c := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, q := range steps {
		sleep(q.Pause)
		log.add(s.exchange(c, q))
	}
	sleep(s.Linger)
	t.CloseIdleConnections()
}

func (s *script) exchange(c *http.Client, q step) event {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if q.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(q.Timeout*1e9))
		defer cancel()
	}
	e := event{Who: "client", Client: "go", ID: q.ID, Start: epoch(time.Now())}
	var mu sync.Mutex
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if a, ok := i.Conn.LocalAddr().(*net.TCPAddr); ok {
			mu.Lock()
			e.Ports = append(e.Ports, a.Port)
			mu.Unlock()
		}
	}})
	fail := func(err error) event {
		mu.Lock()
		defer mu.Unlock()
		e.End, e.OK = epoch(time.Now()), err == nil && !e.Cancelled
		if err != nil {
			e.Error = err.Error()
		}
		return e
	}
	var body io.Reader
	switch {
	case q.Pieces > 0:
		body = &pieces{ctx: ctx, q: q}
	case q.Body > 0:
		body = strings.NewReader(strings.Repeat("x", q.Body))
	}
	r, err := http.NewRequestWithContext(ctx, q.Method, s.Base+q.Target, body)
	if err != nil {
		return fail(err)
	}
	if q.Pieces > 0 {
		r.ContentLength = int64(q.Body)
	}
	r.Close = q.Close
	resp, err := c.Do(r)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	e.Status = resp.StatusCode
	if q.ReadOnly > 0 {
		e.Bytes, err = io.CopyN(io.Discard, resp.Body, int64(q.ReadOnly))
		e.Cancelled = err == nil
		cancel()
		return fail(err)
	}
	e.Bytes, err = io.Copy(io.Discard, resp.Body)
	return fail(err)
}

// pieces is a body that is sent piece by piece.
type pieces struct {
	ctx  context.Context
	q    step
	sent int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.sent == p.q.Pieces {
		return 0, io.EOF
	}
	if p.sent > 0 {
		select {
		case <-time.After(time.Duration(p.q.PiecePause * 1e9)):
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		}
	}
	p.sent++
	return copy(b, strings.Repeat("x", p.q.Body/p.q.Pieces)), nil
}

// curl holds one conversation in one run of curl. Pauses between requests are
// made with --rate, so all must be the same.
func (s *script) curl(steps []step, log *eventLog) {
	var args []string
	pause := 0.0
	for i, q := range steps {
		if i == 0 {
			sleep(q.Pause)
		} else {
			args = append(args, "--next")
			pause = max(pause, q.Pause)
		}
		args = append(args, "-s", "-k", "--http1.1", "-o", "/dev/null", "-w", "%{json}\n", "-X", q.Method)
		if s.TLS == "1.2" {
			args = append(args, "--tls-max", "1.2")
		}
		if q.Timeout > 0 {
			args = append(args, "-m", fmt.Sprint(q.Timeout))
		}
		if q.Body > 0 {
			args = append(args, "-H", "Expect:", "--data-binary", strings.Repeat("x", q.Body))
		}
		args = append(args, s.Base+q.Target)
	}
	if pause > 0 {
		args = append([]string{"--rate", fmt.Sprintf("%.0f/h", 3600/pause)}, args...)
	}
	start := time.Now()
	out, err := exec.Command("curl", args...).Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "curl:", err)
		return
	}
	// The requests of one run follow each other; when each began is only known
	// from how long it took.
	began := start
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	for i, q := range steps {
		if i >= len(lines) {
			return
		}
		var w struct {
			Status int     `json:"http_code"`
			Exit   int     `json:"exitcode"`
			Error  string  `json:"errormsg"`
			Port   int     `json:"local_port"`
			Bytes  int64   `json:"size_download"`
			Total  float64 `json:"time_total"`
		}
		if err := json.Unmarshal(lines[i], &w); err != nil {
			fmt.Fprintf(os.Stderr, "curl said %q: %v\n", lines[i], err)
			return
		}
		if i > 0 {
			began = began.Add(time.Duration(pause * 1e9))
		}
		e := event{Who: "client", Client: "curl", ID: q.ID, Start: epoch(began), Status: w.Status, Bytes: w.Bytes,
			End: epoch(began) + w.Total, OK: w.Exit == 0}
		if w.Port != 0 {
			e.Ports = []int{w.Port}
		}
		if w.Exit != 0 {
			e.Error = fmt.Sprintf("curl: (%d) %s", w.Exit, w.Error)
		}
		log.add(e)
	}
}
