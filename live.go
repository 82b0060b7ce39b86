package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"whyreset/capture"
	"whyreset/report"
)

// liveUsage fits on a screen too.
const liveUsage = `whyreset -i IFACE... explains what passes as it happens (Linux; with sudo, or
setcap cap_net_raw=ep on the program).

  -i, --interface IFACE     listen on it; again for more; any: all, and new ones
      --container NAME|ID   in its network; the beginning of either will do
      --all-containers      in the networks of all; with --ebpf, of new ones too
      --pid PID             in the network of a process; again for more
      --netns NAME|PATH     in this network namespace; again for more
      --ebpf                packets stay in the kernel: no -w, --ring, --count
      --ebpf=facts          no packets: each reset, as the kernel explains it
      --ebpf=no             packets, and nothing that the kernel adds
      --cgroup NAME|PATH    with --ebpf or =facts: of a control group's sockets
  -w, --write FILE          also write what is captured to FILE, as pcapng
      --ring FILES,SIZE     to FILE.0001 and so on; the oldest is overwritten
      --duration TIME       end after 90s, 15m, 2h
      --count N             end after N packets
      --buffer SIZE         for bursts (default 64MB; with --ebpf 32MB)
      --snap BYTES          of each packet; with --ebpf of a message, up to 1024
      --user NAME           go on as this user once all is open

  sudo whyreset --container web -p 8080 -w /tmp/web --ring 10,100MB -o json
-p, --host, -o, --all, -q and the others work as for files (whyreset --help).
Ctrl-C and SIGTERM end with the summary; SIGUSR1 prints it to standard error.
`

// live is what the arguments ask of a live capture.
type live struct {
	interfaces []string
	spots      []spot // where; none: here
	groups     []spot // control groups, of whose sockets; none: of all
	everywhere bool   // in every container
	ebpf       string // one of ebpfPackets and so on; "": what may be used of it
	places     []capture.Place
	spaces     map[uint64]string // the places' names, by the inode numbers of their namespaces
	write      string
	files      int   // of a ring; 0: none
	size       int64 // of each
	duration   time.Duration
	count      uint64
	buffer     int
	snap       int
	user       *identity // nil: stay
}

// liveFlags are as given, before they are checked.
type liveFlags struct {
	interfaces              []string
	netns, pids, containers []string
	cgroups                 []string
	allContainers           bool
	ebpf                    string
	write, ring             string
	duration                time.Duration
	count, snap             int
	buffer                  string
	user                    string
}

