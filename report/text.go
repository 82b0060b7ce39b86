package report

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// Text writes findings for people: one line to scan, and below it the lines that
// convince.
type Text struct {
	w     io.Writer
	opt   Options
	day   string       // of the last finding
	some  bool         // a finding was written
	kinds map[kind]int // how many findings there were of each
}

// A kind of findings is what most lines of a finding are the same for.
type kind struct {
	verdict correlate.Verdict
	server  capture.Endpoint
}

// Of the findings of one kind, those beyond inFull leave out what they would
// repeat, and those beyond inPart their evidence too: hundreds are read for their
// number, their times and their requests.
const (
	inFull = 5
	inPart = 50
)

// NewText returns a writer of text.
func NewText(w io.Writer, opt Options) *Text {
	if opt.Location == nil {
		opt.Location = time.UTC
	}
	return &Text{w: w, opt: opt, kinds: map[kind]int{}}
}

// Finding writes f.
func (t *Text) Finding(f *correlate.Finding) error {
	var b strings.Builder
	words := WordsOf(f.Verdict)
	if t.some {
		b.WriteByte('\n')
	}
	t.some = true
	at := f.Time.Std().In(t.opt.Location)
	// The scan line has no date, so that a change of it is said once.
	if day := at.Format("2006-01-02 MST"); day != t.day {
		if t.day != "" {
			b.WriteString(t.paint(dim, day) + "\n\n")
		}
		t.day = day
	}
	b.WriteString(at.Format("15:04:05.000000") + "  " +
		f.Connection.Client.String() + " → " + t.opt.place(f.Connection.Server) + "  " +
		t.paint(familyColor(f), f.Verdict.String()))
	if c := f.Confidence.String(); c != "" {
		b.WriteString("  " + c)
	}
	b.WriteByte('\n')
	k := kind{f.Verdict, f.Connection.Server}
	t.kinds[k]++
	full, part := t.kinds[k] <= inFull, t.kinds[k] <= inPart

	b.WriteString("  " + what(f, words) + "\n")
	switch t.kinds[k] {
	case inFull + 1:
		b.WriteString(t.paint(dim, "  (the "+ordinal(inFull+1)+" "+f.Verdict.String()+" of this server: from here on without what would be repeated)") + "\n")
	case inPart + 1:
		b.WriteString(t.paint(dim, "  (the "+ordinal(inPart+1)+" "+f.Verdict.String()+" of this server: from here on without evidence, which -o json has)") + "\n")
	}
	if !part {
		t.label(&b, "wireshark", t.wireshark(f)...)
		_, err := io.WriteString(t.w, b.String())
		return err
	}
	if line := idleLine(f); line != "" {
		b.WriteString("  " + line + "\n")
	}
	if full && limitsMeet(f) {
		h := hopOf(f)
		if line := h.clientLine(); line != "" {
			b.WriteString("  " + line + "\n")
		}
	}
	if line := responseLine(f); line != "" {
		b.WriteString("  " + line + "\n")
	}
	for _, end := range []struct {
		name string
		end  *correlate.End
	}{{"client", &f.Client}, {"server", &f.Server}} {
		if line := processText(&end.end.Process); line != "" {
			t.label(&b, end.name, line)
		}
	}
	if e := f.Connection.Elided; e != nil {
		t.label(&b, "elided", fmt.Sprintf("%s before, %s, of which the recorder kept nothing; the last of it passed at %s",
			plural(uint64(e.Requests), "request", "requests"), plural(e.Bytes, "byte", "bytes"), e.Until.Std().In(at.Location()).Format("15:04:05.000000")))
	}
	if notes := notes(f); len(notes) > 0 {
		t.label(&b, "noted", printable(strings.Join(notes, "; ")))
	}
	// Only what is proven is called a proof.
	name := "seen"
	if f.Confidence == correlate.Proven {
		name = "proof"
	}
	t.label(&b, name, t.proof(f, full)...)
	if full && f.Confidence == correlate.Weak && words.Doubt != "" {
		t.label(&b, "doubt", words.Doubt)
	}
	if len(f.Candidates) > 0 {
		var fits []string
		for _, v := range f.Candidates {
			fits = append(fits, v.String()+": "+WordsOf(v).Title)
		}
		t.label(&b, "fits", fits...)
	}
	if f.Lost || f.Verdict.Family() != "clean" || abnormal(f) {
		if full && f.Verdict.Family() != "unknown" {
			client, server, both := strings.Cut(words.Saw, "; at the server ")
			t.label(&b, "client saw", client)
			if both {
				t.label(&b, "server saw", server)
			}
		}
		if line := retryLine(f); line != "" {
			t.label(&b, "retry", line)
		}
		if full {
			t.label(&b, "fix", t.opt.fix(f))
		}
	}
	t.label(&b, "wireshark", t.wireshark(f)...)
	_, err := io.WriteString(t.w, b.String())
	return err
}

