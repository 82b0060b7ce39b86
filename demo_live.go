package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"sync"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
	"whyreset/report"
)

const demoLiveFaulty = `A Go server and some Go clients, in a network namespace of their own. A client posts
again after about 300 ms, and just then the server closes its connection:

    server := http.Server{IdleTimeout: 300 * time.Millisecond}
    resp, err := http.Post("http://127.0.0.1:9000/test", "text/json", nil)

Now and then err is "EOF" or "connection reset by peer". The network? An overloaded
server? A firewall? The log says the same for all of them. This is what the packets
say, as they pass:

$ whyreset -i lo
`

const demoLiveFixed = `
The request and the server's close cross, or the client has not looked yet. The remedy
is to make the client's idle timeout the shorter one. The same program, again live, with

    http.Transport{IdleConnTimeout: 100 * time.Millisecond}

$ whyreset -i lo
`

const demoLiveEnd = `
Your turn:    sudo whyreset -i any -p 8080
              sudo whyreset --container web
More on it:   whyreset explain idle-race
`

const demoLiveNone = `
Nothing was lost this time: that is how such a race hides. The captures that come
with the program hold some.

`

// The demo's program.
const (
	demoAddr    = "127.0.0.1:9000"
	demoIdle    = 300 * time.Millisecond // of the server
	demoShort   = 100 * time.Millisecond // of the client, repaired
	demoClients = 8
	// demoEnough is how many lost requests do for a demonstration; it ends when
	// they have been seen, after demoLeast.
	demoEnough = 4
	demoLeast  = 3 * time.Second
	demoMost   = 6500 * time.Millisecond
)

// liveDemo runs the program, twice, and watches it on the wire. An error that is
// not nil means that it may not, or that nothing was lost, and that nothing else
// has been done.
func (c *command) liveDemo(ctx context.Context) (status int, err error) {
	if c.drop == nil { // a test
		return 0, errors.ErrUnsupported
	}
	var programs [2]*demoProgram
	for i := range programs {
		p, err := startDemo()
		if err != nil {
			return 0, err
		}
		defer p.close()
		programs[i] = p
	}
	if err := c.drop(nil); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		c.complain(fmt.Errorf("give up privileges: %w", err))
		return exitError, nil
	}
	if err := printf(c.stdout, "%s\n", demoLiveFaulty); err != nil {
		return c.finish(err), nil
	}
	status, lost := c.watchDemo(ctx, programs[0], &http.Transport{}, demoMost)
	if status != exitOK || ctx.Err() != nil {
		return status, nil
	}
	if lost == 0 {
		return 0, errNothingLost
	}
	if err := printf(c.stdout, "%s\n", demoLiveFixed); err != nil {
		return c.finish(err), nil
	}
	status, _ = c.watchDemo(ctx, programs[1], &http.Transport{IdleConnTimeout: demoShort}, demoLeast)
	if status != exitOK || ctx.Err() != nil {
		return status, nil
	}
	return c.finish(printf(c.stdout, "%s", demoLiveEnd)), nil
}

var errNothingLost = errors.New("nothing was lost")

// watchDemo lets clients loose and explains what happens, as it does.
func (c *command) watchDemo(ctx context.Context, p *demoProgram, t *http.Transport, most time.Duration) (status, lost int) {
	c.live = &live{duration: most}
	stop := p.run(t)
	defer stop()
	j := newJob(c, report.Options{Color: wantsColor(c.stdout)}, p.facts)
	j.eager = true
	few := &demoFindingsLive{firstFindings: firstFindings{Writer: j.writer, out: j.out}, program: p, began: time.Now()}
	j.writer = few
	w := &watcher{job: j, command: c, src: p.src, facts: p.facts, summary: notifySummary()}
	stopped := w.run(ctx)
	w.complainOf(p.facts.last(w.tracker))
	return c.conclude(j, p.src, stopped), few.n
}

// demoFindingsLive shows the first finding of each verdict, with what the client
// read, and ends the demonstration when enough was seen.
type demoFindingsLive struct {
	firstFindings
	program *demoProgram
	began   time.Time
	seen    []correlate.Verdict
}

