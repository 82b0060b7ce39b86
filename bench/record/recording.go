//go:build linux

package main

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"whyreset/bench/netns"
	"whyreset/bench/sniff"
	"whyreset/bench/trial"
	"whyreset/bench/wire"
)

// A place is where a run happens: a client's and a server's namespace, which
// may be the same one, and where to capture.
type place struct {
	client, server *netns.Namespace
	addr           string
	wire           *wire.Wire // nil on loopback
	taps           []tap
	close          func() error
}

// A tap is one place to capture, and the name of what is captured there.
type tap struct {
	ns          *netns.Namespace
	iface, name string
}

func (r recording) place() (*place, error) {
	if r.delay == 0 {
		ns, err := netns.New("record")
		if err != nil {
			return nil, err
		}
		return &place{client: ns, server: ns, addr: "127.0.0.1:9000",
			taps: []tap{{ns, "lo", "lo"}}, close: ns.Close}, nil
	}
	// Three routers on the way, so that the TTL tells the ends apart.
	w, err := wire.New(wire.Config{ToServer: wire.Link{Delay: r.delay}, ToClient: wire.Link{Delay: r.delay}, Hops: 3})
	if err != nil {
		return nil, err
	}
	iface := wire.Device
	if r.format == anyIface {
		iface = "any"
	}
	return &place{wire: w, client: w.Client, server: w.Server, addr: "10.77.0.2:9000",
		taps: []tap{{w.Client, iface, "client"}, {w.Server, iface, "server"}}, close: w.Close}, nil
}

// record makes the run and its files, and says in a line what came of it.
func (r recording) record(ctx context.Context, dir string) (found string, err error) {
	p, err := r.place()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, p.close()) }()

	var sniffers []*sniff.Sniffer
	for _, t := range p.taps {
		// In immediate mode each slot of the ring has room for a whole snap length
		// of 256 KB: the default buffer of 2 MB holds eight packets.
		s, err := sniff.Start(t.ns, t.iface, r.file(dir, t), "--immediate-mode", "-U", "-B", "32768", "tcp port 9000")
		if err != nil {
			return "", err
		}
		sniffers = append(sniffers, s)
	}
	log := trial.NewLog(nil)
	err = r.traffic(ctx, p, log)
	for _, s := range sniffers {
		_, e := s.Stop()
		err = errors.Join(err, e)
	}
	if err != nil {
		return "", err
	}
	truths := trial.Merge(log.Events())
	for i := range truths {
		truths[i].DelaySeconds = r.delay.Seconds()
	}
	f, err := os.Create(filepath.Join(dir, r.name+".truth.jsonl"))
	if err != nil {
		return "", err
	}
	if err := cmp.Or(trial.WriteTruth(f, truths), f.Close()); err != nil {
		return "", err
	}
	size := int64(0)
	for _, t := range p.taps {
		n, err := r.convert(r.file(dir, t))
		if err != nil {
			return "", err
		}
		size = max(size, n)
	}
	return r.judge(truths, size)
}

// file is where tcpdump writes, before conversion.
func (r recording) file(dir string, t tap) string {
	return filepath.Join(dir, r.name+"."+t.name+".pcap")
}

// traffic runs client and server until every connection has come to its end.
func (r recording) traffic(ctx context.Context, p *place, log *trial.Log) error {
	ln, err := p.server.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	srv := trial.Serve(ln, idleTimeout, log)
	defer srv.Close()
	var clients []*trial.Client
	add := func(mode trial.Mode) (*trial.Client, error) {
		c, err := trial.NewClient("http://"+p.addr, mode, p.client.DialContext, log)
		clients = append(clients, c)
		return c, err
	}
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	newClient := func() (*trial.Client, error) { return add(trial.Faulty) }
	switch {
	case r.faults:
		err = r.commit(ctx, newClient)
	case r.forget:
		err = r.forgetting(ctx, p, newClient)
	default:
		for range r.clients {
			if _, err := add(r.mode); err != nil {
				return err
			}
		}
		trial.Run(ctx, slices.Clone(clients), r.n, 1, r.method, r.schedule, nil)
	}
	// The last connections end by themselves too.
	time.Sleep(idleTimeout + 4*r.delay + 150*time.Millisecond)
	return err
}

// A conversation is what one client says on one connection: a request, and
// another after each pause. The last one meets the fault.
type conversation struct {
	fault  trial.Fault
	pauses []time.Duration
}

// hold holds the conversation; id is the last one in use. Before the last
// request of several, prepare is called with the outcome of the one before.
func (v conversation) hold(ctx context.Context, c *trial.Client, id *int, prepare func(trial.Outcome)) {
	var o trial.Outcome
	for i, pause := range append([]time.Duration{0}, v.pauses...) {
		*id++
		q := trial.Request{ID: *id, Method: "POST", Pause: pause}
		if i == len(v.pauses) {
			q.Fault = v.fault
			if v.fault == trial.ForgetSilent {
				q.Patience = 2200 * time.Millisecond // enough for three retransmissions
			}
			if i > 0 && prepare != nil {
				prepare(o)
			}
		}
		if pause > 0 {
			trial.SleepUntil(o.End.Add(pause))
		}
		o = c.Do(ctx, q)
	}
}