// checkLive makes sense of the flags of a live capture.
func (c *command) checkLive(f *liveFlags, given func(name string) bool) error {
	spots, groups, err := spots(f)
	if err != nil {
		return err
	}
	switch alone := f.ebpf == ebpfFacts; {
	case given("ebpf") && f.ebpf != ebpfPackets && f.ebpf != ebpfFacts && f.ebpf != ebpfNo:
		return fmt.Errorf("--ebpf: %q is not packets, facts or no", f.ebpf)
	case len(groups) > 0 && !alone && f.ebpf != ebpfPackets:
		return errors.New("--cgroup says whose sockets they are, which the kernel tells and packets do not: it is for --ebpf and --ebpf=facts")
	case alone:
		if err := checkFacts(given); err != nil {
			return err
		}
	case f.ebpf == ebpfPackets:
		if err := checkRecord(given); err != nil {
			return err
		}
	case len(f.interfaces)+len(spots) == 0 && !f.allContainers:
		for _, name := range []string{"write", "ring", "duration", "count", "buffer", "snap", "user", "ebpf"} {
			if given(name) {
				return fmt.Errorf("--%s is for live captures, with -i or --container", name)
			}
		}
		return nil
	}
	c.live = &live{interfaces: f.interfaces, spots: spots, groups: groups, everywhere: f.allContainers, ebpf: f.ebpf, write: f.write, duration: f.duration, count: uint64(max(f.count, 0)), snap: f.snap}
	l := c.live
	switch {
	case len(c.operands) > 0:
		return fmt.Errorf("-i, --netns, --pid, --container and --ebpf watch live, and %s is a capture: choose one", c.operands[0])
	case f.allContainers && len(spots) > 0:
		return fmt.Errorf("--all-containers is for all of them: leave out --%s", spots[0].kind)
	case slices.Contains(f.interfaces, ""):
		return errors.New("--interface: the name is empty")
	case given("duration") && f.duration <= 0:
		return fmt.Errorf("--duration: %v is not a time above 0", f.duration)
	case given("count") && f.count < 1:
		return fmt.Errorf("--count: %d is not a number above 0", f.count)
	case given("snap") && f.snap < 100:
		return fmt.Errorf("--snap: %d bytes do not hold the headers: at least 100", f.snap)
	case l.ebpf == ebpfPackets && f.snap > capture.MaxKept:
		return fmt.Errorf("--snap: with --ebpf there is room for %d bytes of each message", capture.MaxKept)
	case given("write") && (l.write == "" || l.write == "-"):
		return errors.New("--write needs the name of a file; findings go to standard output")
	case given("ring") && l.write == "":
		return errors.New("--ring needs -w FILE")
	}
	if given("buffer") {
		n, err := parseSize(f.buffer)
		if err != nil || n < capture.MinBuffer || n > 1<<31 {
			return fmt.Errorf("--buffer: %q is not a size from 1MB to 2GB", f.buffer)
		}
		l.buffer = int(n)
	}
	if given("ring") {
		files, size, _ := strings.Cut(f.ring, ",")
		n, err := strconv.Atoi(files)
		if err != nil || n < 2 || n > capture.MaxRing {
			return fmt.Errorf("--ring: %q: the number of files is 2 to %d; an example is 10,100MB", f.ring, capture.MaxRing)
		}
		l.files = n
		if l.size, err = parseSize(size); err != nil || l.size < 4096 {
			return fmt.Errorf("--ring: %q: the size of a file is at least 4kB; an example is 10,100MB", f.ring)
		}
	}
	if given("user") {
		id, err := lookUpUser(f.user)
		if err != nil {
			return fmt.Errorf("--user: %w", err)
		}
		l.user = id
	}
	return nil
}

