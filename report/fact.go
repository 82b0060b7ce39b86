package report

import (
	"strings"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// A FactWriter is one form of output of what the kernel tells without any packet.
type FactWriter interface {
	// Event writes e, or counts it with others that look the same.
	Event(e *correlate.Event) error
	// Tick writes what was counted until now.
	Tick(now capture.Time) error
	// Summary comes last.
	Summary(s *FactSummary) error
}

// A FactSummary is what is said at the end of a run without packets.
type FactSummary struct {
	Tally       *correlate.Tally
	Start, End  capture.Time
	Facts, Lost uint64 // that the kernel handed over, and had no room for
	Stopped     string // why it did not run to its end; "" if it did
}

// Incomplete returns why the summary does not cover all that happened, or "".
func (s *FactSummary) Incomplete() string {
	var why []string
	if s.Stopped != "" {
		why = append(why, s.Stopped)
	}
	if s.Lost > 0 {
		why = append(why, plural(s.Lost, "fact was", "facts were")+" lost: the kernel had no room for more")
	}
	return strings.Join(why, "; ")
}

// eventID is what an event is called by where there is no reason of the kernel's.
func eventID(kind capture.FactKind) string {
	switch kind {
	case capture.Closed:
		return "closed-unread"
	case 0:
		return ""
	}
	return kind.String()
}

// eventTitle says in a clause what happened.
func eventTitle(e *correlate.Event) string {
	unread := "data"
	if e.HasUnread && e.Unread > 0 {
		unread = plural(uint64(e.Unread), "byte", "bytes")
	}
	subject := "this end "
	switch {
	case e.Server:
		subject = "the server "
	case e.Client:
		subject = "the client "
	}
	switch e.Kind {
	case capture.ResetReceived:
		title := "the other end reset the connection"
		if e.HasUnread && e.Unread > 0 {
			title += " with " + unread + " received here and not read"
		}
		return title
	case capture.Closed:
		if e.NewState == "CLOSE" {
			return subject + "was ended with " + unread + " received and not read"
		}
		return subject + "closed its side with " + unread + " received and not read"
	}
	title := subject + reasonTitle(e.Reason, unread)
	if e.HasUnread && e.Unread > 0 && !strings.Contains(title, unread) {
		title += ", with " + unread + " received and not read"
	}
	return title
}

// containerText names a container as well as that is known.
func containerText(p *capture.Process) string {
	if p.Name != "" {
		return escape(shorten(p.Name, 64))
	}
	return escape(p.Container[:min(len(p.Container), 12)])
}

// likelySafeText is all that facts alone can say of a request that nobody had read.
const likelySafeText = "retry likely safe, if that is where a request begins: not a byte of it had been read"

// requestText returns "POST /orders", "" if nothing begins like a request.
func requestText(e *correlate.Event) string {
	if e.Method == "" {
		return ""
	}
	return strings.TrimSpace(escape(shorten(e.Method, 32)) + " " + escape(shorten(e.Target, 120)))
}

// eventLine is all about an event in one line, but for its time.
func (t *FactText) eventLine(e *correlate.Event) string {
	arrow := map[capture.FactKind]string{capture.ResetSent: " → ", capture.ResetReceived: " ← "}[e.Kind]
	if arrow == "" {
		arrow = " – "
	}
	id, color := e.Reason, red
	if e.Kind != capture.ResetSent || id == "" {
		id = eventID(e.Kind)
	}
	if e.Kind != capture.ResetSent {
		color = yellow
	}
	parts := []string{t.paint(color, escape(id)) + "  " + eventTitle(e)}
	if r := requestText(e); r != "" {
		parts = append(parts, "begins like "+r)
	}
	if o := processText(&e.Owner); o != "" {
		parts = append(parts, "by "+o)
	}
	if e.HasIdle {
		parts = append(parts, "idle "+seconds(e.Idle))
	}
	if e.Retry == correlate.RetryLikelySafe {
		parts = append(parts, likelySafeText)
	}
	return e.Local.String() + arrow + e.Remote.String() + "  " + strings.Join(parts, "; ")
}

// FactText writes events for people, one line each.
type FactText struct {
	*Text
	folds map[foldKey]*fold
	order []foldKey // in which they began
}

// Events that look the same are those with the same key. Beyond foldAfter of them
// within foldEvery, they are counted: a service that fails resets thousands of
// connections a second.
type foldKey struct {
	kind   capture.FactKind
	reason string
	owner  capture.Process
	where  uint64
}

type fold struct {
	since capture.Time
	shown int
	more  uint64
	last  *correlate.Event
}

const (
	foldAfter = 5
	foldEvery = time.Second
)

// NewFactText returns a writer of text.
func NewFactText(t *Text) *FactText { return &FactText{Text: t, folds: map[foldKey]*fold{}} }

// Event implements [FactWriter].
func (t *FactText) Event(e *correlate.Event) error {
	if err := t.Tick(e.Time); err != nil {
		return err
	}
	key := foldKey{e.Kind, e.Reason, e.Owner, e.Where}
	f := t.folds[key]
	if f == nil {
		f = &fold{since: e.Time}
		t.folds[key] = f
		t.order = append(t.order, key)
	}
	if f.shown == foldAfter {
		f.more, f.last = f.more+1, e
		return nil
	}
	f.shown++
	return t.line(e.Time, t.eventLine(e))
}

// Tick implements [FactWriter].
func (t *FactText) Tick(now capture.Time) error {
	if len(t.order) == 0 || now.Sub(t.folds[t.order[0]].since) < foldEvery {
		return nil
	}
	rest := t.order[:0]
	var err error
	for _, key := range t.order {
		f := t.folds[key]
		if now.Sub(f.since) < foldEvery {
			rest = append(rest, key)
			continue
		}
		delete(t.folds, key)
		if f.more > 0 && err == nil {
			err = t.line(f.last.Time, t.paint(dim, plural(f.more, "more like that", "more like these")+" within "+timeout(f.last.Time.Sub(f.since))+", the last:  ")+t.eventLine(f.last))
		}
	}
	t.order = rest
	return err
}

// line writes a line that begins with a time, and the day before it if that has
// changed.
func (t *FactText) line(at capture.Time, text string) error {
	var b strings.Builder
	local := at.Std().In(t.opt.Location)
	if day := local.Format("2006-01-02 MST"); day != t.day {
		if t.day != "" {
			b.WriteString(t.paint(dim, day) + "\n")
		}
		t.day = day
	}
	b.WriteString(local.Format("15:04:05.000000") + "  " + text + "\n")
	t.some = true
	return t.write(b.String())
}

func (t *FactText) write(s string) error {
	_, err := t.w.Write([]byte(s))
	return err
}

// Summary implements [FactWriter].
func (t *FactText) Summary(s *FactSummary) error {
	if err := t.Tick(s.End.Add(foldEvery)); err != nil {
		return err
	}
	var b strings.Builder
	if t.some {
		b.WriteByte('\n')
	}
	lost := "none lost"
	if s.Lost > 0 {
		lost = group(s.Lost) + " lost"
	}
	b.WriteString(plural(s.Tally.Events, "reset or end with data unread", "resets and ends with data unread") + " in " + span(s.End.Sub(s.Start)) +
		" (" + plural(s.Facts, "fact", "facts") + " of the kernel, " + lost + ")\n")
	if why := s.Incomplete(); why != "" {
		b.WriteString("not complete: " + printable(why) + "\n")
	}
	if counts := s.Tally.Counts(); len(counts) > 0 {
		rows := table{right: []bool{false, true, true, true}}
		rows.add("reason", "count", "requests", "likely safe", "process", "container")
		for _, c := range counts[:min(len(counts), maxCounts)] {
			id := c.Reason
			switch {
			case c.Kind == 0:
				id = "all others"
			case c.Kind != capture.ResetSent || id == "":
				id = eventID(c.Kind)
			}
			rows.add(escape(id), group(c.Events), dash(c.Requests), dash(c.Safe), escape(c.Owner.Command), containerText(&c.Owner))
		}
		b.WriteString("\n" + strings.Join(rows.lines(), "\n") + "\n")
		if more := len(counts) - maxCounts; more > 0 {
			b.WriteString("  and " + plural(uint64(more), "more kind, which", "more kinds, which") + " -o json lists\n")
		}
		b.WriteString("\n  whyreset explain REASON says what one means\n")
	}
	return t.write(b.String())
}

// maxCounts is how many rows people read.
const maxCounts = 30

func dash(n uint64) string {
	if n == 0 {
		return "–"
	}
	return group(n)
}
