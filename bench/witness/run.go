//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"whyreset/bench/netns"
)

// A clientKind is a client program and how this bench runs it.
type clientKind struct {
	name    string
	command string // must be installed; empty: this program itself
	version []string
	args    []string
	script  string // of the embedded programs
	// ports says that the program logs the local port of each attempt, without
	// which a request under TLS cannot be told from others.
	ports bool
}

func clientKinds() []clientKind {
	python := []string{"-c", "import requests, urllib3; print('requests', requests.__version__, 'urllib3', urllib3.__version__)"}
	return []clientKind{
		{name: "go", args: []string{"call", "go"}, ports: true},
		// Of the ports, it tells the last attempt's only.
		{name: "curl", command: "curl", version: []string{"--version"}, args: []string{"call", "curl"}},
		{name: "http", command: "node", version: []string{"--version"}, script: "client.js", args: []string{"http"}, ports: true},
		{name: "fetch", command: "node", version: []string{"--version"}, script: "client.js", args: []string{"fetch"}, ports: true},
		{name: "requests", command: "/usr/bin/python3", version: python, script: "client.py", args: []string{"requests"}, ports: true},
		{name: "httpclient", command: "/usr/bin/python3", version: []string{"--version"}, script: "client.py", args: []string{"httpclient"}, ports: true},
		{name: "aiohttp", command: "/usr/bin/python3", version: []string{"-c", "import aiohttp; print('aiohttp', aiohttp.__version__)"}, script: "client.py", args: []string{"aiohttp"}},
	}
}

// clients returns those that a case wants and that are installed, by name, in
// order. Under TLS, only those that log their ports.
func clients(tls string, names ...string) []clientKind {
	var all []clientKind
	for _, k := range clientKinds() {
		if (len(names) == 0 || slices.Contains(names, k.name)) && (tls == "" || k.ports) && installed(k.command, k.version) {
			all = append(all, k)
		}
	}
	return all
}

// said holds what programs say about themselves, by command line: the first line,
// or nothing if the program is not there, or not whole.
var said sync.Map

// versionOf returns the first line that a program says about itself.
func versionOf(command string, args []string) string {
	key := command + " " + strings.Join(args, " ")
	if v, ok := said.Load(key); ok {
		return v.(string)
	}
	line := ""
	if out, err := exec.Command(command, args...).CombinedOutput(); err == nil {
		first, _, _ := bytes.Cut(out, []byte("\n"))
		line = strings.TrimSpace(string(first[:min(60, len(first))])) // curl lists its libraries
	}
	said.Store(key, line)
	return line
}

// clients returns the clients for this run: where it must be small, so many of
// those that there are, others for each case.
func (r *run) clients(most int) []clientKind {
	all := clients(r.header.TLS)
	if !r.small || len(all) <= most {
		return all
	}
	h := fnv.New32a()
	h.Write([]byte(r.header.Case))
	at := int(h.Sum32() % uint32(len(all)))
	var some []clientKind
	for i := range most {
		some = append(some, all[(at+i*len(all)/most)%len(all)])
	}
	return some
}

// installed reports whether a program is there; the empty name is this program.
func installed(command string, version []string) bool {
	return command == "" || versionOf(command, version) != ""
}

// serve starts a server of the given kind.
func (r *run) serve(k serverKind, o options) (*proc, error) {
	r.header.Server = k.name
	if o.idle == 0 {
		o.idle = 5
	}
	from, to := k.idle(time.Duration(o.idle) * time.Second)
	r.header.Earliest, r.header.Latest = from.Seconds(), to.Seconds()
	if k.early {
		r.header.Earliest = 0
	}
	o.tls = r.header.TLS != ""
	p, err := k.start(r.lab, o)
	if err == nil {
		time.Sleep(250 * time.Millisecond) // it listens; let it come to rest
	}
	return p, err
}

// step gives the step an id and a target, and notes what it provokes. The action
// is for the server's application: see act.
func (r *run) step(q step, label, do string) step {
	r.n++
	q.ID = fmt.Sprintf("%s-%d", label, r.n)
	q.Target = "/w/" + r.header.Case + "/" + q.ID
	if do != "" {
		q.Target += "?do=" + do
	}
	if q.Method == "" {
		q.Method = "GET"
	}
	r.steps[q.ID] = q
	return q
}

// converse makes the steps one conversation: each knows the one before it.
func (r *run) converse(steps ...step) []step {
	for i := 1; i < len(steps); i++ {
		r.prev[steps[i].ID] = steps[i-1].ID
	}
	return steps
}

// A place is where clients run and what they connect to.
type place struct {
	ns   *netns.Namespace
	addr string
	port int
}

// call starts a client on its conversations.
func (r *run) call(k clientKind, linger float64, conns [][]step) (*proc, error) {
	return r.callAt(place{r.client, r.addr, port}, k, linger, conns)
}

func (r *run) callAt(at place, k clientKind, linger float64, conns [][]step) (*proc, error) {
	s := script{Base: fmt.Sprintf("http://%s:%d", at.addr, at.port), Conn: conns, Linger: linger}
	if r.header.TLS != "" {
		s.Base, s.TLS = "https"+strings.TrimPrefix(s.Base, "http"), r.header.TLS
	}
	in, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	command, args := k.command, k.args
	switch {
	case k.script != "":
		file, err := r.program(k.script)
		if err != nil {
			return nil, err
		}
		args = append([]string{file}, args...)
	default:
		command = self
	}
	return r.start(at.ns, "client."+k.name+".log", bytes.NewReader(in), command, args...)
}

// raw runs the raw client on its connections.
func (r *run) raw(conns [][]op) (*proc, error) {
	for _, ops := range conns {
		last := ""
		for _, o := range ops {
			for _, id := range o.IDs {
				r.steps[id] = step{ID: id, Cause: r.steps[id].Cause}
				r.prev[id] = last
				last = id
			}
		}
	}
	in, err := json.Marshal(script{Host: fmt.Sprintf("%s:%d", r.addr, port), Raw: conns})
	if err != nil {
		return nil, err
	}
	return r.start(r.client, "client.raw.log", bytes.NewReader(in), self, "call", "raw")
}

// text returns a request of the raw client, and notes what it provokes. more are
// header fields, each with its line end.
func (r *run) text(cause, label, do, method, more, body string) (id, text string) {
	q := r.step(step{Method: method, Cause: cause}, label, do)
	return q.ID, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: w\r\n%s\r\n%s", method, q.Target, more, body)
}

// waitAll waits for clients to end.
func waitAll(procs []*proc, limit time.Duration) error {
	for _, p := range procs {
		if err := p.wait(limit); err != nil {
			return err
		}
	}
	return nil
}
