//go:build linux

// Cost measures what watching costs: the processor time of the whole machine, from
// /proc/stat, per request that nginx serves to wrk on the loopback interface of a
// namespace, with nothing attached, with a program that does nothing on the hook
// of the recorder, with whyreset in its several ways, and with
//
//	tcpdump -i lo -B 65536 -w /dev/null 'tcp port 8080'
//
// Requests per second say little on a machine that others share, and even
// processor time per request drifts by several percent within minutes. So every
// run is held against the runs with nothing attached right before and after it,
// and what is told is the median of those differences with an interval of 95 %.
// One of the things compared is nothing once more: what that differs by from
// nothing is noise. Nothing else should run on the machine.
//
// It needs root, nginx, wrk and tcpdump.
//
//	cost -time 3s -rounds 10                # everything
//	cost -only '^(ebpf|tcpdump)$' -t 2 -c 400,16
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"whyreset/bench/netns"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

// A bench is the command line, and the namespace in which all happens.
type bench struct {
	stdout   io.Writer
	ns       *netns.Namespace
	binary   string
	threads  string
	duration time.Duration // of a run of wrk
	rounds   int
	markdown bool
	each     bool
	// accounting says that the kernel measures programs now.
	accounting bool
	repeated   int // runs that others had too much of the processors' time in
	disturbed  int // and that had to do all the same
	watchers   []*watcher
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("cost", flag.ContinueOnError)
	b := &bench{stdout: stdout}
	fs.IntVar(&b.rounds, "rounds", 20, "measured rounds; in each, everything runs once")
	fs.DurationVar(&b.duration, "time", 3*time.Second, "how long each run of wrk takes")
	fs.StringVar(&b.threads, "t", "1", "threads of wrk")
	connections := fs.String("c", "100", "connections of wrk; several, with commas, are measured one after the other")
	sizes := fs.String("sizes", "100,100000", "bytes of the responses")
	fs.StringVar(&b.binary, "whyreset", "", "use this `program` instead of building the one in the current directory")
	only := fs.String("only", "", "hold only those against nothing whose name matches this `expression`")
	fs.BoolVar(&b.markdown, "markdown", false, "print the tables as Markdown")
	fs.BoolVar(&b.each, "each", true, "print every run")
	if err := fs.Parse(args); err != nil {
		return err
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if b.duration < time.Second || b.duration%time.Second != 0 || b.rounds < 1 {
		return errors.New("wrk takes whole seconds, and there must be a round")
	}
	dir, err := os.MkdirTemp("", "cost")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // nginx's workers are somebody else
		return err
	}
	if b.binary == "" {
		b.binary = filepath.Join(dir, "whyreset")
		build := exec.CommandContext(ctx, "go", "build", "-o", b.binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w: %s", err, out)
		}
	}
	b.watchers = slices.DeleteFunc(watchers(b.binary), func(w *watcher) bool { return !chosen.MatchString(w.name) })
	if len(b.watchers) == 0 {
		return fmt.Errorf("nothing is called %q", *only)
	}
	if b.ns, err = netns.New("cost"); err != nil {
		return err
	}
	defer b.ns.Close()
	stop, err := serve(ctx, b.ns, dir, *sizes)
	if err != nil {
		return err
	}
	defer stop()
	for size := range strings.SplitSeq(*sizes, ",") {
		for c := range strings.SplitSeq(*connections, ",") {
			if err := b.compare(ctx, size, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare measures everything with one size of response and number of connections.
func (b *bench) compare(ctx context.Context, size, connections string) error {
	fmt.Fprintf(b.stdout, "\nResponses of %s bytes, wrk -t %s -c %s, %d rounds, %v each:\n\n", size, b.threads, connections, b.rounds, b.duration)
	r := newResults(b.watchers)
	bare := &watcher{name: "nothing"}
	one := func(w *watcher) (sample, error) {
		s, err := b.measure(ctx, w, connections, size)
		if err != nil {
			return s, fmt.Errorf("%s: %w", w.name, err)
		}
		if b.each {
			fmt.Fprintf(b.stdout, "  %-14s %8.3f µs a request, %8.0f requests/s\n", w.name, s.perRequest/1e3, s.rate)
		}
		return s, nil
	}
	if _, err := b.measure(ctx, bare, connections, size); err != nil { // caches, and the processor's clock
		return err
	}
	before, err := one(bare)
	if err != nil {
		return err
	}
	r.bare = append(r.bare, before)
	for round := range b.rounds {
		for i := range b.watchers {
			w := b.watchers[(i+round)%len(b.watchers)] // none always comes after the same one
			s, err := one(w)
			if err != nil {
				return err
			}
			after, err := one(bare)
			if err != nil {
				return err
			}
			r.bare = append(r.bare, after)
			r.add(w, s, before, after)
			before = after
		}
	}
	if err := b.account(ctx, r, connections, size); err != nil {
		return err
	}
	if err := r.print(b.stdout, b.markdown); err != nil {
		return err
	}
	if b.repeated > 0 {
		fmt.Fprintf(b.stdout, "\n%d runs were repeated, as other programs had more than %.1f %% of the processors' time; %d were kept in spite of that.\n", b.repeated, 100*mostOthers, b.disturbed)
	}
	b.repeated, b.disturbed = 0, 0
	return nil
}
