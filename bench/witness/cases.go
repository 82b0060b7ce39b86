//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// A witnessCase is one situation in a lab of its own.
type witnessCase struct {
	name   string
	delay  time.Duration
	tls    string
	server string // the kind, for what must be installed
	// ci says that "make test" runs it.
	ci bool
	// keep says that its captures are small and telling enough to be committed.
	keep bool
	// filter is what to capture; tcp port 9000 if it is empty.
	filter string
	needs  []string // more programs
	act    func(r *run) error
}

// delays are one way. 0 is loopback.
var delays = []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond}

// cases returns every case.
func cases() []witnessCase {
	var all []witnessCase
	add := func(c witnessCase) { all = append(all, c) }
	for _, k := range serverKinds() {
		for i, d := range delays {
			if k.name != "gunicorn-sync" { // it closes after each response
				add(witnessCase{name: fmt.Sprintf("race-%s-%v", k.name, d), delay: d, server: k.name, ci: k.command == "" && i > 0, keep: i > 0, act: raceCase(k)})
			}
			if i != 1 || k.name == "go" {
				add(witnessCase{name: fmt.Sprintf("faults-%s-%v", k.name, d), delay: d, server: k.name, ci: k.command == "" && i == 1, keep: i == 2, act: faultCase(k)})
			}
			if i == 1 || i == 2 {
				add(witnessCase{name: fmt.Sprintf("kill-%s-%v", k.name, d), delay: d, server: k.name, keep: i == 1, act: killCase(k)})
				add(witnessCase{name: fmt.Sprintf("reload-%s-%v", k.name, d), delay: d, server: k.name, keep: i == 1, act: reloadCase(k)})
			}
			if i == 1 {
				if k.limit {
					add(witnessCase{name: fmt.Sprintf("limit-%s-%v", k.name, d), delay: d, server: k.name, keep: true, act: limitCase(k)})
				}
			}
			if i == 1 && k.name != "gunicorn-sync" {
				add(witnessCase{name: fmt.Sprintf("raw-%s-%v", k.name, d), delay: d, server: k.name, keep: true, ci: k.command == "", act: rawCase(k)})
			}
		}
		if !k.tls {
			continue
		}
		for _, v := range []string{"1.2", "1.3"} {
			const d = 5 * time.Millisecond
			if k.name != "gunicorn-sync" {
				add(witnessCase{name: fmt.Sprintf("race-%s-tls%s", k.name, v), delay: 20 * time.Millisecond, tls: v, server: k.name, keep: v == "1.3" && slices.Contains([]string{"go", "nginx", "node", "apache", "java"}, k.name) || v == "1.2" && k.name == "haproxy", act: raceCase(k)})
			}
			add(witnessCase{name: fmt.Sprintf("faults-%s-tls%s", k.name, v), delay: d, tls: v, server: k.name, ci: k.command == "" && v == "1.3", keep: (k.command == "" || k.name == "java") && v == "1.3", act: faultCase(k)})
			add(witnessCase{name: fmt.Sprintf("kill-%s-tls%s", k.name, v), delay: d, tls: v, server: k.name, act: killCase(k)})
		}
	}
	return append(append(all, proxyCases()...), networkCases()...)
}

// raceCase aims requests at the server's idle timer: they arrive from a little
// before it to a little after the close could have been known. One more follows,
// on whatever connection there then is, and then the timer is left alone.
func raceCase(k serverKind) func(r *run) error {
	return func(r *run) error {
		if _, err := r.serve(k, options{idle: 1}); err != nil {
			return err
		}
		if err := r.captureAll(); err != nil {
			return err
		}
		n := 10
		if r.small {
			n = 6
		}
		from, to := k.idle(time.Second)
		// A server that looks at its clock once a second can close at any moment of
		// the tolerance: most requests would be before or after.
		span := (2*r.delay + min(to-from, 300*time.Millisecond) + 8*time.Millisecond).Seconds()
		var procs []*proc
		for _, c := range r.clients(2) {
			var conns [][]step
			for i := range n {
				pause := max(0.05, (from-2*r.delay).Seconds()-0.004+span*(float64(i)+rand.Float64())/float64(n))
				q := step{Pause: pause, Cause: "idle-timer"}
				if i%2 == 1 {
					q.Method, q.Body = "POST", 40
				}
				after := step{Pause: 0.1, Cause: "idle-timer", Method: "POST", Body: 40}
				first := step{Cause: "", Pause: 0.02 * float64(i)}
				if c.name == "curl" {
					// One pause for all.
					conns = append(conns, r.converse(r.step(first, c.name, ""), r.step(q, c.name, "")))
					continue
				}
				conns = append(conns, r.converse(r.step(first, c.name, ""), r.step(q, c.name, ""), r.step(after, c.name, "")))
			}
			p, err := r.call(c, to.Seconds()+0.2, conns)
			if err != nil {
				return err
			}
			procs = append(procs, p)
		}
		// A client that never looks at its socket before it writes.
		var late [][]op
		for i := range 4 {
			id1, first := r.text("", "raw", "", "GET", "", "")
			id2, second := r.text("late-reuse", "raw", "", "POST", "Content-Length: 3\r\n", "abc")
			late = append(late, []op{{Pause: 0.05 * float64(i), Send: first, IDs: []string{id1}, Read: 5, Want: 1},
				{Pause: to.Seconds() + 0.8, Send: second, IDs: []string{id2}, Read: 2, Finish: "fin"}})
		}
		if r.header.TLS == "" {
			p, err := r.raw(late)
			if err != nil {
				return err
			}
			procs = append(procs, p)
		}
		return waitAll(procs, 30*time.Second)
	}
}

