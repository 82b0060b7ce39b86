//go:build linux

// Livecost measures what watching costs: the processor time of the whole machine,
// from /proc/stat, per request that nginx serves to wrk on the loopback interface
// of a namespace, with nothing watching, with whyreset, and with
//
//	tcpdump -i lo -B 65536 -w /dev/null 'tcp port 8080'
//
// in turn. It prints medians, the cost above nothing, and packets missed. Nothing
// else should run on the machine. It needs root, nginx, wrk and tcpdump.
package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"whyreset/bench/netns"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "livecost:", err)
		os.Exit(1)
	}
}

// A watcher is a program that listens to the interface.
type watcher struct {
	name   string
	args   []string
	missed func(stdout, stderr string) (int64, error)
}

// A sample is one run of wrk.
type sample struct {
	perRequest time.Duration // of all processors
	own        time.Duration // the watcher's part of it
	rate       float64       // requests per second
	missed     int64
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("livecost", flag.ContinueOnError)
	rounds := fs.Int("rounds", 10, "measured rounds of each")
	seconds := fs.Int("seconds", 5, "how long each run of wrk takes")
	connections := fs.String("c", "400,16", "connections of wrk")
	sizes := fs.String("sizes", "100,100000", "bytes of the responses")
	binary := fs.String("whyreset", "", "use this `program` instead of building the one in the current directory")
	if err := fs.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "livecost")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // nginx's workers are somebody else
		return err
	}
	if *binary == "" {
		*binary = filepath.Join(dir, "whyreset")
		build := exec.CommandContext(ctx, "go", "build", "-o", *binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w: %s", err, out)
		}
	}
	ns, err := netns.New("livecost")
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := serve(ctx, ns, dir, *sizes); err != nil {
		return err
	}
	watchers := []*watcher{
		{name: "nothing"},
		{"whyreset", []string{*binary, "-i", "lo", "-p", "8080", "-o", "json"}, missedBySummary},
		{"tcpdump", []string{"tcpdump", "-Z", "root", "-i", "lo", "-B", "65536", "-w", "/dev/null", "tcp port 8080"}, missedByTcpdump},
	}
	for size := range strings.SplitSeq(*sizes, ",") {
		for c := range strings.SplitSeq(*connections, ",") {
			samples := map[string][]sample{}
			for round := range *rounds {
				for i := range watchers {
					w := watchers[(i+round)%len(watchers)] // none is always the first
					s, err := measure(ctx, ns, w, c, *seconds, "http://127.0.0.1:8080/"+size)
					if err != nil {
						return fmt.Errorf("%s: %w", w.name, err)
					}
					samples[w.name] = append(samples[w.name], s)
				}
			}
			if err := print(stdout, size, c, watchers, samples); err != nil {
				return err
			}
		}
	}
	return nil
}

// serve runs nginx in the namespace until that is closed.
func serve(ctx context.Context, ns *netns.Namespace, dir, sizes string) error {
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, size), bytes.Repeat([]byte("x"), n), 0o644); err != nil {
			return err
		}
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 2; error_log %[1]s/error.log; pid %[1]s/pid;
events { worker_connections 4096; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=10;
server { listen 127.0.0.1:8080; root %[1]s; } }
`, dir)
	name := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(name, []byte(conf), 0o644); err != nil {
		return err
	}
	cmd := ns.Command(ctx, "nginx", "-c", name)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 100 {
		if c, err := ns.DialContext(ctx, "tcp", "127.0.0.1:8080"); err == nil {
			return c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("nginx does not answer: %s", &stderr)
}

var requests = regexp.MustCompile(`(\d+) requests in`)

// measure runs wrk while w watches.
func measure(ctx context.Context, ns *netns.Namespace, w *watcher, connections string, seconds int, url string) (s sample, err error) {
	var stdout, stderr bytes.Buffer
	var cmd *exec.Cmd
	if w.args != nil {
		cmd = ns.Command(ctx, w.args[0], w.args[1:]...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Start(); err != nil {
			return s, err
		}
		time.Sleep(500 * time.Millisecond) // until it listens
	}
	before, err := busy()
	if err != nil {
		return s, err
	}
	out, err := ns.Command(ctx, "wrk", "-t", "2", "-c", connections, "-d", strconv.Itoa(seconds), url).CombinedOutput()
	if err != nil {
		return s, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := busy()
	if err != nil {
		return s, err
	}
	m := requests.FindSubmatch(out)
	if m == nil {
		return s, fmt.Errorf("wrk: %s", out)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || n == 0 {
		return s, fmt.Errorf("wrk: %s", out)
	}
	s.perRequest = time.Duration(float64(after-before) / n)
	s.rate = n / float64(seconds)
	if cmd == nil {
		return s, nil
	}
	time.Sleep(300 * time.Millisecond)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return s, err
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return s, err
	}
	s.own = time.Duration(float64(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()) / n)
	s.missed, err = w.missed(stdout.String(), stderr.String())
	return s, err
}

// busy returns the time that all processors together were neither idle nor
// stolen by the machine underneath.
func busy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line)
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // USER_HZ is 100
}

func missedBySummary(stdout, stderr string) (int64, error) {
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var s struct {
		Type   string
		Missed int64
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Type != "summary" {
		return 0, fmt.Errorf("no summary: %v: %s", err, stderr)
	}
	return s.Missed, nil
}

var dropped = regexp.MustCompile(`(\d+) packets? dropped by kernel`)

func missedByTcpdump(_, stderr string) (int64, error) {
	m := dropped.FindStringSubmatch(stderr)
	if m == nil {
		return 0, errors.New(stderr)
	}
	return strconv.ParseInt(m[1], 10, 64)
}

func print(w io.Writer, size, connections string, watchers []*watcher, samples map[string][]sample) error {
	fmt.Fprintf(w, "\n%s bytes, %s connections, median of %d:\n", size, connections, len(samples["nothing"]))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tCPU per request\tabove nothing\tof tcpdump's\tits own\trequests/s\tmissed\t")
	bare := median(samples["nothing"], func(s sample) float64 { return float64(s.perRequest) })
	dump := median(samples["tcpdump"], func(s sample) float64 { return float64(s.perRequest) }) - bare
	for _, v := range watchers {
		all := samples[v.name]
		cost := median(all, func(s sample) float64 { return float64(s.perRequest) })
		missed := int64(0)
		for _, s := range all {
			missed += s.missed
		}
		fmt.Fprintf(t, "%s\t%.2f µs\t%.2f µs\t%.2f\t%.2f µs\t%.0f\t%d\t\n", v.name, cost/1e3, (cost-bare)/1e3, (cost-bare)/dump,
			median(all, func(s sample) float64 { return float64(s.own) })/1e3, median(all, func(s sample) float64 { return s.rate }), missed)
	}
	return t.Flush()
}

func median(all []sample, of func(sample) float64) float64 {
	v := make([]float64, len(all))
	for i, s := range all {
		v[i] = of(s)
	}
	slices.Sort(v)
	if len(v)%2 == 0 {
		return (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return v[len(v)/2]
}
