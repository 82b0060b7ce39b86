// Whyreset says why HTTP requests got no complete answer.
//
// It reads saved packet captures, or watches live traffic on a host or in a
// container, and names, for every lost request, the cause: an idle-timeout race, a
// server or a client that gave up, a dead connection used again; with proof from
// TCP sequence numbers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"whyreset/capture"
	"whyreset/correlate"
	"whyreset/report"
)

// The exit statuses.
const (
	exitOK    = 0 // it ran
	exitError = 1 // it could not, or not to the end
	exitUsage = 2 // it was not asked properly
	exitFound = 3 // what --fail-on names was found
)

// usage fits on a screen of 80 by 24, with room for the prompt.
const usage = `whyreset says why HTTP requests got no complete answer, from packet captures.

  whyreset [flags] FILE...     explain captures (pcap, pcapng; gzip, zstd; -)
  whyreset [flags] -i IFACE    explain live traffic: see whyreset help live
  whyreset explain [WORD]      what a verdict means, or a list; known timers
  whyreset demo                lose requests and explain it (live as root)

  -r, --read FILE           same as naming FILE; several are merged by time
  -p, --port PORTS          only these TCP ports: 8080  80,443  8000-8100
      --host ADDRS          only these addresses or prefixes: 10.0.0.1,fd00::/8
  -o, --output text|json    text for people (default), JSON lines for programs
      --all                 also connections that ended with nothing lost
  -q, --quiet               only the summary
      --local-time          times in the local zone, not in UTC
      --fail-on LIST        exit 3 if these verdicts, families, or "lost" occur
      --max-connections N   how many to follow at once (default %d)
      --version   -h, --help

  tcpdump -i any -s 0 -w web.pcap 'tcp port 8080'; whyreset web.pcap
  whyreset -o json -p 8080 *.pcap.gz | jq 'select(.lost)'
  whyreset -q --fail-on idle-race,server-abort web.pcap

Exit status: 0 ran, 1 could not, 2 wrong usage, 3 --fail-on found something.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	c := &command{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, drop: dropPrivileges}
	os.Exit(c.run(ctx, os.Args[1:]))
}

// run is main without the process: tests call it directly.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return (&command{stdin: stdin, stdout: stdout, stderr: stderr}).run(ctx, args)
}

func (c *command) run(ctx context.Context, args []string) int {
	if err := c.parse(args); errors.Is(err, pflag.ErrHelp) {
		return c.finish(printf(c.stdout, usage, correlate.DefaultMaxConnections))
	} else if err != nil {
		c.complain(err)
		return exitUsage
	}
	switch {
	case c.version:
		return c.finish(printf(c.stdout, "%s\n", version()))
	case c.subcommand == "explain":
		return c.explain()
	case c.subcommand == "demo":
		return c.demo(ctx)
	case c.subcommand == "help":
		return c.help()
	case c.live != nil && c.live.ebpf == ebpfPackets:
		return c.record(ctx)
	case c.live != nil && c.live.ebpf == ebpfFacts:
		return c.watchFacts(ctx)
	case c.live != nil:
		return c.watch(ctx)
	}
	return c.read(ctx)
}

// A command is what the arguments ask for.
type command struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	drop           func(*identity) error // gives up privileges; nil in tests, which need theirs

	subcommand string   // "explain", "demo", "help" or "": read captures
	operands   []string // what follows the subcommand, or the captures' names

	filter         capture.Filter
	filtered       bool // filter leaves anything out
	json           bool
	all, quiet     bool
	location       *time.Location
	failOn         []string
	maxConnections int
	version        bool
	live           *live // nil for saved captures
}

// parse checks everything that can be known to be wrong without opening a file.
func (c *command) parse(args []string) error {
	fs := pflag.NewFlagSet("whyreset", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {} // run prints it
	read := fs.StringArrayP("read", "r", nil, "")
	ports := fs.StringArrayP("port", "p", nil, "")
	hosts := fs.StringArray("host", nil, "")
	output := fs.StringP("output", "o", "text", "")
	failOn := fs.StringArray("fail-on", nil, "")
	local := fs.Bool("local-time", false, "")
	var lf liveFlags
	fs.StringArrayVarP(&lf.interfaces, "interface", "i", nil, "")
	fs.StringVar(&lf.ebpf, "ebpf", "", "")
	fs.Lookup("ebpf").NoOptDefVal = ebpfPackets
	fs.StringArrayVar(&lf.netns, "netns", nil, "")
	fs.StringArrayVar(&lf.pids, "pid", nil, "")
	fs.StringArrayVar(&lf.containers, "container", nil, "")
	fs.BoolVar(&lf.allContainers, "all-containers", false, "")
	fs.StringArrayVar(&lf.cgroups, "cgroup", nil, "")
	fs.StringVarP(&lf.write, "write", "w", "", "")
	fs.StringVar(&lf.ring, "ring", "", "")
	fs.DurationVar(&lf.duration, "duration", 0, "")
	fs.IntVar(&lf.count, "count", 0, "")
	fs.StringVar(&lf.buffer, "buffer", "", "")
	fs.IntVar(&lf.snap, "snap", 0, "")
	fs.StringVar(&lf.user, "user", "", "")
	fs.BoolVar(&c.all, "all", false, "")
	fs.BoolVarP(&c.quiet, "quiet", "q", false, "")
	fs.IntVar(&c.maxConnections, "max-connections", correlate.DefaultMaxConnections, "")
	fs.BoolVar(&c.version, "version", false, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if c.version {
		return nil
	}

	c.operands = fs.Args()
	if len(c.operands) > 0 && slices.Contains([]string{"explain", "demo", "help"}, c.operands[0]) {
		c.subcommand, c.operands = c.operands[0], c.operands[1:]
		var extra error
		fs.Visit(func(f *pflag.Flag) {
			extra = fmt.Errorf("%s takes no flags, and --%s is one (a file of that name is ./%[1]s)", c.subcommand, f.Name)
		})
		if c.subcommand == "demo" && len(c.operands) > 0 {
			return fmt.Errorf("demo takes no arguments; to explain a capture: whyreset %s", c.operands[0])
		}
		if c.subcommand == "help" && (len(c.operands) > 1 || len(c.operands) == 1 && c.operands[0] != "live") {
			return errors.New("there is help and help live; a verdict is explained by: whyreset explain WORD")
		}
		if len(c.operands) > 1 {
			return fmt.Errorf("explain takes one verdict, not %d", len(c.operands))
		}
		return extra
	}
	c.operands = append(*read, c.operands...)

	for _, list := range *ports {
		ranges, err := capture.ParsePorts(list)
		if err != nil {
			return fmt.Errorf("--port: %w", err)
		}
		c.filter.Ports = append(c.filter.Ports, ranges...)
	}
	for _, list := range *hosts {
		prefixes, err := capture.ParsePrefixes(list)
		if err != nil {
			return fmt.Errorf("--host: %w", err)
		}
		c.filter.Prefixes = append(c.filter.Prefixes, prefixes...)
	}
	c.filtered = len(*ports)+len(*hosts) > 0
	switch *output {
	case "text":
	case "json":
		c.json = true
	default:
		return fmt.Errorf("--output: %q is neither text nor json", *output)
	}
	for _, list := range *failOn {
		for name := range strings.SplitSeq(list, ",") {
			if err := c.addFailOn(strings.TrimSpace(name)); err != nil {
				return fmt.Errorf("--fail-on: %w", err)
			}
		}
	}
	if *local {
		c.location = time.Local
	}
	switch {
	case c.quiet && c.all:
		return errors.New("--quiet shows the summary only and --all shows everything: choose one")
	case c.json && *local:
		return errors.New("--local-time is for text: JSON has all times in UTC")
	case c.maxConnections < 1:
		return fmt.Errorf("--max-connections: %d is not a number of connections above 0", c.maxConnections)
	}
	if err := c.checkLive(&lf, fs.Changed); err != nil || c.live != nil {
		return err
	}
	if len(c.operands) == 0 {
		return hinted{errors.New("no capture given"), "whyreset FILE explains a capture, whyreset demo shows what that looks like, whyreset --help says more"}
	}
	return c.checkFiles()
}

// checkFiles rejects what cannot be meant.
func (c *command) checkFiles() error {
	for i, name := range c.operands {
		if name == "" {
			return errors.New("a file name is empty")
		}
		if name != "-" {
			continue
		}
		if slices.Contains(c.operands[i+1:], "-") {
			return errors.New("standard input (-) can be read only once")
		}
		if isTerminal(c.stdin) {
			return hinted{errors.New("standard input is a terminal, not a capture"), "tcpdump -U -w - … | whyreset -"}
		}
	}
	return nil
}

func (c *command) addFailOn(name string) error {
	if name != "lost" && !slices.Contains(correlate.Families(), name) {
		if _, err := correlate.ParseVerdict(name); err != nil {
			return unknownVerdict(name)
		}
	}
	c.failOn = append(c.failOn, name)
	return nil
}

// fails reports whether --fail-on names what these findings were.
func (c *command) fails(s *correlate.Summary) bool {
	for _, name := range c.failOn {
		if name == "lost" && s.Lost > 0 || name == correlate.StillOpen.String() && s.StillOpen > 0 {
			return true
		}
		for _, count := range s.Verdicts {
			if name == count.Verdict.String() || name == count.Verdict.Family() {
				return true
			}
		}
	}
	return false
}

// help prints what there is to know of flags.
func (c *command) help() int {
	if len(c.operands) == 0 {
		return c.finish(printf(c.stdout, usage, correlate.DefaultMaxConnections))
	}
	return c.finish(printf(c.stdout, liveUsage))
}

// explain says what a verdict means.
func (c *command) explain() int {
	if len(c.operands) == 0 {
		return c.finish(report.ExplainAll(c.stdout))
	}
	name := c.operands[0]
	if v, err := correlate.ParseVerdict(name); err == nil {
		return c.finish(report.Explain(c.stdout, v))
	}
	if slices.Contains(correlate.Families(), name) {
		return c.finish(report.ExplainAll(c.stdout, name))
	}
	if ok, err := report.ExplainWord(c.stdout, name); ok {
		return c.finish(err)
	}
	c.complain(unknownVerdict(name))
	return exitUsage
}

func unknownVerdict(name string) error {
	if near := report.Similar(name); len(near) > 0 {
		return fmt.Errorf("no verdict is called %q; did you mean %s?", name, strings.Join(near, " or "))
	}
	return fmt.Errorf("no verdict is called %q; whyreset explain lists them", name)
}

// version returns what the build recorded about itself.
func version() string {
	v := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			// The version of a build from a checkout holds the revision already.
			if s.Key == "vcs.revision" && v == "(devel)" {
				v += " " + s.Value
			}
		}
	}
	return fmt.Sprintf("whyreset %s %s %s/%s", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// A hinted error comes with what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// complain says what went wrong, and what to do about it where that is known.
func (c *command) complain(err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") { // errors.Join puts each on a line
		fmt.Fprintf(c.stderr, "whyreset: %s\n", oneLine(line))
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(c.stderr, "whyreset: hint: %s\n", hint)
	}
}

// oneLine keeps what a file name or an argument brings in from breaking lines or
// driving the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func hintFor(err error) string {
	var h hinted
	var written *capture.RecordError
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.As(err, &written):
		return "" // the others are about what is read
	case errors.Is(err, fs.ErrPermission):
		return "captures belong to whoever recorded them, root as a rule: try sudo, or chown the file"
	case errors.Is(err, fs.ErrNotExist):
		return "look at the name; tcpdump -W and -C add a number to it"
	case errors.Is(err, capture.ErrFormat):
		return "it reads pcap and pcapng: copy a damaged file again, or convert other formats with editcap"
	case errors.Is(err, capture.ErrLinkType):
		return "record with tcpdump -i any, or convert with editcap -T"
	}
	return ""
}

// finish turns the outcome of writing to standard output into an exit status.
func (c *command) finish(err error) int {
	if err == nil || isClosedPipe(err) {
		// Whoever read has seen enough, as head has: nothing went wrong.
		return exitOK
	}
	c.complain(fmt.Errorf("write to standard output: %w", unwrapPath(err)))
	return exitError
}

func isClosedPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

// unwrapPath drops the operation and the name that an os.File puts before its errors.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func printf(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// isTerminal reports whether f is a file that a person looks at or types into.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
