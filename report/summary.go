package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// Summary writes what was lost, where, whose doing it was and what to change, in
// this order, and then what the capture lacks.
func (t *Text) Summary(s *Summary) error {
	var b strings.Builder
	if t.some {
		b.WriteByte('\n')
	}
	b.WriteString(t.paint(bold, headline(s)) + "\n")
	lost, judged, clean := split(s.Tracker.Verdicts)
	t.block(&b, t.opt.verdictTable(lost))
	t.block(&b, blameTable(lost, s.Tracker.Restarts, t.opt.Location))
	t.block(&b, t.opt.timerTable(s))
	t.block(&b, t.opt.timerAdvice(s))
	t.block(&b, indent(t.opt.patterns(&s.Tracker)))
	t.block(&b, indent(ownerLines(s.Tracker.Owners)))

	var notes []string
	if n, list := tally(clean); n > 0 {
		notes = append(notes, plural(n, "connection", "connections")+" ended with nothing lost (--all shows them): "+list)
	}
	if n, list := tally(judged); n > 0 {
		notes = append(notes, "without a verdict, nothing known to be lost (--all shows them): "+list)
	}
	notes = append(notes, remarks(s, t.opt.Location)...)
	t.block(&b, indent(notes))
	if why := s.Incomplete(); why != "" {
		t.block(&b, indent([]string{t.paint(yellow, "not complete: ") + printable(why)}))
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}

// block writes lines with an empty line before them, and nothing if there are none.
func (t *Text) block(b *strings.Builder, lines []string) {
	if len(lines) > 0 {
		b.WriteString("\n" + strings.Join(lines, "\n") + "\n")
	}
}

func indent(lines []string) []string {
	for i := range lines {
		lines[i] = "  " + lines[i]
	}
	return lines
}

// headline answers whether anything was lost.
func headline(s *Summary) string {
	k := &s.Tracker
	missed := "none missed"
	switch {
	case s.Capture.Missed > 0:
		missed = group(s.Capture.Missed) + " missed"
	case k.Gaps > 0:
		missed = "some missed on " + plural(k.Gaps, "connection", "connections")
	}
	if n := s.unrecorded(); n > 0 {
		missed += ", " + group(n) + " not recorded"
	}
	seen := fmt.Sprintf("(%s of traffic, %s, %s)", span(s.Duration()), plural(s.Capture.Packets, "packet", "packets"), missed)
	connections, requests := plural(k.Connections, "connection", "connections"), plural(k.Requests, "request", "requests")
	unjudged := ""
	if k.Unjudged > 0 {
		unjudged = ", and " + group(k.Unjudged) + " cannot be judged"
	}
	more := s.reused() > k.Requests // of open connections, which have told the tracker nothing yet
	if more {
		requests = "at least " + plural(s.reused(), "request", "requests")
	}
	switch {
	case k.Lost > 0:
		were := "were"
		if k.Lost == 1 {
			were = "was"
		}
		return fmt.Sprintf("%s of %s %s lost on %s of %s%s%s %s",
			group(k.Lost), requests, were, group(k.LostOn), connections, unjudged, unopened(k), seen)
	case more:
		were, on := "were", ""
		if s.reused() == 1 {
			were = "was"
		}
		if k.Connections > 0 {
			on = " on " + connections
		}
		return fmt.Sprintf("nothing known to be lost: %s%s %s answered, as the kernel counts%s%s %s", requests, on, were, unjudged, unopened(k), seen)
	case k.Requests > 0:
		answered := k.Requests - min(k.Waiting+k.Unjudged, k.Requests)
		all := "all " + group(k.Requests) + " requests"
		switch {
		case answered < k.Requests:
			all = fmt.Sprintf("%s of %s", group(answered), plural(k.Requests, "request", "requests"))
		case k.Requests == 1:
			all = "the one request"
		}
		were := "were"
		if answered == 1 {
			were = "was"
		}
		if k.Unjudged > 0 {
			return fmt.Sprintf("nothing known to be lost, but %s of %s on %s cannot be judged%s %s",
				group(k.Unjudged), plural(k.Requests, "request", "requests"), connections, unopened(k), seen)
		}
		if k.Unopened > 0 {
			return fmt.Sprintf("%s of %s could not be opened; %s %s answered %s", group(k.Unopened), connections, all, were, seen)
		}
		if answered == 0 {
			all, were = "all "+group(k.Requests)+" requests", "were"
			if k.Requests == 1 {
				all, were = "the one request", "was"
			}
			return fmt.Sprintf("nothing answered: %s on %s %s still waiting when the capture ended %s", all, connections, were, seen)
		}
		return fmt.Sprintf("nothing lost: %s on %s %s answered %s", all, connections, were, seen)
	case k.Unopened > 0:
		return fmt.Sprintf("%s of %s could not be opened; no HTTP/1 request was seen %s", group(k.Unopened), connections, seen)
	case k.Connections > 0:
		return fmt.Sprintf("nothing to judge: no HTTP/1 request on %s %s", connections, seen)
	case s.Capture.Filtered > 0:
		return fmt.Sprintf("nothing to judge: no TCP segment passed the filter %s", seen)
	}
	return fmt.Sprintf("nothing to judge: no TCP in this capture %s", seen)
}

// unopened says, to be added to a clause, how many connections failed before there was
// a request to be lost; nothing if none did.
func unopened(k *correlate.Summary) string {
	if k.Unopened == 0 {
		return ""
	}
	return ", and " + plural(k.Unopened, "connection", "connections") + " could not be opened"
}

// split divides counts into those with lost requests or worth a look, those
// without a verdict, and those with which nothing is wrong.
func split(counts []correlate.VerdictCount) (lost, judged, clean []correlate.VerdictCount) {
	for _, c := range counts {
		switch {
		case c.Lost > 0 || c.Verdict.Family() != "clean" && c.Verdict.Family() != "unknown":
			lost = append(lost, c)
		case c.Verdict.Family() == "unknown":
			judged = append(judged, c)
		default:
			clean = append(clean, c)
		}
	}
	return lost, judged, clean
}

// tally adds up the connections per verdict, whatever their servers, most first.
func tally(counts []correlate.VerdictCount) (total uint64, list string) {
	byVerdict := map[correlate.Verdict]uint64{}
	for _, c := range counts {
		byVerdict[c.Verdict] += c.Connections
		total += c.Connections
	}
	verdicts := make([]correlate.Verdict, 0, len(byVerdict))
	for v := range byVerdict {
		verdicts = append(verdicts, v)
	}
	slices.SortFunc(verdicts, func(a, b correlate.Verdict) int {
		return cmp.Or(cmp.Compare(byVerdict[b], byVerdict[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, v := range verdicts {
		parts = append(parts, group(byVerdict[v])+" "+v.String())
	}
	return total, strings.Join(parts, ", ")
}

// Beyond these numbers of rows a table says how many more there are; JSON has all.
const (
	maxVerdictRows = 30
	maxTimerRows   = 10
	maxAdvice      = 3
)

// verdictTable says where requests were lost.
func (o *Options) verdictTable(counts []correlate.VerdictCount) []string {
	if len(counts) == 0 {
		return nil
	}
	t := table{right: []bool{false, true, true, true}}
	t.add("verdict", "lost", "connections", "proven", "server")
	counts, ports := byHost(counts)
	for i, c := range counts[:min(maxVerdictRows, len(counts))] {
		proven := group(c.Proven)
		if c.Verdict.Family() == "unknown" {
			proven = "–"
		}
		server := o.serverName(c.Server)
		if ports[i] > 1 {
			server = c.Server.AddrPort().Addr().String() + ", " + plural(uint64(ports[i]), "port", "ports")
		}
		if c.Reason != "" {
			server += "   (" + printable(c.Reason) + ")"
		}
		t.add(c.Verdict.String(), group(c.Lost), group(c.Connections), proven, server)
	}
	return append(t.lines(), more(len(counts)-maxVerdictRows)...)
}

// maxPorts is how many ports of an address have rows of their own where nothing
// was lost: more are a scan.
const maxPorts = 3

// byHost adds up what failed in the same way, with nothing lost, on many ports of
// one address, and says for each row how many ports it stands for.
func byHost(counts []correlate.VerdictCount) (rows []correlate.VerdictCount, ports []int) {
	type host struct {
		verdict correlate.Verdict
		addr    [16]byte
	}
	all, row := map[host]int{}, map[host]int{}
	for _, c := range counts {
		if c.Lost == 0 {
			all[host{c.Verdict, c.Server.Addr}]++
		}
	}
	for _, c := range counts {
		h := host{c.Verdict, c.Server.Addr}
		if c.Lost > 0 || all[h] <= maxPorts {
			rows, ports = append(rows, c), append(ports, 1)
		} else if i, ok := row[h]; ok {
			rows[i].Connections += c.Connections
			rows[i].Proven += c.Proven
			ports[i]++
		} else {
			row[h] = len(rows)
			rows, ports = append(rows, c), append(ports, 1)
		}
	}
	return rows, ports
}

// serverName returns the address of a server, or what stands for those beyond the
// bound of servers that are counted one by one.
func (o *Options) serverName(e capture.Endpoint) string {
	if e == (capture.Endpoint{}) {
		return "other servers"
	}
	return o.place(e)
}

func more(n int) []string {
	if n <= 0 {
		return nil
	}
	return []string{"  … and " + plural(uint64(n), "more row", "more rows") + " (-o json has them all)"}
}

// blameTable says whose doing each verdict is, and what to change. What was lost
// when a server went down is not the doing of the settings that a verdict names.
func blameTable(counts []correlate.VerdictCount, restarts []correlate.Restart, loc *time.Location) []string {
	var verdicts []correlate.Verdict
	width := len("verdict")
	losses, inRestarts := map[correlate.Verdict]uint64{}, map[correlate.Verdict]uint64{}
	for _, c := range counts {
		losses[c.Verdict] += c.Lost
		if restartDecides(c.Verdict) {
			inRestarts[c.Verdict] += c.Restart
		}
		if c.Verdict.Family() != "unknown" && !slices.Contains(verdicts, c.Verdict) {
			verdicts = append(verdicts, c.Verdict)
			width = max(width, len(c.Verdict.String()))
		}
	}
	if len(verdicts) == 0 {
		return nil
	}
	var b strings.Builder
	line := func(name, text string) { entry(&b, "  "+name+strings.Repeat(" ", width-len(name)), text, summaryWidth) }
	line("verdict", "points at, and what to change (more: whyreset explain VERDICT)")
	first := map[string]correlate.Verdict{} // for which a text was written
	for _, v := range verdicts {
		name, others := v.String(), ""
		if n := inRestarts[v]; n > 0 {
			text := restartBlame(restarts, loc)
			if n < losses[v] {
				text = group(n) + " of the " + group(losses[v]) + ": " + text
			}
			line(name, text)
			if _, ok := first[fixRestart]; !ok {
				line("", "→ "+fixRestart)
				first[fixRestart] = v
			}
			if n == losses[v] {
				continue
			}
			name, others = "", "the others: "
		}
		blame, fix := WordsOf(v).Blame, strings.ReplaceAll(FixOf(v), "at this second", "at those seconds")
		if of, ok := first[blame]; ok {
			line(name, others+"as for "+of.String())
		} else {
			line(name, others+blame)
		}
		switch _, ok := first[fix]; {
		case ok:
		case WordsOf(v).Fix == fixIdle:
			line("", "→ the settings named under the idle timers below")
		default:
			line("", "→ "+fix)
		}
		if _, ok := first[blame]; !ok {
			first[blame] = v
		}
		first[fix] = v
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// summaryWidth is that of the paragraphs in the summary.
const summaryWidth = 110

// timerTable says what the servers' idle timers are and what to do about them,
// those with races first.
func (o *Options) timerTable(sum *Summary) []string {
	if len(sum.Tracker.Servers) == 0 {
		return nil
	}
	servers := byRaces(sum)
	var t table
	estimated := false
	t.add("idle timers", "server closes after", "clients reuse up to", "races expected / seen")
	for _, s := range servers[:min(maxTimerRows, len(servers))] {
		after := timeout(s.Timer.Timeout) + " ± " + spread(s.Timer.Spread) + " (" + group(uint64(s.Timer.Closes)) + ")"
		switch {
		case s.Timer.Closes > 0:
		case s.Timer.Stated > 0:
			after = setting(s.Timer.Stated) + ", it says"
		default:
			after = "not known"
		}
		reuse := "–"
		if s.ClientReuse > 0 {
			reuse = timeout(s.ClientReuse)
		}
		if s.ClientTimer.Closes > 0 {
			reuse += ", close after " + timeout(s.ClientTimer.Timeout)
		}
		races := "– / " + group(s.SeenRaces)
		if s.Timer.Closes > 0 {
			races = strconv.FormatFloat(s.ExpectedRaces, 'f', 1, 64) + " / " + group(s.SeenRaces)
			estimated = estimated || s.SeenRaces > 0 || s.ExpectedRaces >= 0.1
		}
		like := LooksLike(&s.Timer)
		if like != "" {
			like = "looks like " + like
		}
		t.add(o.place(s.Server), after, reuse, races, like)
	}
	lines := append(t.lines(), more(len(servers)-maxTimerRows)...)
	if estimated {
		lines = append(lines, expectedMeans...)
	}
	return lines
}

// expectedMeans says what the expected races are (correlate.ServerTimer).
var expectedMeans = []string{
	"  expected: an estimate of how many requests came after a pause that ended within one round trip before the",
	"  server's timeout, so that the close met them on the way; seen: how many were lost to such a race",
}

// timerAdvice says what to change at the servers whose idle timeouts met those of
// their clients, or soon will.
func (o *Options) timerAdvice(sum *Summary) []string {
	servers := slices.DeleteFunc(byRaces(sum), func(s correlate.ServerTimer) bool { return s.SeenRaces == 0 && s.ExpectedRaces < 0.1 })
	if len(servers) == 0 {
		return nil
	}
	shown := servers[:min(maxAdvice, len(servers))]
	width := len("the rule")
	for _, s := range shown {
		width = max(width, len(o.place(s.Server)))
	}
	var b strings.Builder
	line := func(name, text string) { entry(&b, "  "+name+strings.Repeat(" ", width-len(name)), text, summaryWidth) }
	for _, s := range shown {
		h := hop{server: serverLimit(&s.Timer), agrees: LooksLike(&s.Timer) != "", idle: ClientIdle(&s.Timer, sum.RTT[s.Server])}
		name := o.place(s.Server)
		if who := h.clients(s.Clients); who != "" {
			line(name, who)
			name = ""
		}
		line(name, "→ "+h.fill(fixIdle))
	}
	line("the rule", OrderingRule)
	return append(strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n"), more(len(servers)-maxAdvice)...)
}

// clients says which programs use a server, and takes the settings of the one
// that most are for the hop's.
func (h *hop) clients(list []correlate.ClientCount) string {
	var names []string
	for i, c := range list {
		name, k := escape(shorten(c.Product, 64)), clientLimit(c.Product)
		if c.Forwards {
			name = "proxies"
		}
		if i == 0 {
			h.client, h.forwards = k, c.Forwards
		} else if k != h.client || c.Forwards != h.forwards {
			h.client, h.forwards = nil, false // the advice is for all of them
		}
		count := group(c.Connections)
		if i == 0 {
			count = plural(c.Connections, "connection", "connections")
		}
		names = append(names, name+" ("+count+")")
	}
	if len(names) == 0 {
		return ""
	}
	return "clients, by their headers: " + strings.Join(names, ", ")
}

// byRaces returns the servers, those with races first.
func byRaces(sum *Summary) []correlate.ServerTimer {
	servers := slices.Clone(sum.Tracker.Servers)
	slices.SortStableFunc(servers, func(a, b correlate.ServerTimer) int {
		return cmp.Or(cmp.Compare(b.SeenRaces, a.SeenRaces), cmp.Compare(b.ExpectedRaces, a.ExpectedRaces))
	})
	return servers
}

// remarks say what else the reader must know to judge the numbers.
func remarks(s *Summary, loc *time.Location) []string {
	var notes []string
	k, c := &s.Tracker, &s.Capture
	if k.StillOpen > 0 {
		note := plural(k.StillOpen, "connection was", "connections were") + " still open at the end"
		if k.Waiting > 0 {
			note += "; " + plural(k.Waiting, "request was", "requests were") + " waiting for an answer, up to " + seconds(k.LongestWait)
		}
		notes = append(notes, note)
	}
	if k.Unlisted > 0 {
		notes = append(notes, plural(k.Unlisted, "connection", "connections")+" that could not be opened, like others above, only counted (--all shows them)")
	}
	if k.Opaque > 0 {
		notes = append(notes, plural(k.Opaque, "connection", "connections")+" carried something other than HTTP/1 (HTTP/2, …)")
	}
	if c.Undecodable > 0 {
		notes = append(notes, plural(c.Undecodable, "packet", "packets")+" could not be decoded: "+printable(c.FirstBad))
	}
	if c.Fragments > 0 {
		notes = append(notes, plural(c.Fragments, "IP fragment was", "IP fragments were")+" not looked into")
	}
	if r := c.Recorder; r != nil {
		note := fmt.Sprintf("the recorder kept what matters in the kernel: %s and %s came up",
			plural(r.Records, "record", "records"), plural(r.Segments, "segment", "segments"))
		if r.Reuses > 0 {
			note += "; it counted " + plural(r.Reuses, "request", "requests") + " on connections used before, open ones included"
		}
		notes = append(notes, note)
	}
	if c.Repeated > 0 {
		notes = append(notes, plural(c.Repeated, "packet was", "packets were")+" seen on another interface before and counted once")
	}
	if k.Duplicates > 0 {
		notes = append(notes, plural(k.Duplicates, "data segment was", "data segments were")+" seen twice and counted once")
	}
	notes = append(notes, factNotes(k)...)
	if c.Filtered > 0 {
		notes = append(notes, plural(c.Filtered, "TCP segment", "TCP segments")+" left out by the filter")
	}
	if c.Packets > 0 && c.First != 0 {
		first, last := c.First.Std().In(loc), c.Last.Std().In(loc)
		const day = "2006-01-02"
		note := "captured " + first.Format(day+" 15:04:05") + " to "
		if first.Format(day) != last.Format(day) {
			note += last.Format(day + " ")
		}
		notes = append(notes, note+last.Format("15:04:05 MST"))
	}
	return notes
}