// commit commits every fault on a fresh connection, on one that was reused after
// a pause that is far from the idle timeout, and on one that was reused at the
// very end of it: there, only the server's log tells a fault from a race.
func (r recording) commit(ctx context.Context, newClient func() (*trial.Client, error)) error {
	const ms = time.Millisecond
	// So long a pause makes a request arrive as the timer runs out.
	last := idleTimeout - 2*r.delay
	pause := func(d time.Duration) []time.Duration { return []time.Duration{d} }
	all := []conversation{{pauses: pause(50 * ms)}, {pauses: pause(120 * ms)}, {}, {}}
	for _, f := range trial.Faults() {
		all = append(all, conversation{f, nil}, conversation{f, pause(60 * ms)}, conversation{f, pause(last - 2*ms)})
	}
	for _, f := range []trial.Fault{trial.ReadReset, trial.ReadClose, trial.ClientTimeout} {
		all = append(all, conversation{f, pause(last - ms)}, conversation{f, pause(last - ms/2)})
	}
	// And some meet the timer before they can commit it: a race after all.
	for _, f := range []trial.Fault{trial.ReadReset, trial.HalfClose} {
		all = append(all, conversation{f, pause(last + r.delay)})
	}
	id := 0
	for _, v := range all {
		c, err := newClient()
		if err != nil {
			return err
		}
		v.hold(ctx, c, &id, nil)
		time.Sleep(2 * r.delay)
	}
	return nil
}

// forgetting has a box on the way forget connections while they are idle, well
// before the server's timer would close them.
func (r recording) forgetting(ctx context.Context, p *place, newClient func() (*trial.Client, error)) error {
	id := 0
	var all []conversation
	for _, pause := range []time.Duration{80 * time.Millisecond, 120 * time.Millisecond, 160 * time.Millisecond} {
		for _, f := range []trial.Fault{trial.None, trial.ForgetReset, trial.ForgetSilent} {
			all = append(all, conversation{f, []time.Duration{pause, pause}})
		}
	}
	for _, v := range all {
		c, err := newClient()
		if err != nil {
			return err
		}
		v.hold(ctx, c, &id, func(o trial.Outcome) {
			client, e1 := netip.ParseAddrPort(o.Local)
			server, e2 := netip.ParseAddrPort(o.Remote)
			if err = errors.Join(e1, e2); err != nil || v.fault == trial.None {
				return
			}
			// What is still on its way is the acknowledgement of the response.
			time.Sleep(2 * r.delay)
			p.wire.Forget(wire.Flow{Client: client, Server: server}, wire.Amnesia{Reset: v.fault == trial.ForgetReset, TTL: 255})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// convert gives the capture its format and returns its size.
func (r recording) convert(name string) (int64, error) {
	switch r.format {
	case pcapng:
		out, err := exec.Command("editcap", "-F", "pcapng", name, name+"ng").CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("editcap: %w: %s", err, strings.TrimSpace(string(out)))
		}
		if err := os.Remove(name); err != nil {
			return 0, err
		}
		name += "ng"
	case gzipped:
		if err := compress(name); err != nil {
			return 0, err
		}
		name += ".gz"
	}
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func compress(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(name + ".gz")
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	if _, err := io.Copy(z, in); err != nil {
		out.Close()
		return err
	}
	if err := errors.Join(z.Close(), out.Close()); err != nil {
		return err
	}
	return os.Remove(name)
}

// judge counts what happened, and says whether it is what the run was for.
func (r recording) judge(truths []trial.Truth, size int64) (string, error) {
	lost, failed, retried, resets, ends := 0, 0, 0, 0, 0
	kinds := map[string]int{}
	for _, t := range truths {
		kind := cmp.Or(t.Provoked, t.Error)
		// The tail of an error says what happened, the rest names addresses.
		if i := strings.LastIndex(kind, "\": "); i >= 0 {
			kind = kind[i+3:]
		}
		if strings.HasPrefix(kind, "read tcp") || strings.HasPrefix(kind, "write tcp") {
			kind = kind[strings.LastIndex(kind, ": ")+2:]
		}
		if t.Retried {
			retried++
			kind = "retried"
		}
		if t.Lost {
			lost++
			switch {
			case t.Provoked != "":
			case t.ReadError == "EOF":
				ends++
			default:
				resets++
			}
		}
		if t.Error != "" {
			failed++
		}
		if kind != "" {
			kinds[kind]++
		}
	}
	found := fmt.Sprintf("%d attempts, %d lost (races: %d by reset, %d by end of stream), %d retried, %d bytes:",
		len(truths), lost, resets, ends, retried, size)
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		found += fmt.Sprintf(" %s %d;", k, kinds[k])
	}
	switch {
	case r.none && lost+failed+retried > 0:
		return found, errors.New("requests were lost, and none should have been")
	case lost < r.least:
		return found, fmt.Errorf("only %d requests were lost, want %d: try again", lost, r.least)
	case min(resets, ends) < r.each:
		return found, fmt.Errorf("%d requests were lost by a reset and %d by the end of the stream, want %d each: try again", resets, ends, r.each)
	case size > 100_000:
		return found, fmt.Errorf("captures of %d bytes are too large to keep", size)
	}
	return found, nil
}
