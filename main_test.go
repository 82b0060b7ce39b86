package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"whyreset/correlate"
	"whyreset/report"
)

// faulty holds idle races, fixed none.
const (
	faulty = "testdata/pcap/original-50ms.client.pcap"
	fixed  = "testdata/pcap/short-idle-20ms.client.pcap.gz"
)

// lostSome is the headline of a summary with losses.
var lostSome = regexp.MustCompile(`(?m)^[1-9][0-9]* of [1-9][0-9]* requests were lost on `)

// whyreset runs the program and returns what it does.
func whyreset(t *testing.T, stdin io.Reader, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, stdin, &out, &errs)
	return status, out.String(), errs.String()
}

func TestHelpFitsAScreen(t *testing.T) {
	status, out, errs := whyreset(t, nil, "--help")
	if status != exitOK || errs != "" {
		t.Errorf("status %d, stderr %q", status, errs)
	}
	if n := strings.Count(out, "\n"); n > 23 {
		t.Errorf("%d lines", n)
	}
	for line := range strings.Lines(out) {
		if utf8.RuneCountInString(line) > 80 {
			t.Errorf("too wide: %q", line)
		}
	}
}

func TestVersion(t *testing.T) {
	status, out, _ := whyreset(t, nil, "--version")
	if status != exitOK || !strings.HasPrefix(out, "whyreset ") || strings.Count(out, "\n") != 1 {
		t.Errorf("status %d, %q", status, out)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string
	}{
		{"", "no capture given\nwhyreset: hint: "},
		{"-p 0 x.pcap", "--port: port 0: a port is between 1 and 65535"},
		{"-p 70000 x.pcap", "--port: port 70000: a port is between 1 and 65535"},
		{"-p http x.pcap", `--port: port "http": not a port number`},
		{"--host example.com x.pcap", "--host: "},
		{"-o yaml x.pcap", `--output: "yaml" is neither text nor json`},
		{"-q --all x.pcap", "choose one"},
		{"-o json --local-time x.pcap", "--local-time is for text"},
		{"--max-connections 0 x.pcap", "--max-connections: 0"},
		{"--fail-on idle-rase x.pcap", `--fail-on: no verdict is called "idle-rase"; did you mean idle-race`},
		{"--fail-on lost,zebra x.pcap", `no verdict is called "zebra"; whyreset explain lists them`},
		{"--nonsense x.pcap", "unknown flag: --nonsense"},
		{"- -", "standard input (-) can be read only once"},
		{"explain idle-rcae", `no verdict is called "idle-rcae"; did you mean idle-race`},
		{"explain idle-race late-reuse", "explain takes one verdict, not 2"},
		{"explain -r x.pcap", "explain takes no flags, and --read is one"},
		{"demo x.pcap", "demo takes no arguments; to explain a capture: whyreset x.pcap"},
		{"demo -q", "demo takes no flags"},
	} {
		status, out, errs := whyreset(t, strings.NewReader(""), strings.Fields(tt.args)...)
		if status != exitUsage || out != "" || !strings.HasPrefix(errs, "whyreset: ") || !strings.Contains(errs, tt.want) {
			t.Errorf("whyreset %s: status %d, stdout %q, stderr %q; want %q", tt.args, status, out, errs, tt.want)
		}
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, file := range []string{
		filepath.Join(dir, "missing.pcap"), dir,
		write("empty.pcap", ""), write("text.pcap", "14:02 IP a > b: Flags [R]\n"), write("x\x1b[2J\n.pcap", "?"),
	} {
		status, _, errs := whyreset(t, nil, file)
		lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
		if status != exitError || len(lines) > 2 || strings.Contains(errs, "\x1b") {
			t.Errorf("%q: status %d, stderr %q", file, status, errs)
		}
		for _, line := range lines {
			if !strings.HasPrefix(line, "whyreset: ") {
				t.Errorf("%q: stderr %q", file, errs)
			}
		}
	}
}

func TestCutCapture(t *testing.T) {
	data, err := os.ReadFile(faulty)
	if err != nil {
		t.Fatal(err)
	}
	status, out, errs := whyreset(t, bytes.NewReader(data[:len(data)/2+3]), "-")
	if status != exitError || !strings.Contains(out, "idle-race  proven") || !strings.Contains(out, "not complete: ") {
		t.Errorf("status %d, stdout:\n%s", status, out)
	}
	if lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n"); len(lines) != 2 ||
		!strings.Contains(lines[0], "packet ") || !strings.HasPrefix(lines[1], "whyreset: hint: ") {
		t.Errorf("stderr %q", errs)
	}
	_, out, _ = whyreset(t, bytes.NewReader(data[:len(data)/2+3]), "-o", "json", "-q", "-")
	var sum struct {
		Type, Reason string
		Complete     *bool
	}
	if err := json.Unmarshal([]byte(out), &sum); err != nil || sum.Type != "summary" || sum.Complete == nil || *sum.Complete || sum.Reason == "" {
		t.Errorf("%v in %s", err, out)
	}
}

func TestJSONLines(t *testing.T) {
	_, out, _ := whyreset(t, nil, "-o", "json", "--all", faulty)
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i, line := range lines {
		var v struct{ Type string }
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("line %d: %v: %s", i+1, err, line)
		}
		if last := i == len(lines)-1; last != (v.Type == "summary") {
			t.Errorf("line %d of %d has type %q", i+1, len(lines), v.Type)
		}
	}
	_, again, _ := whyreset(t, nil, "-o", "json", "--all", faulty)
	if again != out {
		t.Error("another run, other bytes")
	}
}

