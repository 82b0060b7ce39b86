//go:build linux

// Record makes the captures of testdata/pcap: real traffic between a Go client
// and a Go server, captured by tcpdump, with what both applications saw of each
// request beside it.
//
// Each run is made in network namespaces of its own: on loopback, or across a
// wire that delays, where it is captured at both ends at once. Files are named
//
//	RUN.lo.pcap                        captured on loopback
//	RUN.client.pcap, RUN.server.pcap   the same packets, captured at either end of the wire
//	RUN.truth.jsonl                    what client and server saw (see bench/trial.Truth)
//
// It needs root, tcpdump and iproute2, and editcap for the run that is a pcapng.
//
//	record -o testdata/pcap                # all of them
//	record -o testdata/pcap faulty-20ms    # some
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("record", flag.ContinueOnError)
	dir := fs.String("o", ".", "write the captures to this `directory`")
	list := fs.Bool("list", false, "only print the names of the runs")
	if err := fs.Parse(args); err != nil {
		return err
	}
	want := fs.Args()
	for _, name := range want {
		if !slices.ContainsFunc(runs(), func(r recording) bool { return r.name == name }) {
			return fmt.Errorf("no run is called %q (-list prints them)", name)
		}
	}
	var failed []error
	for _, r := range runs() {
		if len(want) > 0 && !slices.Contains(want, r.name) {
			continue
		}
		if *list {
			fmt.Fprintln(stdout, r.name)
			continue
		}
		start := time.Now()
		found, err := r.record(ctx, *dir)
		for tries := 1; err != nil && tries < 3; tries++ {
			fmt.Fprintf(stdout, "%-18s again: %v\n", r.name, err)
			found, err = r.record(ctx, *dir)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r.name, err))
		}
		fmt.Fprintf(stdout, "%-18s %s (%.0f s)\n", r.name, found, time.Since(start).Seconds())
	}
	if len(failed) > 0 {
		var b strings.Builder
		for _, err := range failed {
			fmt.Fprintf(&b, "\n  %v", err)
		}
		return errors.New("some runs are not what they should be:" + b.String())
	}
	return nil
}