func (w *demoFindingsLive) Finding(f *correlate.Finding) error {
	if w.n+1 >= demoEnough && time.Since(w.began) >= demoLeast {
		w.program.src.Stop()
	}
	if slices.Contains(w.seen, f.Verdict) {
		w.n++
		return nil
	}
	w.seen = append(w.seen, f.Verdict)
	if said := w.program.errorOf(f.Connection.Client.Port); said != "" && w.shown < demoFindings {
		before, after := "\n", "" // as there is before every finding but the first
		if w.shown == 0 {
			before, after = after, before
		}
		if _, err := fmt.Fprintf(w.out, "%sthe client's log: %s\n%s", before, oneLine(said), after); err != nil {
			return err
		}
	}
	return w.firstFindings.Finding(f)
}

// A demoProgram is a server in a namespace of its own, and what watches it.
type demoProgram struct {
	src    *capture.Live
	facts  *beside // nil where the kernel may not be asked
	server *http.Server
	dials  chan demoDial // to the thread that is inside

	mu   sync.Mutex
	errs map[uint16]string // what clients read, by their ports
}

// A demoDial asks for a connection.
type demoDial struct {
	ctx   context.Context
	reply chan<- demoConn
}

type demoConn struct {
	conn net.Conn
	err  error
}

// startDemo makes the namespace, and opens in it everything that takes a
// privilege.
func startDemo() (_ *demoProgram, err error) {
	space, err := capture.NewNamespace()
	if err != nil {
		return nil, err
	}
	p := &demoProgram{dials: make(chan demoDial), errs: map[uint16]string{}}
	p.src, err = capture.OpenLive(capture.LiveConfig{
		Places: []capture.Place{{Interfaces: []string{"lo"}, Enter: space.Enter}},
		Buffer: 8 << 20, // there is little to see
	})
	if err != nil {
		space.Close()
		return nil, err
	}
	p.facts, _ = factsBeside(capture.Filter{}, map[uint64]string{space.Inode(): ""}, p.src.Zones())
	p.facts.look(capture.Place{Enter: space.Enter})
	listening := make(chan error, 1)
	var ln net.Listener
	go func() {
		// Nothing is dialled outside of this thread.
		err := space.Enter(func() (err error) {
			ln, err = net.Listen("tcp", demoAddr)
			listening <- err
			for d := range p.dials {
				conn, err := new(net.Dialer).DialContext(d.ctx, "tcp", demoAddr)
				d.reply <- demoConn{conn, err}
			}
			return nil
		})
		if err != nil {
			listening <- err
		}
	}()
	err = <-listening
	space.Close() // who is inside is inside
	if err != nil {
		p.close()
		return nil, err
	}
	p.server = &http.Server{
		IdleTimeout: demoIdle,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "ok\n")
		}),
	}
	go p.server.Serve(ln)
	return p, nil
}

func (p *demoProgram) close() {
	if p.server != nil {
		p.server.Close()
	}
	p.facts.close()
	p.src.Close()
	close(p.dials)
}

// run has clients post until stop is called.
func (p *demoProgram) run(t *http.Transport) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range demoClients {
		t := t.Clone()
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			reply := make(chan demoConn, 1)
			select {
			case p.dials <- demoDial{ctx, reply}:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			made := <-reply
			return made.conn, made.err
		}
		wg.Go(func() {
			defer t.CloseIdleConnections()
			p.post(ctx, &http.Client{Transport: t})
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// post sends requests one by one, and moves its pause to where they get lost: the
// demonstration has to be short. A pause after which the connection was still
// there was too short, one after which it was gone too long.
func (p *demoProgram) post(ctx context.Context, client *http.Client) {
	pause, step := demoIdle, time.Millisecond
	const finest = 50 * time.Microsecond
	for last := true; ; {
		select {
		case <-time.After(pause + rand.N(step) - step/2):
		case <-ctx.Done():
			return
		}
		var got httptrace.GotConnInfo
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { got = info }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, "http://"+demoAddr+"/test", nil)
		if err != nil {
			return // not with this URL
		}
		req.Header.Set("Content-Type", "text/json")
		resp, err := client.Do(req)
		if err != nil {
			if ctx.Err() == nil {
				p.note(got.Conn, err)
			}
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if got.Reused != last {
			step = max(step/2, finest)
		}
		last = got.Reused
		if got.Reused {
			pause += step
		} else {
			pause -= step
		}
	}
}

// note keeps what a client read.
func (p *demoProgram) note(c net.Conn, err error) {
	if c == nil {
		return
	}
	if addr, e := netip.ParseAddrPort(c.LocalAddr().String()); e == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.errs[addr.Port()] = err.Error()
	}
}

// errorOf returns what a client read last on a port, "" if nothing went wrong.
func (p *demoProgram) errorOf(port uint16) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errs[port]
}