func TestFailOn(t *testing.T) {
	for _, tt := range []struct {
		list, file string
		want       int
	}{
		{"idle-race", faulty, exitFound},
		{"lost", faulty, exitFound},
		{"client-abort,late-reuse,lost", faulty, exitFound},
		{"client-abort,unknown", faulty, exitOK},
		{"clean", fixed, exitFound},
		{"lost,idle-race", fixed, exitOK},
	} {
		if got, _, errs := whyreset(t, nil, "-q", "--fail-on", tt.list, tt.file); got != tt.want || errs != "" {
			t.Errorf("--fail-on %s %s: status %d, want %d; stderr %q", tt.list, tt.file, got, tt.want, errs)
		}
	}
}

func TestNothingLostIsSaid(t *testing.T) {
	status, out, errs := whyreset(t, nil, fixed)
	if status != exitOK || errs != "" || !strings.HasPrefix(out, "nothing lost: ") {
		t.Errorf("status %d, stdout %q, stderr %q", status, out, errs)
	}
}

func TestFilterLeavesNothing(t *testing.T) {
	_, out, _ := whyreset(t, nil, "-p", "1", faulty)
	if !strings.HasPrefix(out, "nothing to judge: no TCP segment passed the filter") {
		t.Errorf("stdout %q", out)
	}
}

// TestStreamIDs: the numbers are Wireshark's only where nothing is left out.
func TestStreamIDs(t *testing.T) {
	_, whole, _ := whyreset(t, nil, faulty)
	_, filtered, _ := whyreset(t, nil, "-p", "9000", faulty)
	_, several, _ := whyreset(t, nil, faulty, fixed)
	if !strings.Contains(whole, "tcp.stream eq ") || strings.Contains(filtered, "tcp.stream") || strings.Contains(several, "tcp.stream") {
		t.Error("tcp.stream is missing, or where it must not be")
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	status := run(ctx, []string{faulty}, nil, &out, &errs)
	if status != exitError || !strings.Contains(out.String(), "not complete: interrupted") || errs.String() != "whyreset: interrupted before the end of the capture\n" {
		t.Errorf("status %d, stdout %q, stderr %q", status, out.String(), errs.String())
	}
}

// TestInterruptedPipe: a signal ends the wait for a pipe on which nothing comes.
func TestInterruptedPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	data, err := os.ReadFile(faulty)
	if err != nil {
		t.Fatal(err)
	}
	go w.Write(data)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var out, errs bytes.Buffer
	status := run(ctx, []string{"-"}, r, &out, &errs)
	if status != exitError || !lostSome.MatchString(out.String()) {
		t.Errorf("status %d, stdout %q, stderr %q", status, out.String(), errs.String())
	}
}

// A brokenWriter fails after n bytes.
type brokenWriter struct {
	n   int
	err error
}

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, w.err
	}
	return len(b), nil
}

func TestWriteErrors(t *testing.T) {
	for _, args := range [][]string{{faulty}, {"-o", "json", faulty}, {"-q", faulty}, {"demo"}, {"explain"}, {"explain", "idle-race"}, {"--help"}, {"--version"}} {
		var errs bytes.Buffer
		// head -1 has seen enough: nothing went wrong.
		if status := run(t.Context(), args, nil, &brokenWriter{10, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}}, &errs); status != exitOK || errs.Len() > 0 {
			t.Errorf("%q into a closed pipe: status %d, stderr %q", args, status, errs.String())
		}
		status := run(t.Context(), args, nil, &brokenWriter{10, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}}, &errs)
		if want := "whyreset: write to standard output: no space left on device\n"; status != exitError || errs.String() != want {
			t.Errorf("%q onto a full disk: status %d, stderr %q", args, status, errs.String())
		}
	}
}

func TestExplainCommand(t *testing.T) {
	for _, v := range correlate.Verdicts() {
		status, out, errs := whyreset(t, nil, "explain", v.String())
		if status != exitOK || errs != "" || !strings.HasPrefix(out, v.String()+" (family "+v.Family()+")\n") {
			t.Errorf("%s: status %d, stdout %q, stderr %q", v, status, out, errs)
		}
	}
	status, out, _ := whyreset(t, nil, "explain", "server-abort")
	if status != exitOK || !strings.Contains(out, "\n  truncated-response ") || strings.Contains(out, "\n  idle-race ") {
		t.Errorf("status %d, stdout %q", status, out)
	}
}