// parseSize reads 65536, 64kB, 64MB and 1GB; with or without the B, in powers of
// 1024, as those who size buffers mean them.
func parseSize(text string) (int64, error) {
	s := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(text)), "b")
	s = strings.TrimSuffix(s, "i")
	shift := 0
	if i := strings.IndexAny(s, "kmg"); i >= 0 && i == len(s)-1 {
		shift = 10 * (strings.IndexByte("kmg", s[i]) + 1)
		s = s[:i]
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > 1<<40>>shift {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	return n << shift, nil
}

// watch explains live traffic.
func (c *command) watch(ctx context.Context) int {
	l, summary := c.live, notifySummary() // at once: unhandled, the signal kills
	done, err := c.findPlaces(ctx)
	if err != nil {
		c.complain(c.hint(err))
		return exitError
	}
	defer done()
	src, err := capture.OpenLive(capture.LiveConfig{Places: l.places, Filter: c.filter, Buffer: l.buffer, Snap: l.snap})
	if err != nil {
		c.complain(c.hint(err))
		return exitError
	}
	defer src.Close()
	var facts *beside
	var with string
	if l.ebpf != ebpfNo {
		facts, with = factsBeside(c.filter, l.spaces, src.Zones())
		facts.look(l.places...)
		defer facts.close()
	}
	var rec *capture.Recording
	if l.write != "" {
		if rec, err = capture.CreateRecording(l.write, l.files, l.size, l.giveAway); err != nil {
			c.complain(err)
			return exitError
		}
	}
	if !c.giveUpPrivileges() {
		if rec != nil {
			rec.Discard()
		}
		return exitError
	}
	if rec != nil {
		src.Record(rec)
	}
	j := newJob(c, report.Options{
		Files: src.Files(),
		Zones: src.Zones(),
		// Wireshark counts as we do in what we write.
		StreamIDs: l.write != "" && l.files == 0,
		Color:     wantsColor(c.stdout),
		Location:  c.location,
	}, facts)
	where := make([]string, len(l.places))
	for i := range l.places {
		where[i] = l.places[i].String()
	}
	fmt.Fprintf(c.stderr, "whyreset: listening on %s\n", oneLine(strings.Join(where, "; ")+with))
	w := &watcher{job: j, command: c, src: src, facts: facts, summary: summary}
	stopped := w.run(ctx)
	w.complainOf(facts.last(w.tracker))
	return c.conclude(j, src, stopped)
}

// giveUpPrivileges is for when all is open: what reads what strangers send needs no
// privilege. It reports false after it has said why that went wrong.
func (c *command) giveUpPrivileges() bool {
	if c.drop == nil {
		return true
	}
	err := c.drop(c.live.user)
	if errors.Is(err, errors.ErrUnsupported) {
		c.complain(hinted{errors.New("warning: capabilities are kept: this program was built with cgo"), "build it with CGO_ENABLED=0"})
		return true
	}
	if err != nil {
		var hint string
		if c.live.user != nil {
			hint = "--user needs CAP_SETUID and CAP_SETGID: run it with sudo, or without --user"
		}
		c.complain(hinted{fmt.Errorf("give up privileges: %w", err), hint})
	}
	return err == nil
}

// giveAway gives a file that root has created to the one who asked for it.
func (l *live) giveAway(f *os.File) error {
	switch {
	case l.user != nil:
		return f.Chown(l.user.uid, l.user.gid)
	case os.Geteuid() == 0 && os.Getenv("SUDO_UID") != "":
		uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
		gid, err2 := strconv.Atoi(os.Getenv("SUDO_GID"))
		if err == nil && err2 == nil {
			return f.Chown(uid, gid)
		}
	}
	return nil
}

// A watcher is a job that reads a live capture.
type watcher struct {
	*job
	command *command
	src     liveSource
	facts   *beside
	over    func() string    // says that what is watched has ended; nil where src knows
	come    func()           // takes in the places that have come; nil if none can
	summary <-chan os.Signal // asks for the summary so far
	missed  uint64           // packets of which was told
	full    uint64           // the same of segments that a recorder had no room for
	told    time.Time        // when
}

// A liveSource is a source of what happens now.
type liveSource interface {
	capture.Source
	Stop()
	Reached() capture.Time
	Notices() []string
}

// tellEvery bounds how often missed packets are told of.
const tellEvery = 5 * time.Second

// run reads until somebody ends it. It returns why it stopped otherwise, or nil;
// an error of writing findings is in w.err.
func (w *watcher) run(ctx context.Context) (err error) {
	l := w.command.live
	defer context.AfterFunc(ctx, w.src.Stop)()
	if l.duration > 0 {
		defer time.AfterFunc(l.duration, w.src.Stop).Stop()
	}
	// The end of what is written belongs to the run.
	defer func() {
		if e := w.src.Close(); err == nil {
			err = e
		}
	}()
	var seg capture.Segment
	for n := uint64(0); w.err == nil; {
		switch err := w.src.Next(&seg); {
		case err == nil:
			w.tracker.Add(&seg)
			if n++; n == l.count {
				return nil
			}
		case err == capture.ErrTick:
			w.complainOf(w.facts.read(w.tracker))
			w.tracker.Tick(w.src.Reached())
			w.tick()
		case err == io.EOF:
			return nil
		default:
			w.notices()
			return err
		}
	}
	return nil
}

// tick does what is to be done ten times a second.
func (w *watcher) tick() {
	now := time.Now()
	if w.come != nil {
		w.come()
	}
	if w.over != nil {
		if ended := w.over(); ended != "" {
			w.over = nil
			w.complainOf(errors.New(ended))
			w.src.Stop()
		}
	}
	w.notices()
	stats := w.src.Stats()
	if now.Sub(w.told) >= tellEvery {
		w.tellMissed(now, &stats)
	}
	select {
	case <-w.summary:
		w.summarize(stats)
	default:
	}
	if r, ok := w.src.(interface{ Loads() []capture.Load }); ok {
		for _, l := range r.Loads() {
			w.tracker.Load(&l)
		}
	}
	w.collectOften()
	w.progress.show(now, func() string {
		return liveLine(stats, w.tracker.Connections(), w.tracker.Lost(), now.Sub(w.progress.start))
	})
	if w.out.Buffered() > 0 {
		w.progress.erase()
		w.keep(w.out.Flush())
	} else if nobodyReads(w.command.stdout) {
		w.keep(io.ErrClosedPipe)
	}
}

// tellMissed says what has been missed since it last was said.
func (w *watcher) tellMissed(now time.Time, s *capture.Stats) {
	if s.Missed > w.missed {
		w.missed, w.told = s.Missed, now
		w.complainOf(hinted{fmt.Errorf("warning: packets missed so far: %d", s.Missed), "a larger buffer helps: --buffer 256MB"})
	}
	if r := s.Recorder; r != nil && r.Full > w.full {
		w.full, w.told = r.Full, now
		w.complainOf(hinted{fmt.Errorf("warning: segments not recorded so far, of connections for which the kernel's table has no room: %d", r.Full), roomHint})
	}
}

// complainOf says that something went wrong which is no reason to stop.
func (w *watcher) complainOf(err error) {
	if err != nil {
		w.progress.erase()
		w.command.complain(err)
	}
}

// notices says what became of interfaces.
func (w *watcher) notices() {
	for _, n := range w.src.Notices() {
		w.progress.erase()
		w.command.complain(errors.New(n))
	}
}

// summarize prints the summary so far. Standard output has one summary, at its
// end: programs read it.
func (w *watcher) summarize(stats capture.Stats) {
	var b bytes.Buffer
	text := report.NewText(&b, report.Options{Zones: w.src.Zones(), Color: wantsColor(w.command.stderr), Location: w.command.location})
	sum := report.Summary{Tracker: w.tracker.Summary(), Capture: stats, RTT: w.rtt}
	if err := text.Summary(&sum); err != nil {
		return
	}
	w.progress.erase()
	fmt.Fprintf(w.command.stderr, "whyreset: so far, leaving aside open connections (%d) and verdicts that wait for a server's idle timer (%d):\n%s",
		w.tracker.Open(), w.tracker.Held(), b.Bytes())
}

// liveLine says how a live capture goes.
func liveLine(s capture.Stats, connections, lost uint64, elapsed time.Duration) string {
	line := fmt.Sprintf("whyreset: %s, %d packets, %d connections, %d lost", elapsed.Round(time.Second), s.Packets, connections, lost)
	if s.Missed > 0 {
		line += fmt.Sprintf(", %d missed", s.Missed)
	}
	return line
}

// hint adds to an error what gives the privilege that is missing.
func (c *command) hint(err error) error {
	if hintFor(err) != "" && errors.As(err, new(hinted)) {
		return err
	}
	enters := errors.Is(err, capture.ErrEnter)
	if !enters && !errors.Is(err, capture.ErrPrivilege) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	name, e := os.Executable()
	if e != nil {
		name = "whyreset"
	}
	recorder := c.live.ebpf == ebpfPackets // CAP_SYS_ADMIN stands for all that its programs take
	switch {
	case os.Geteuid() == 0:
		return hinted{err, "root has been denied it here; a container is given it with --privileged, or --cap-add NET_RAW,SYS_ADMIN,SYS_PTRACE"}
	case len(c.live.spots) == 0 && !recorder:
		return hinted{err, fmt.Sprintf("it needs CAP_NET_RAW: sudo %s, or once: sudo setcap cap_net_raw=ep %[1]s", name)}
	case recorder:
		return hinted{err, fmt.Sprintf("it needs CAP_SYS_ADMIN and, for what is another user's, CAP_SYS_PTRACE: sudo %s", name)}
	}
	return hinted{err, fmt.Sprintf("it needs CAP_NET_RAW, CAP_SYS_ADMIN and, for what is another user's, CAP_SYS_PTRACE: sudo %s", name)}
}