// faultCase has the server's application, and the clients, fail in every way
// that they can, on fresh connections and on reused ones.
func faultCase(k serverKind) func(r *run) error {
	return func(r *run) error {
		if _, err := r.serve(k, options{idle: 5}); err != nil {
			return err
		}
		if err := r.captureAll(); err != nil {
			return err
		}
		// TLS does not compress.
		big, body, upload := "big", 20000, 160000
		if r.small && r.header.TLS != "" {
			big, body, upload = "big100", 2000, 8000
		}
		var procs []*proc
		for _, c := range r.clients(1) {
			var conns [][]step
			start := 0.0
			add := func(q step, do string) {
				for _, reused := range []bool{false, true} {
					q := q
					start += 0.02
					if reused && r.small && r.header.TLS != "" {
						continue
					}
					if !reused || c.name == "curl" {
						q.Pause = start
						conns = append(conns, r.converse(r.step(q, c.name, do)))
						continue
					}
					q.Pause = 0.3
					conns = append(conns, r.converse(r.step(step{Pause: start}, c.name, ""), r.step(q, c.name, do)))
				}
			}
			add(step{Cause: "client-timeout", Method: "POST", Body: 30, Timeout: 0.5}, "slow1500")
			add(step{Cause: "client-timeout", Timeout: 0.5}, "slow1500")
			add(step{Cause: "truncated-body"}, "trunc")
			add(step{Cause: "truncated-body"}, "truncchunk")
			add(step{Method: "POST", Body: body}, "")
			add(step{}, big)
			if c.name != "curl" {
				add(step{Cause: "client-cancel", ReadOnly: 1000}, big)
				if c.script != "client.py" || c.name == "aiohttp" { // others wait for each write, not for the whole
					add(step{Cause: "client-upload", Method: "POST", Body: 6000, Pieces: 3, PiecePause: 0.4, Timeout: 0.6}, "")
				}
				add(step{Cause: "slow-upload", Method: "POST", Body: 4000, Pieces: 2, PiecePause: 4.2}, "")
				add(step{Cause: "early-413", Method: "POST", Body: upload, Pieces: 20, PiecePause: 0.02}, "unread")
				add(step{Cause: "", Close: true}, "slow60")
			}
			add(step{Cause: "early-413", Method: "POST", Body: upload * 3 / 4}, "unread")
			for _, do := range k.crashes {
				if do == "reset" && r.header.TLS != "" {
					continue // what is below TLS is out of the application's hands
				}
				cause := map[string]string{"crash": "crash", "reset": "reset", "unreadclose": "unread-close"}[do]
				add(step{Cause: cause, Method: "POST", Body: 40}, do)
			}
			p, err := r.call(c, 0.3, conns)
			if err != nil {
				return err
			}
			procs = append(procs, p)
		}
		// Some connections are left to the server's timer, which is then known.
		var idle [][]step
		for i := range 4 {
			idle = append(idle, []step{r.step(step{Pause: 0.1 * float64(i)}, "idle", "")})
		}
		_, to := k.idle(5 * time.Second)
		p, err := r.call(clientKinds()[0], to.Seconds()+0.3, idle)
		if err != nil {
			return err
		}
		return waitAll(append(procs, p), 40*time.Second)
	}
}

