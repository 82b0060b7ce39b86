//go:build linux

package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
)

const serverAddr = "10.77.0.2:80"

// newWire skips the test where no wire can be made, unless in CI: there, that
// would be taken for a pass.
func newWire(t *testing.T, cfg Config) *Wire {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: a wire needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: a wire needs ip (apt-get install iproute2)")
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// echo listens at the server's end and sends everything back.
func echo(t *testing.T, w *Wire) {
	t.Helper()
	ln, err := w.Server.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

func dial(t *testing.T, w *Wire, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := w.Client.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return c
}

// call sends one message and waits for it to come back.
func call(c net.Conn, msg string) error {
	if _, err := io.WriteString(c, msg); err != nil {
		return err
	}
	buf := make([]byte, len(msg))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if string(buf) != msg {
		return errors.New("other bytes came back")
	}
	return nil
}

func flow(c net.Conn) Flow {
	return Flow{
		Client: c.LocalAddr().(*net.TCPAddr).AddrPort(),
		Server: c.RemoteAddr().(*net.TCPAddr).AddrPort(),
	}
}

func TestDelay(t *testing.T) {
	w := newWire(t, Config{ToServer: Link{Delay: 20 * time.Millisecond}, ToClient: Link{Delay: 10 * time.Millisecond}})
	echo(t, w)
	for _, addr := range []string{serverAddr, "[fd77::2]:80"} {
		start := time.Now()
		dial(t, w, addr)
		// The handshake is over for the client after one round trip. Being late
		// is a busy machine's right; being early is an error.
		if d := time.Since(start); d < 30*time.Millisecond || d > 45*time.Millisecond {
			t.Errorf("handshake with %s took %v, want 30ms", addr, d)
		}
	}
}

func TestShortDelay(t *testing.T) {
	w := newWire(t, Config{ToServer: Link{Delay: 300 * time.Microsecond}, ToClient: Link{Delay: 300 * time.Microsecond}})
	echo(t, w)
	c := dial(t, w, serverAddr)
	best := time.Hour
	for range 20 {
		start := time.Now()
		if err := call(c, "x"); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	if best < 600*time.Microsecond || best > 1500*time.Microsecond {
		t.Errorf("fastest round trip %v, want a little over 600µs", best)
	}
}

func TestJitterKeepsOrder(t *testing.T) {
	var last, early atomic.Uint32
	w := newWire(t, Config{ToServer: Link{Jitter: 3 * time.Millisecond}})
	echo(t, w)
	w.SetLink(Client, Link{Filter: func(p *Packet) Fate {
		// The server's cumulative acknowledgements only go back if its data came
		// out of order and it sent duplicates.
		if p.TCP != nil && p.TCP.ACK {
			if p.TCP.Ack < last.Load() {
				early.Add(1)
			}
			last.Store(p.TCP.Ack)
		}
		return Pass
	}})
	c := dial(t, w, serverAddr)
	for range 50 {
		if err := call(c, strings.Repeat("x", 3000)); err != nil {
			t.Fatal(err)
		}
	}
	if n := early.Load(); n > 0 {
		t.Errorf("%d acknowledgements went back", n)
	}
}

func TestDrop(t *testing.T) {
	var seen atomic.Int32
	w := newWire(t, Config{ToServer: Link{Filter: func(p *Packet) Fate {
		if p.TCP != nil && len(p.TCP.Payload) > 0 && seen.Add(1) == 1 {
			return Lose
		}
		return Pass
	}}})
	echo(t, w)
	c := dial(t, w, serverAddr)
	if err := call(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if n := seen.Load(); n < 2 {
		t.Errorf("data was sent %d times, want a retransmission", n)
	}
	if s := w.Stats(Server); s.Dropped != 1 {
		t.Errorf("stats %+v, want 1 dropped", s)
	}
	w.SetLink(Server, Link{Drop: 1})
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if err := call(c, "hello"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with every packet dropped: %v, want a timeout", err)
	}
}

func TestDuplicate(t *testing.T) {
	w := newWire(t, Config{ToServer: Link{Duplicate: 1}})
	echo(t, w)
	c := dial(t, w, serverAddr)
	if err := call(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if s := w.Stats(Server); s.Delivered < s.Entered+3 {
		t.Errorf("stats %+v, want nearly everything delivered twice", s)
	}
}

func TestReorder(t *testing.T) {
	var held atomic.Bool
	w := newWire(t, Config{ToServer: Link{HoldBack: 30 * time.Millisecond, Filter: func(p *Packet) Fate {
		if p.TCP != nil && len(p.TCP.Payload) > 0 && held.CompareAndSwap(false, true) {
			return Late
		}
		return Pass
	}}})
	sacks := make(chan struct{}, 100)
	w.SetLink(Client, Link{Filter: func(p *Packet) Fate {
		if p.TCP != nil {
			for _, o := range p.TCP.Options {
				if o.OptionType == layers.TCPOptionKindSACK {
					sacks <- struct{}{}
				}
			}
		}
		return Pass
	}})
	echo(t, w)
	c := dial(t, w, serverAddr)
	for _, part := range []string{"first ", "second"} {
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 12)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "first second" {
		t.Fatalf("read %q, %v", got, err)
	}
	select {
	case <-sacks: // the second message came first
	case <-time.After(time.Second):
		t.Error("the server never saw a gap")
	}
	if s := w.Stats(Server); s.Reordered != 1 {
		t.Errorf("stats %+v, want 1 reordered", s)
	}
}

func TestInject(t *testing.T) {
	type segment struct{ seq, ack uint32 }
	last := make(chan segment, 100)
	w := newWire(t, Config{ToServer: Link{Filter: func(p *Packet) Fate {
		if p.TCP != nil && len(p.TCP.Payload) > 0 {
			last <- segment{p.TCP.Seq + uint32(len(p.TCP.Payload)), p.TCP.Ack}
		}
		return Pass
	}}})
	echo(t, w)
	c := dial(t, w, serverAddr)
	if err := call(c, "hello"); err != nil {
		t.Fatal(err)
	}
	s := <-last
	f := flow(c)
	// The reply to "hello" has moved the server's sequence number on by 5.
	rst, err := Forge(Header{Src: f.Server, Dst: f.Client, TTL: 42},
		layers.TCP{RST: true, ACK: true, Seq: s.ack + 5, Ack: s.seq}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p := parse(Client, rst); p.TTL != 42 || p.TCP == nil || !p.TCP.RST || p.Src != f.Server {
		t.Errorf("the forged packet reads %+v", p)
	}
	w.Inject(Client, rst, 0)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after a forged reset: %v, want connection reset by peer", err)
	}
}

func TestForget(t *testing.T) {
	w := newWire(t, Config{Hops: 4})
	echo(t, w)
	loud, silent := dial(t, w, serverAddr), dial(t, w, serverAddr)
	for _, c := range []net.Conn{loud, silent} {
		if err := call(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	w.Forget(flow(loud), Amnesia{Reset: true, TTL: 255})
	w.Forget(flow(silent), Amnesia{})
	if err := call(loud, "hello"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("forgotten with a reset: %v", err)
	}
	silent.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if err := call(silent, "hello"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("forgotten in silence: %v, want a timeout", err)
	}
	w.Remember(flow(silent))
	silent.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 5)
	if _, err := io.ReadFull(silent, buf); err != nil {
		t.Errorf("remembered: %v, want the retransmission answered", err)
	}
}

func TestHops(t *testing.T) {
	w := newWire(t, Config{Hops: 5})
	echo(t, w)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out := make(chan []byte)
	cmd := w.Server.Command(ctx, "tcpdump", "-n", "-v", "-c", "1", "-i", Device, "tcp and dst port 80")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stderr.Read(make([]byte, 1000)) // it is listening
	go func() {
		b, _ := io.ReadAll(stdout)
		out <- b
	}()
	dial(t, w, serverAddr)
	got := string(<-out)
	cmd.Wait()
	if !strings.Contains(got, "ttl 59,") || strings.Contains(got, "bad cksum") {
		t.Errorf("the server sees %q, want ttl 59 and right checksums", got)
	}
}

func TestForgeV6(t *testing.T) {
	h := Header{Src: netip.MustParseAddrPort("[fd77::1]:1"), Dst: netip.MustParseAddrPort("[fd77::2]:2")}
	data, err := Forge(h, layers.TCP{SYN: true, Seq: 7}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	p := parse(Server, data)
	if p.Src != h.Src || p.Dst != h.Dst || p.TCP == nil || p.TCP.Seq != 7 || string(p.TCP.Payload) != "x" || p.TTL != 64 {
		t.Errorf("reads back as %+v", p)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	w := newWire(t, Config{})
	cmd := w.Client.Command(context.Background(), "sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the program outlived the wire")
	}
	for _, name := range []string{w.Client.Name, w.Server.Name} {
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			t.Errorf("namespace %s is still there", name)
		}
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
