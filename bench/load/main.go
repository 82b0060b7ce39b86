//go:build linux

// Load makes the large captures that speed is measured on: real HTTP traffic
// between a Go server and a Go client on the loopback of a network namespace,
// captured by tcpdump, at least 1 GB each. A capture that is there already is
// kept; one from which the kernel dropped a packet is made again, more slowly.
//
//	small.pcap   small responses on 400 connections that are kept alive
//	large.pcap   responses of 500 KB on 40 connections
//	short.pcap   150,000 connections of one request each, ended by FIN and by RST from either side
//
// The kinds may be given one by one. It needs root, tcpdump and iproute2, and
// takes a few minutes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"whyreset/bench/netns"
	"whyreset/bench/sniff"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// wanted is the least size of a capture.
const wanted = 1_050_000_000

// defaultDir is where the captures are kept: bench/compare looks there too.
func defaultDir() string { return filepath.Join(os.TempDir(), "whyreset-bench") }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	dir := fs.String("o", defaultDir(), "make the captures in this `directory`")
	size := fs.Int64("size", wanted, "least size of each, in bytes")
	mtu := fs.Int("mtu", 65536, "MTU of the loopback; below that, offload is off too, and packets are as on a network")
	inside := fs.String("inside", "", "used by the program itself: generate this `kind` of traffic")
	rate := fs.Int("rate", 0, "used by the program itself: requests per second, 0 for no limit")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *inside != "" {
		return generate(ctx, *inside, *rate)
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	kinds := fs.Args()
	if len(kinds) == 0 {
		kinds = []string{"small", "large", "short"}
	}
	for _, kind := range kinds {
		if rates[kind] == nil {
			return fmt.Errorf("no capture is called %q: there are small, large and short", kind)
		}
		name := filepath.Join(*dir, kind+".pcap")
		if info, err := os.Stat(name); err == nil {
			fmt.Fprintf(stdout, "%s: kept, %d MB\n", name, info.Size()/1e6)
			continue
		}
		if err := record(ctx, kind, name, *size, *mtu, stdout); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// rates are the requests per second to try, 0 for no limit. What tcpdump can
// write to the disk is what limits large responses.
var rates = map[string][]int{
	"small": {0, 15000, 8000, 4000},
	"large": {300, 200, 100},
	"short": {0, 3000, 1500},
}

// record makes one capture, at a lower rate each time that packets were dropped.
func record(ctx context.Context, kind, name string, size int64, mtu int, stdout io.Writer) error {
	for _, rate := range rates[kind] {
		start := time.Now()
		c, err := attempt(ctx, kind, name+".part", size, mtu, rate)
		switch {
		case err != nil && c.Dropped > 0:
			fmt.Fprintf(stdout, "%s: %d of %d packets dropped, again more slowly\n", name, c.Dropped, c.Captured)
			continue
		case err != nil:
			return err
		}
		info, err := os.Stat(name + ".part")
		if err != nil {
			return err
		}
		if info.Size() < size {
			return fmt.Errorf("holds %d bytes, want %d", info.Size(), size)
		}
		fmt.Fprintf(stdout, "%s: %d packets, %d MB (%.0f s)\n", name, c.Captured, info.Size()/1e6, time.Since(start).Seconds())
		return os.Rename(name+".part", name)
	}
	return errors.New("packets are dropped at every rate")
}

// attempt captures one kind of traffic until the generator ends, which it is
// told to once the file is large enough.
func attempt(ctx context.Context, kind, file string, size int64, mtu, rate int) (c sniff.Count, err error) {
	ns, err := netns.New("load")
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	if mtu != 65536 {
		if err := ns.IP("link", "set", "lo", "mtu", fmt.Sprint(mtu), "gso_max_segs", "1"); err != nil {
			return c, err
		}
	}
	s, err := sniff.Start(ns, "lo", file, "-B", "262144", "tcp port 9000")
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return c, err
	}
	gen := ns.Command(ctx, self, "-inside", kind, "-rate", fmt.Sprint(rate))
	gen.Stderr = os.Stderr
	gen.WaitDelay = time.Minute
	if err := gen.Start(); err != nil {
		return c, err
	}
	done := make(chan error, 1)
	go func() { done <- gen.Wait() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	enough := false
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil && !enough {
				return c, fmt.Errorf("generate %s: %w", kind, err)
			}
			running = false
		case <-tick.C:
			info, err := os.Stat(file)
			if err == nil && info.Size() >= size && kind != "short" && !enough {
				enough = true
				cancel() // interrupts the generator
			}
		}
	}
	time.Sleep(2 * time.Second) // tcpdump may be behind by what its buffer holds
	return s.Stop()
}