// load sends a steady load from every client: short requests, and on every third
// one slow or large one.
func (r *run) load(cause string, seconds float64, gap float64) ([]*proc, error) {
	var procs []*proc
	workers := 3
	if r.small {
		workers, seconds = 1, seconds*0.7
	}
	for _, c := range r.clients(3) {
		if c.name == "curl" {
			continue
		}
		var conns [][]step
		for w := range workers {
			var steps []step
			for n := range int(seconds / (gap + 0.02)) {
				q := step{Cause: cause, Pause: gap}
				do := ""
				switch {
				case (n+w)%3 == 0 && cause != "limit":
					do = "slow60"
				case (n+w)%3 == 1 && w == 2 && cause == "kill":
					do = "big"
				case n%2 == 1:
					q.Method, q.Body = "POST", 40
				}
				steps = append(steps, r.step(q, c.name, do))
			}
			conns = append(conns, r.converse(steps...))
		}
		p, err := r.call(c, 0.3, conns)
		if err != nil {
			return nil, err
		}
		procs = append(procs, p)
	}
	return procs, nil
}

// underWay waits until every client has had an answer.
func underWay(procs []*proc) {
	for range 100 {
		n := 0
		for _, p := range procs {
			if info, err := os.Stat(p.log); err == nil && info.Size() > 0 {
				n++
			}
		}
		if n == len(procs) {
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
}

// killCase kills the server, with all of its processes, under load.
func killCase(k serverKind) func(r *run) error {
	return underLoad(k, "kill", func(p *proc) { p.kill() })
}

// reloadCase tells the server to reload, or to end gracefully, under load.
func reloadCase(k serverKind) func(r *run) error {
	return underLoad(k, "reload", func(p *proc) { p.signal(k.reload) })
}

// underLoad does something to the server while clients are busy with it.
func underLoad(k serverKind, cause string, do func(*proc)) func(r *run) error {
	return func(r *run) error {
		p, err := r.serve(k, options{})
		if err != nil {
			return err
		}
		if err := r.captureAll(); err != nil {
			return err
		}
		procs, err := r.load(cause, 2, 0.03)
		if err != nil {
			return err
		}
		underWay(procs)
		do(p)
		return waitAll(procs, 30*time.Second)
	}
}

// limitCase has few requests allowed on a connection, or to a worker.
func limitCase(k serverKind) func(r *run) error {
	return func(r *run) error {
		if _, err := r.serve(k, options{limit: 10}); err != nil {
			return err
		}
		if err := r.captureAll(); err != nil {
			return err
		}
		procs, err := r.load("limit", 1, 0.005)
		if err != nil {
			return err
		}
		return waitAll(procs, 30*time.Second)
	}
}

// rawCase does what no library would: pipelining behind a close, stalling in the
// header, reuse after an announced close, and the like.
func rawCase(k serverKind) func(r *run) error {
	return func(r *run) error {
		if _, err := r.serve(k, options{idle: 4}); err != nil {
			return err
		}
		if err := r.captureAll(); err != nil {
			return err
		}
		get := func(cause, do, more string) (string, string) { return r.text(cause, "raw", do, "GET", more, "") }
		const bye = "Connection: close\r\n"
		var conns [][]op

		pipeline := op{Read: 3, Finish: "fin"}
		for i := range 5 {
			cause, more := "pipeline", ""
			if i == 1 {
				more = bye
			}
			if i > 1 {
				cause = "pipeline-close"
			}
			id, text := get(cause, "", more)
			pipeline.IDs = append(pipeline.IDs, id)
			pipeline.Send += text
		}
		conns = append(conns, []op{pipeline})

		whole := op{Read: 5, Want: 4, Finish: "fin"}
		for range 4 {
			id, text := get("pipeline", "", "")
			whole.IDs = append(whole.IDs, id)
			whole.Send += text
		}
		conns = append(conns, []op{whole})

		// The second one while the first is being handled.
		id1, first := get("pipeline-first", "slow200", bye)
		id2, second := r.text("pipeline-close", "raw", "", "POST", "Content-Length: 3\r\n", "abc")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}}, {Pause: 0.05, Send: second, IDs: []string{id2}, Read: 3, Finish: "fin"}})

		id1, first = get("", "", "")
		id2, second = get("slow-head", "", "")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}, Read: 5, Want: 1}, {Pause: 0.3, Send: second[:len(second)-14], IDs: []string{id2}, Read: 8, Finish: "fin"}})
		id1, first = get("slow-head", "", "")
		conns = append(conns, []op{{Send: first[:len(first)-14], IDs: []string{id1}, Read: 8, Finish: "fin"}})
		id1, first = r.text("slow-upload", "raw", "", "POST", "Content-Length: 1000\r\n", "partial")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}, Read: 8, Finish: "fin"}})

		id1, first = get("client-reset", "slow500", "")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}}, {Pause: 0.15, Finish: "rst"}})
		id1, first = get("half-close", "slow300", "")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}, Half: true, Read: 4, Finish: "fin"}})

		id1, first = get("", "", bye)
		id2, second = get("announced-reuse", "", "")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}, Read: 5, Want: 1}, {Pause: 0.5, Send: second, IDs: []string{id2}, Read: 2, Finish: "fin"}})

		id1, first = get("", "", "")
		id2, second = r.text("late-reuse", "raw", "", "POST", "Content-Length: 3\r\n", "abc")
		_, to := k.idle(4 * time.Second)
		conns = append(conns, []op{{Send: first, IDs: []string{id1}, Read: 5, Want: 1}, {Pause: to.Seconds() + 0.8, Send: second, IDs: []string{id2}, Read: 2, Finish: "fin"}})

		id1, first = get("idle-first-use", "", "")
		conns = append(conns, []op{{Pause: 2.6, Send: first, IDs: []string{id1}, Read: 2, Finish: "fin"}})

		p, err := r.raw(conns)
		if err != nil {
			return err
		}
		return p.wait(40 * time.Second)
	}
}