func TestDemo(t *testing.T) {
	status, out, errs := whyreset(t, nil, "demo")
	if status != exitOK || errs != "" {
		t.Errorf("status %d, stderr %q", status, errs)
	}
	if n := strings.Count(out, "  idle-race  proven\n"); n != demoFindings {
		t.Errorf("%d findings in full", n)
	}
	if !lostSome.MatchString(out) || !strings.Contains(out, "\nnothing lost: all ") {
		t.Errorf("no summary of a faulty and of a fixed program in:\n%s", out)
	}
	for line := range strings.Lines(demoFaulty + demoFixed + demoEnd) {
		if utf8.RuneCountInString(line) > 83 {
			t.Errorf("too wide: %q", line)
		}
	}
}

// TestReadmeTable holds the README's table of verdicts to the program's words;
// go test -update rewrites it.
func TestReadmeTable(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| verdict | the request, or the connection |\n| --- | --- |\n")
	verdicts := correlate.Verdicts()
	slices.SortStableFunc(verdicts, func(a, b correlate.Verdict) int { // those without a verdict last
		rank := map[string]int{"unknown": 1}
		return rank[a.Family()] - rank[b.Family()]
	})
	for _, v := range verdicts {
		table.WriteString("| [`" + v.String() + "`](docs/verdicts.md#" + v.String() + ") | " + report.WordsOf(v).Title + " |\n")
	}
	const begin, end = "<!-- verdicts: go test -update -->\n", "<!-- end of verdicts -->\n"
	before, rest, ok := strings.Cut(string(readme), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("README.md has no place for the verdicts")
	}
	current(t, "README.md", before+begin+table.String()+end+after)
}

// TestDocs holds docs/verdicts.md to the program's words.
func TestDocs(t *testing.T) {
	var b strings.Builder
	if err := report.WriteDocs(&b); err != nil {
		t.Fatal(err)
	}
	for _, v := range correlate.Verdicts() {
		if !strings.Contains(b.String(), "\n### "+v.String()+"\n") {
			t.Errorf("%s is not in it", v)
		}
	}
	current(t, "docs/verdicts.md", b.String())
}

// current fails unless the file holds what it should; with -update it then does.
func current(t *testing.T, name, want string) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err == nil && string(got) == want {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test -run %s -update .", name, t.Name())
	}
	if err := os.WriteFile(name, []byte(want), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestProgressLine(t *testing.T) {
	for _, tt := range []struct {
		done, size int64
		elapsed    time.Duration
		want       string
	}{
		{500e6, 2e9, time.Second, "whyreset: 500 MB of 2.0 GB (25 %), 500 MB/s, 3s left"},
		{1234, 0, time.Second, "whyreset: 1.2 kB, 1.2 kB/s"},
		{2e9, 2e9, 4 * time.Second, "whyreset: 2.0 GB of 2.0 GB (100 %), 500 MB/s"},
		{0, 10, 0, "whyreset: 0 B of 10 B (0 %), 0 B/s"},
	} {
		if got := progressLine(tt.done, tt.size, tt.elapsed); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// TestProgressOnlyOnATerminal: a buffer is none.
func TestProgressOnlyOnATerminal(t *testing.T) {
	p := newProgress(&bytes.Buffer{})
	p.start = p.start.Add(-time.Hour)
	p.update(time.Now(), nil) // would need a source
	p.erase()
	if p.shown {
		t.Error("progress where nobody looks")
	}
}

func TestFinishUnwraps(t *testing.T) {
	if !isClosedPipe(errors.Join(syscall.EPIPE)) || isClosedPipe(io.EOF) {
		t.Error("a closed pipe is not told from other errors")
	}
	if got := unwrapPath(&os.PathError{Op: "write", Path: "/dev/full", Err: syscall.ENOSPC}); !slices.Contains([]error{syscall.ENOSPC}, got) {
		t.Errorf("got %v", got)
	}
}

// TestReadmeSample holds the output that the README shows to what the program
// prints today.
func TestReadmeSample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	const name = "testdata/pcap/original-50ms.client.pcap"
	_, rest, _ := strings.Cut(string(readme), "$ whyreset "+name+"\n")
	sample, _, ok := strings.Cut(rest, "```")
	if !ok || len(sample) < 100 {
		t.Fatal("README.md shows no output")
	}
	var stdout, stderr bytes.Buffer
	if rc := run(t.Context(), []string{name}, nil, &stdout, &stderr); rc != exitOK {
		t.Fatalf("exit status %d: %s", rc, stderr.String())
	}
	if !strings.Contains(stdout.String(), sample) {
		t.Errorf("README.md shows\n%s\nwhich is not in what the program prints", sample)
	}
}