// label writes "  name   first line" and further lines below the first.
func (t *Text) label(b *strings.Builder, name string, lines ...string) {
	width := max(len("proof"), len(name))
	for i, line := range lines {
		if i == 0 {
			b.WriteString("  " + t.paint(dim, name) + strings.Repeat(" ", width-len(name)+2))
		} else {
			b.WriteString(strings.Repeat(" ", width+4))
		}
		b.WriteString(line + "\n")
	}
}

// what says which request the finding is about and what became of it.
func what(f *correlate.Finding, words Words) string {
	r, under := f.Request, tlsName(f.Connection.TLS)
	if r == nil && under != "" {
		return "no request, " + under + ": " + words.Title
	}
	if r == nil {
		return "no request: " + words.Title
	}
	name := "request " + strconv.Itoa(r.Number) + " on this connection"
	if !f.Connection.StartSeen {
		name = "request " + strconv.Itoa(r.Number) + " seen on this connection"
	}
	if under != "" {
		name += ", " + under
	}
	if r.Method != "" {
		name = requestName(r, f.Connection.Server.AddrPort()) + ", " + name
	}
	switch {
	case f.Lost:
		return name + ", lost: " + titleOf(f, words)
	case f.Verdict.Family() == "clean" || f.Verdict.Family() == "unknown":
		name += ", the last"
	}
	if f.Response != nil && f.Response.Status != 0 && f.Response.Complete {
		name += ", answered " + strconv.Itoa(f.Response.Status)
	}
	return name + ": " + words.Title
}

// tlsName returns "under TLS 1.3 to www.example.com", or as much of it as is
// known; "" if the connection did not speak TLS.
func tlsName(c *correlate.TLS) string {
	if c == nil {
		return ""
	}
	name := "under " + cmp.Or(c.Version, "TLS")
	if c.ServerName != "" {
		name += " to " + escape(shorten(c.ServerName, 80))
	}
	if c.ALPN != "" {
		name += " (" + escape(c.ALPN) + ")"
	}
	return name
}

// requestName returns "GET /path", with the host if it is more than the address
// of the server.
func requestName(r *correlate.Request, server netip.AddrPort) string {
	name := escape(shorten(r.Method, 32))
	if r.Target != "" {
		name += " " + escape(shorten(r.Target, 120))
	}
	if r.Host != "" && r.Host != server.String() && r.Host != server.Addr().String() {
		name += " (" + escape(shorten(r.Host, 80)) + ")"
	}
	return name
}

// notes says what the modifiers mean, except those that the number of the
// request implies.
func notes(f *correlate.Finding) []string {
	var notes []string
	for _, m := range f.Modifiers {
		switch words, known := modifierWords[m]; {
		case f.Request != nil && (m == "reused" || m == "first-use"):
		case known:
			notes = append(notes, words.Meaning)
		default:
			notes = append(notes, m)
		}
	}
	return notes
}

// notIdle is how soon a request follows the handshake of a connection that was
// opened for it.
const notIdle = 50 * time.Millisecond

