//go:build linux

// Witness holds whyreset's verdicts against the logs of real programs.
//
// It runs servers and clients in network namespaces, each misbehaving as its own
// configuration makes it, captures the traffic at both ends, and joins what the
// programs logged about each request to what whyreset says of it. Requests are
// told by an id in their path, or, under TLS, by port and time. What is right is
// in one table: see expectations.
//
// It needs root, /dev/net/tun, tcpdump and iproute2, and skips, aloud, programs
// that are not installed.
//
//	witness                             # everything
//	witness -only '^race-nginx'         # some
//	witness -record testdata/witness    # keep captures and truths of the small cases
//	witness -judge testdata/witness     # judge what was kept, with a newer whyreset
//	witness -ebpf                       # and hold whyreset --ebpf, live, against the captures
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
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// self is this program, which is also the Go server and the Go client.
var self = func() string {
	name, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return name
}()

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "serve":
		err = serve(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "call":
		err = call(os.Args[2:])
	default:
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = bench(ctx, os.Args[1:], os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	program  string
	dir      string
	record   string
	only     *regexp.Regexp
	ci       bool
	markdown bool
	jobs     int
	ways     []way // to watch live, beside the captures
	stdout   io.Writer
}

func bench(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("witness", flag.ContinueOnError)
	s := settings{stdout: stdout}
	fs.StringVar(&s.program, "whyreset", "", "the `program` to judge; built from this tree if empty")
	only := fs.String("only", "", "run only the cases whose name matches this `expression`")
	list := fs.Bool("list", false, "only print the names of the cases")
	kept := fs.String("judge", "", "run nothing: judge what -record or -work left in this `directory`")
	fs.StringVar(&s.record, "record", "", "run only what is small and telling, with less traffic, and keep captures and truths in this `directory`")
	fs.StringVar(&s.dir, "work", "", "keep logs and captures of all cases in this `directory`")
	fs.BoolVar(&s.ci, "ci", false, "run only what is cheap and needs nothing installed but tcpdump and iproute2")
	fs.BoolVar(&s.markdown, "markdown", false, "print the tables as Markdown")
	fs.IntVar(&s.jobs, "j", 3, "run so many cases at once")
	for _, w := range ways {
		fs.BoolFunc(w.flag, w.about, func(string) error {
			s.ways = append(s.ways, w)
			return nil
		})
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	if s.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	todo := slices.DeleteFunc(cases(), func(c witnessCase) bool {
		return !s.only.MatchString(c.name) || s.ci && !c.ci || s.record != "" && !c.keep
	})
	if len(todo) == 0 && *kept == "" {
		return fmt.Errorf("no case that could be run here is called %q", *only)
	}
	if *list {
		for _, c := range todo {
			fmt.Fprintln(stdout, c.name)
		}
		return nil
	}
	temp, err := os.MkdirTemp("", "witness")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if s.program == "" {
		s.program = filepath.Join(temp, "whyreset")
		build := exec.Command("go", "build", "-o", s.program, "whyreset")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build whyreset: %w", err)
		}
	}
	if s.dir == "" {
		s.dir = filepath.Join(temp, "cases")
	}
	t := &tally{}
	start := time.Now()
	if *kept != "" {
		err = s.judgeKept(*kept, temp, t)
	} else {
		err = s.runAll(ctx, todo, t)
	}
	if err != nil && t.cases == 0 {
		return err
	}
	t.took = time.Since(start)
	return errors.Join(err, t.report(stdout, s.markdown))
}

// runAll runs the cases, several at once, and judges each.
func (s *settings) runAll(ctx context.Context, todo []witnessCase, t *tally) error {
	if err := os.MkdirAll(s.dir, 0o777); err != nil {
		return err
	}
	os.Chmod(s.dir, 0o755)
	os.Chmod(filepath.Dir(s.dir), 0o755) // Apache's children read their configuration as somebody else
	c, err := makeCerts(s.dir)
	if err != nil {
		return err
	}
	queue := make(chan witnessCase)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(s.stdout, format+"\n", args...)
	}
	for range s.jobs {
		wg.Go(func() {
			for w := range queue {
				if missing := w.missing(); missing != "" {
					say("%-28s SKIPPED: %s is not installed", w.name, missing)
					t.skip(w.name)
					continue
				}
				start := time.Now()
				line, err := s.one(w, c, t)
				for range 2 {
					if err == nil || ctx.Err() != nil {
						break
					}
					// Timing on a busy machine.
					say("%-28s again: %v", w.name, err)
					line, err = s.one(w, c, t)
				}
				if err != nil {
					mu.Lock()
					failed = append(failed, fmt.Errorf("%s: %w", w.name, err))
					mu.Unlock()
				}
				say("%-28s %s (%.1f s)", w.name, line, time.Since(start).Seconds())
			}
		})
	}
	for _, w := range todo {
		if ctx.Err() != nil {
			break
		}
		queue <- w
	}
	close(queue)
	wg.Wait()
	return errors.Join(append(failed, ctx.Err())...)
}

