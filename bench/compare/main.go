//go:build linux

// Compare runs whyreset and other programs on the same captures, as whole
// processes in turn, and prints how long each took and the ratios.
//
//	whyreset -q -r FILE                                                    follows, frames and judges everything
//	tcpdump -r FILE -w /dev/null 'tcp[tcpflags] & (tcp-rst|tcp-fin) != 0'  merely picks out FIN and RST
//	tcptrace -n FILE                                                       follows connections, without HTTP
//	tshark -r FILE -Y tcp.flags.reset==1                                   once only: it takes minutes
//
// Each round runs every program once on a file, so that what else the machine
// does meets all of them; the first round only warms the page cache.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// A program is one to compare; args come before and after the file's name.
type program struct {
	name   string
	path   string // of the executable; "" if it is not installed
	before []string
	after  []string
	rounds int
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	dir := fs.String("dir", filepath.Join(os.TempDir(), "whyreset-bench"), "compare on the captures in this `directory`, which bench/load makes")
	rounds := fs.Int("rounds", 3, "measured rounds")
	withTshark := fs.Bool("tshark", true, "run tshark too, once")
	binary := fs.String("whyreset", "", "use this `program` instead of building the one in the current directory")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 {
		return fmt.Errorf("-rounds must be at least 1, not %d", *rounds)
	}
	files := fs.Args()
	if len(files) == 0 {
		var err error
		if files, err = filepath.Glob(filepath.Join(*dir, "*.pcap")); err != nil {
			return err
		}
	}
	if len(files) == 0 {
		return fmt.Errorf("no captures in %s: make them with go run ./bench/load", *dir)
	}
	if *binary == "" {
		tmp, err := os.MkdirTemp("", "whyreset-compare")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		*binary = filepath.Join(tmp, "whyreset")
		build := exec.CommandContext(ctx, "go", "build", "-o", *binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	programs := []program{
		{name: "whyreset", path: *binary, before: []string{"-q", "-r"}, rounds: *rounds},
		{name: "tcpdump", path: find("tcpdump"), before: []string{"-r"}, after: []string{"-w", "/dev/null", "tcp[tcpflags] & (tcp-rst|tcp-fin) != 0"}, rounds: *rounds},
		{name: "tcptrace", path: find("tcptrace"), before: []string{"-n"}, rounds: *rounds},
	}
	if *withTshark {
		programs = append(programs, program{name: "tshark", path: find("tshark"), before: []string{"-r"}, after: []string{"-Y", "tcp.flags.reset==1"}, rounds: 1})
	}
	for _, file := range files {
		if err := compare(ctx, programs, file, *rounds, stdout); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func find(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// compare prints one file's table.
func compare(ctx context.Context, programs []program, file string, rounds int, stdout io.Writer) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	var peak int64
	times := make([][]sample, len(programs))
	for round := 0; round <= rounds; round++ {
		for i, p := range programs {
			// Round 0 is the warm-up. A program that runs once does so last, on a
			// machine that is as warm.
			if p.path == "" || p.rounds < rounds && round != rounds {
				continue
			}
			// Watching its memory would disturb the measured rounds.
			watch := round == 0 && i == 0
			s, err := measure(ctx, p, file, watch)
			if err != nil {
				return err
			}
			if watch {
				peak = s.anonymous
			}
			if round > 0 {
				times[i] = append(times[i], s)
			}
		}
	}
	fmt.Fprintf(stdout, "%s (%d MB), medians of %d rounds\n", file, info.Size()/1e6, rounds)
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "program\twall s\tfastest\tslowest\tCPU s\tMB/s\twall ÷ whyreset\tCPU ÷ whyreset\t")
	var base sample
	for i, p := range programs {
		if p.path == "" {
			fmt.Fprintf(w, "%s\tnot installed\t\t\t\t\t\t\t\n", p.name)
			continue
		}
		wall := sorted(times[i], func(s sample) time.Duration { return s.wall })
		cpu := sorted(times[i], func(s sample) time.Duration { return s.cpu })
		mid := sample{wall: median(wall), cpu: median(cpu)}
		if i == 0 {
			base = mid
		}
		fmt.Fprintf(w, "%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.0f\t%.2f\t%.2f\t\n", p.name, mid.wall.Seconds(), wall[0].Seconds(), wall[len(wall)-1].Seconds(),
			mid.cpu.Seconds(), float64(info.Size())/1e6/mid.wall.Seconds(), ratio(mid.wall, base.wall), ratio(mid.cpu, base.cpu))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "peak anonymous memory of whyreset: %.1f MB\n\n", float64(peak)/1e6)
	return nil
}

func sorted(s []sample, f func(sample) time.Duration) []time.Duration {
	var d []time.Duration
	for _, v := range s {
		d = append(d, f(v))
	}
	slices.Sort(d)
	return d
}

// median of what is sorted and not empty.
func median(d []time.Duration) time.Duration {
	if n := len(d); n%2 == 0 {
		return (d[n/2-1] + d[n/2]) / 2
	}
	return d[len(d)/2]
}

func ratio(a, b time.Duration) float64 { return a.Seconds() / max(b.Seconds(), 1e-9) }

// tail shortens what a failed program said.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