// idleLine says how long the connection had been idle, and what is known of the
// server's timer where that bears on the verdict.
func idleLine(f *correlate.Finding) string {
	if r := f.Request; f.Lost && r != nil && r.Number == 1 && f.HasIdle && f.Idle < notIdle {
		return "" // it was opened for this request: no idle timer has to do with it
	}
	var parts []string
	if f.HasIdle {
		idle := "idle " + seconds(f.Idle)
		if f.Verdict == correlate.StaleConnection || f.Verdict == correlate.IdleBlackhole {
			if names := forgets(f.Idle); len(names) > 0 {
				idle += ", after which it may have been forgotten by " + list(names, "or")
			}
		}
		parts = append(parts, idle)
	}
	switch family := f.Verdict.Family(); {
	case family == "idle-race", family == "stale-reuse", family == "unknown",
		f.Verdict == correlate.CloseBeforeResponse, f.Verdict == correlate.AbortBeforeResponse:
		if f.Timer != nil {
			line := "this server closes idle connections after " + timerText(f.Timer)
			if f.Timer.Closes == 0 {
				line = "this server says that it closes idle connections after " + setting(f.Timer.Stated)
			}
			if like := LooksLike(f.Timer); like != "" {
				line += ", looks like " + like
			}
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

// timerText returns "6.00 s ± 4 ms (38 closes)".
func timerText(t *correlate.Timer) string {
	return timeout(t.Timeout) + " ± " + spread(t.Spread) + " (" + plural(uint64(t.Closes), "close", "closes") + ")"
}

// spread formats a deviation: two digits would be more than it is worth.
func spread(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return strconv.FormatInt(int64(d.Round(time.Microsecond)/time.Microsecond), 10) + " µs"
	case d < time.Second:
		return strconv.FormatInt(int64(d.Round(time.Millisecond)/time.Millisecond), 10) + " ms"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
}

// responseLine says how much of a response there was to a lost request.
func responseLine(f *correlate.Finding) string {
	r := f.Response
	if !f.Lost || r == nil {
		return ""
	}
	line := "response"
	if r.Status != 0 {
		line += " " + strconv.Itoa(r.Status)
	}
	if r.Frame != 0 {
		line += " from frame " + strconv.FormatUint(r.Frame, 10)
	}
	line += ", " + plural(uint64(max(0, r.Bytes)), "byte", "bytes")
	if !r.Complete {
		line += ", not complete"
	}
	return line
}

// proof returns the evidence, and what the place of the capture explains about
// the order of the packets.
func (t *Text) proof(f *correlate.Finding, full bool) []string {
	var lines []string
	for _, e := range f.Evidence {
		line := printable(e.Text)
		frame := "frame " + strconv.FormatUint(e.Frame, 10)
		if e.Frame != 0 && !strings.Contains(line, frame) {
			line += " (" + frame + ")"
		}
		if e.Frame != 0 && len(t.opt.Files) > 1 {
			line += " [" + t.file(e.File) + "]"
		}
		lines = append(lines, line)
	}
	if !full {
		return lines
	}
	if line := vantageLine(f); line != "" {
		lines = append(lines, line)
	}
	return lines
}

// retryLine says whether the lost request may be sent again.
func retryLine(f *correlate.Finding) string {
	var method string
	if f.Request != nil {
		method = f.Request.Method
	}
	switch f.Retry {
	case correlate.RetrySafe:
		return "safe for any method"
	case correlate.RetryLikelySafe:
		return "likely safe: in all likelihood the server has not acted on it"
	case correlate.RetryAmbiguous:
		line := "ambiguous: the server may have acted on it; repeat idempotent methods only"
		if isIdempotent(method) {
			line += ", such as this " + method
		} else if method != "" {
			line += ", which " + escape(shorten(method, 32)) + " is not"
		}
		return line
	case correlate.RetryUnsafe:
		line := "not safe: the server has acted on it, at least in part"
		if isSafe(method) {
			line += "; a " + method + " may be fetched again"
		}
		return line
	}
	return ""
}

// isSafe reports whether RFC 9110, section 9.2.1, calls the method safe.
func isSafe(method string) bool {
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE"}, method)
}

// isIdempotent reports whether RFC 9110, section 9.2.2, calls the method idempotent.
func isIdempotent(method string) bool { return correlate.Idempotent(method) }

// wireshark returns display filters that show the packets of the finding.
func (t *Text) wireshark(f *correlate.Finding) []string {
	if t.opt.Recorded {
		return nil
	}
	frames := map[int][]uint64{}
	only := -1 // the file, if all of the connection is in one
	if len(t.opt.Files) <= 1 {
		only = 0
	} else if len(f.Connection.Files) == 1 {
		only = f.Connection.Files[0]
	}
	for _, e := range f.Evidence {
		if e.Frame != 0 {
			frames[e.File] = append(frames[e.File], e.Frame)
		}
	}
	// These say no file, but in a capture of one there is only one.
	if only >= 0 {
		if f.Request != nil && f.Request.Frame != 0 {
			frames[only] = append(frames[only], f.Request.Frame)
		}
		if f.Close.Frame != 0 {
			frames[only] = append(frames[only], f.Close.Frame)
		}
	}
	files := make([]int, 0, len(frames))
	for file := range frames {
		files = append(files, file)
	}
	slices.SortFunc(files, cmp.Compare)
	var lines []string
	for _, file := range files {
		list := frames[file]
		slices.Sort(list)
		list = slices.Compact(list)
		var b strings.Builder
		if t.opt.StreamIDs {
			b.WriteString("tcp.stream eq " + strconv.FormatUint(f.Connection.ID, 10) + " && ")
		}
		b.WriteString("frame.number in {")
		for i, frame := range list {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(strconv.FormatUint(frame, 10))
		}
		b.WriteString("}")
		if len(t.opt.Files) > 1 {
			b.WriteString("  in " + t.file(file))
		}
		lines = append(lines, b.String())
	}
	return lines
}

// file names a file of the capture.
func (t *Text) file(i int) string {
	if i < 0 || i >= len(t.opt.Files) {
		return "file " + strconv.Itoa(i)
	}
	return printable(t.opt.Files[i])
}

// The terminal's colours, as SGR parameters.
const (
	bold   = "1"
	dim    = "2"
	red    = "1;31"
	green  = "32"
	yellow = "33"
	purple = "35"
)

// paint marks s up if colour is wanted.
func (t *Text) paint(sgr, s string) string {
	if !t.opt.Color {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

// familyColor is red for what the servers' settings or programs did, yellow for
// clients and stale connections, green for what is well, purple for not known.
func familyColor(f *correlate.Finding) string {
	switch f.Verdict.Family() {
	case "clean":
		if abnormal(f) {
			return yellow
		}
		return green
	case "unknown":
		return purple
	case "client-abort", "stale-reuse":
		return yellow
	}
	return red
}