// missing returns a program that the case needs and that is not there.
func (w witnessCase) missing() string {
	if k := kindOf(w.server); !installed(k.command, k.version) {
		return w.server
	}
	for _, n := range append([]string{"tcpdump", "ip"}, w.needs...) {
		if _, err := exec.LookPath(n); err != nil {
			return n
		}
	}
	return ""
}

// one runs a case and judges its captures.
func (s *settings) one(w witnessCase, c certs, t *tally) (string, error) {
	dir := filepath.Join(s.dir, w.name)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	l, err := newLab(dir, w.delay, c)
	if err != nil {
		return "", err
	}
	l.judged, l.ways = s.program, s.ways
	r := &run{small: s.record != "", lab: l, steps: map[string]step{}, prev: map[string]string{},
		header: header{Case: w.name, Command: "go run ./bench/witness -record testdata/witness -only '^" + w.name + "$'", Date: today(), Delay: w.delay.Seconds(), TLS: w.tls}}
	r.header.Versions = versions(kindOf(w.server))
	steady := watch()
	err = errors.Join(w.act(r), steady())
	time.Sleep(4*w.delay + 100*time.Millisecond)
	err = errors.Join(err, r.stopCapture(), r.close())
	if err != nil {
		return "", err
	}
	truths, err := r.truths()
	if err != nil {
		return "", err
	}
	for _, h := range truths {
		if err := checkCause(h.Cause); err != nil {
			return "", err
		}
	}
	if err := writeTruth(r.file("truth.jsonl"), r.header, truths); err != nil {
		return "", err
	}
	var captures []string
	for _, tap := range l.taps {
		captures = append(captures, r.file(tap.file))
	}
	if s.record != "" && w.keep {
		kept := captures
		if w.tls != "" || strings.HasPrefix(w.name, "faults-") {
			kept = captures[:1] // TLS does not compress, and faults take many packets
		}
		if err := keep(s.record, w.name, dir, kept); err != nil {
			return "", err
		}
	}
	return s.judgeCase(&r.header, truths, captures, dir, t)
}

// versions returns what the server and the clients are.
func versions(server serverKind) map[string]string {
	all := map[string]string{"go": runtime.Version()}
	if server.command != "" {
		all[server.name] = versionOf(server.command, server.version)
	}
	for _, k := range clients("") {
		if k.command != "" {
			all[k.name] = versionOf(k.command, k.version)
		}
	}
	return all
}

// judgeCase judges captures and damaged copies of them.
func (s *settings) judgeCase(h *header, truths []*truth, captures []string, temp string, t *tally) (string, error) {
	lost := 0
	for _, q := range truths {
		if q.lost() {
			lost++
		}
	}
	t.requests(len(truths), lost)
	var all, hurt []outcome
	for _, file := range captures {
		tries, err := attempts(file, h, truths)
		if err != nil {
			return "", err
		}
		findings, err := explain(s.program, file)
		if err != nil {
			return "", err
		}
		out := judge(findings, file, h, truths, tries, false)
		all = append(all, out...)
		if err := t.beside(file, h, truths, tries, out); err != nil {
			return "", err
		}
		for _, d := range damages() {
			copied := filepath.Join(temp, strings.TrimSuffix(filepath.Base(file), ".pcap")+"."+d.name+".pcap")
			if err := damaged(file, copied, d); err != nil {
				return "", err
			}
			findings, err := explain(s.program, copied)
			if err != nil {
				return "", err
			}
			out := judge(findings, copied, h, truths, tries, true)
			hurt = append(hurt, out...)
			if !slices.ContainsFunc(out, func(o outcome) bool { return o.kind > undecided }) {
				if err := os.Remove(copied); err != nil {
					return "", err
				}
			}
		}
	}
	t.add(all, hurt)
	n := map[kind]int{}
	for _, o := range all {
		n[o.kind]++
	}
	line := fmt.Sprintf("%d requests, %d lost;", len(truths), lost)
	for k := right; k <= invented; k++ {
		if n[k] > 0 {
			line += fmt.Sprintf(" %s %d", k, n[k])
		}
	}
	bad := 0
	for _, o := range hurt {
		if o.kind > undecided {
			bad++
		}
	}
	if bad > 0 {
		line += fmt.Sprintf("; wrong on damaged copies %d", bad)
	}
	return line, nil
}
