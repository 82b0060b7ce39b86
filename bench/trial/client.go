package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// A Mode is a way to set up the client's transport.
type Mode string

const (
	// Faulty is Go's default transport: it keeps idle connections for longer than
	// the server does.
	Faulty Mode = "faulty"
	// NoKeepAlives sets DisableKeepAlives: a connection per request.
	NoKeepAlives Mode = "no-keepalives"
	// ShortIdle sets an IdleConnTimeout of 100 ms, shorter than the server's.
	ShortIdle Mode = "idle-conn-timeout"
)

// Modes returns every mode.
func Modes() []Mode { return []Mode{Faulty, NoKeepAlives, ShortIdle} }

// ClientPatience is how long a client waits for a response that does not come.
const ClientPatience = 150 * time.Millisecond

// A Dialer opens connections: net.Dialer.DialContext, or a namespace's.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// A Client sends requests one at a time over a transport of its own.
type Client struct {
	http *http.Client
	log  *Log
	base string
}

// NewClient returns a client of the server at base, "http://127.0.0.1:9000".
func NewClient(base string, mode Mode, dial Dialer, log *Log) (*Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	switch mode {
	case Faulty:
	case NoKeepAlives:
		t.DisableKeepAlives = true
	case ShortIdle:
		t.IdleConnTimeout = 100 * time.Millisecond
	default:
		return nil, fmt.Errorf("no mode is called %q", mode)
	}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return logConn(c, log, "client"), nil
	}
	return &Client{http: &http.Client{Transport: t}, log: log, base: base}, nil
}

// Close closes the client's idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A Request is one request to send.
type Request struct {
	ID     int // unique, and not 0
	Method string
	Fault  Fault
	Pause  time.Duration // only logged
	// Patience is the client's time-out; none if it is 0.
	Patience time.Duration
}

// An Outcome is what became of a request, as far as the client knows.
type Outcome struct {
	Status int
	Err    error
	Reused bool // its last attempt was on a connection that had carried a request before
	Tries  int
	Local  string    // the client's address, of the last attempt
	Remote string    // the server's
	End    time.Time // when the client had the whole response or the error
}

// Do sends a request and waits for the whole response.
func (c *Client) Do(ctx context.Context, r Request) Outcome {
	target := fmt.Sprintf("/test?id=%d", r.ID)
	if r.Fault != None && !r.Fault.byBox() {
		target = fmt.Sprintf("/provoke/%s?id=%d", r.Fault, r.ID)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.Patience == 0 && r.Fault == ClientTimeout {
		r.Patience = ClientPatience
	}
	if r.Patience > 0 {
		ctx, cancel = context.WithTimeout(ctx, r.Patience)
		defer cancel()
	}
	var out Outcome
	var local, remote string
	note := func(what string, err error) {
		e := Event{Who: "client", What: what, ID: r.ID, Local: local, Remote: remote}
		if err != nil {
			e.Error = err.Error()
		}
		c.log.add(e)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			local, remote = i.Conn.LocalAddr().String(), i.Conn.RemoteAddr().String()
			out.Reused = i.Reused
			out.Tries++
			c.log.add(Event{Who: "client", What: GotConn, ID: r.ID, Local: local, Remote: remote,
				Reused: i.Reused, IdleSeconds: i.IdleTime.Seconds()})
		},
		WroteHeaders: func() { note(WroteHeader, nil) },
		WroteRequest: func(i httptrace.WroteRequestInfo) { note(WroteAll, i.Err) },
	})
	c.log.add(Event{Who: "client", What: Start, ID: r.ID, Method: r.Method, Target: target, Pause: r.Pause.Seconds()})
	out.Status, out.Err = c.exchange(ctx, cancel, r, target)
	out.End = time.Now()
	out.Local, out.Remote = local, remote
	e := Event{Time: out.End, Who: "client", What: Result, ID: r.ID, Method: r.Method, Target: target,
		Local: local, Remote: remote, Status: out.Status, OK: out.Err == nil}
	if out.Err != nil {
		e.Error = out.Err.Error()
	}
	if r.Fault.ByClient() || r.Fault.byBox() {
		e.Provoked = string(r.Fault)
	}
	c.log.add(e)
	return out
}

func (c *Client) exchange(ctx context.Context, cancel func(), r Request, target string) (status int, err error) {
	var body io.Reader
	var length int64
	switch r.Fault {
	case Early413, Early413Late:
		// The refusal comes after some of these pieces, 15 ms apart.
		body, length = &slowBody{ctx: ctx, piece: 300, left: 15}, 4500
	case ClientUpload:
		// Part of what was announced, and then the client thinks better of it.
		body, length = &slowBody{ctx: ctx, piece: 300, left: 4, then: errGaveUp}, 3600
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, c.base+target, body)
	if err != nil {
		return 0, err
	}
	if length > 0 {
		req.ContentLength = length
	}
	if r.Method == http.MethodPost {
		req.Header.Set("Content-Type", "text/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if r.Fault == ClientCancel {
		if _, err := io.ReadFull(resp.Body, make([]byte, 500)); err != nil {
			return resp.StatusCode, err
		}
		time.Sleep(pace)
		cancel()
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

var errGaveUp = errors.New("the client gave up its upload")

// A slowBody yields pieces with a pause before each, then an error or the end.
type slowBody struct {
	ctx   context.Context
	piece int
	left  int
	then  error
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		if b.then != nil {
			return 0, b.then
		}
		return 0, io.EOF
	}
	select {
	case <-time.After(15 * time.Millisecond):
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	b.left--
	return copy(p, strings.Repeat("x", b.piece)), nil
}