// captureAll begins the capture of the watched port.
func (r *run) captureAll() error { return r.capture(fmt.Sprintf("tcp port %d", port)) }

// proxyCases have nginx and HAProxy as clients, with a pool of connections to
// the server on the other side of the wire.
func proxyCases() []witnessCase {
	var all []witnessCase
	for _, proxy := range []struct{ name, conf string }{
		{"nginx", `daemon off; worker_processes 1; pid %[1]s/proxy/pid; error_log %[1]s/proxy/err info; user root;
events {}
http {
	access_log %[1]s/proxy/access.log;
	upstream u { server %[2]s:%[3]d; keepalive 50; }
	server { listen 127.0.0.1:%[4]d; location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 700ms; } }
}
`},
		{"haproxy", `global
 log stdout format raw local0
defaults
 mode http
 log global
 timeout client 10s
 timeout server 700ms
 timeout connect 3s
 http-reuse always
frontend f
 bind 127.0.0.1:%[4]d
 default_backend b
backend b
 server s %[2]s:%[3]d pool-max-conn 100
`}} {
		for _, k := range serverKinds() {
			if k.name != "go" && k.name != "node" && k.name != "apache" && k.name != "gunicorn" {
				continue
			}
			all = append(all, witnessCase{
				name: "proxy-" + proxy.name + "-" + k.name, delay: 20 * time.Millisecond, server: k.name, needs: []string{proxy.name}, keep: k.name == "go",
				act: func(r *run) error {
					if _, err := r.serve(k, options{idle: 1}); err != nil {
						return err
					}
					file, err := r.write("proxy/conf", fmt.Sprintf(proxy.conf, r.dir, r.addr, port, proxyPort))
					if err != nil {
						return err
					}
					args := []string{"-c", file, "-p", r.file("proxy")}
					if proxy.name == "haproxy" {
						args = []string{"-f", file}
					}
					p, err := r.start(r.client, "proxy.log", nil, proxy.name, args...)
					if err != nil {
						return err
					}
					if err := p.listening(proxyPort); err != nil {
						return err
					}
					if err := r.captureAll(); err != nil {
						return err
					}
					return r.throughProxy(k)
				}})
		}
	}
	return all
}

func (r *run) throughProxy(k serverKind) error {
	from, to := k.idle(time.Second)
	const n = 20
	span := (2*r.delay + min(to-from, 300*time.Millisecond) + 8*time.Millisecond).Seconds()
	var procs []*proc
	for _, c := range clients("", "go", "requests") {
		var conns [][]step
		for i := range n {
			q := step{Pause: (from - 2*r.delay).Seconds() - 0.004 + span*float64(i)/n, Cause: "pooled"}
			if i%2 == 1 {
				q.Method, q.Body = "POST", 40
			}
			slow := step{Pause: 0.1, Cause: "pooled-slow", Method: "POST", Body: 40}
			conns = append(conns, r.converse(r.step(step{Pause: 0.01 * float64(i), Cause: "pooled"}, c.name, ""), r.step(q, c.name, ""), r.step(slow, c.name, "slow1500")))
		}
		p, err := r.callAt(place{r.client, "127.0.0.1", proxyPort}, c, 0.2, conns)
		if err != nil {
			return err
		}
		procs = append(procs, p)
	}
	return waitAll(procs, 30*time.Second)
}
