package correlate

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// judge reports what became of c: a finding for each lost request, or one for
// its end if none was lost.
func (t *Tracker) judge(c *conn, atEnd bool) {
	f := t.gather(c, atEnd)
	prev := c.answered
	// The timers learn first: a close that raced with a request is a close all the
	// same.
	var open []*facts
	var front *request
	queue := c.queue
	if c.tls != nil && !f.readable() {
		queue = nil // nothing is known of what it carries
	}
	for _, q := range queue {
		g := f.about(q, prev, front)
		answered := g.answered()
		if !answered && front == nil {
			t.learn(g)
			t.learnLimit(g, prev)
		}
		if !answered || timedOutOrEarly(g) {
			open = append(open, g)
		}
		if answered {
			prev = q
		} else if front == nil {
			front = q
		}
	}
	if len(open) == 0 {
		t.learnLimit(f, prev)
		t.learn(f)
		if f.up != nil {
			t.learnTunnel(f)
		}
	}
	t.sum.Requests += uint64(f.conn.Requests)
	f.server.countAgent(c.agent)
	if c.missing&(missingBytes|missingContent) != 0 {
		t.sum.Gaps++
	}
	if c.protocol != undecided && c.protocol != http1 && !f.readable() {
		t.sum.Opaque++
	}
	if len(open) > 0 {
		counted := &tally{}
		for _, g := range open {
			g.tally = counted
		}
	}
	reported, waiting := false, false
	for _, g := range open {
		r := g.decide()
		if r.verdict == StillOpen {
			if !g.answered() {
				waiting = true
				t.sum.Waiting++
				t.sum.LongestWait = max(t.sum.LongestWait, g.now.Sub(g.q.lastTime))
			}
			continue
		}
		reported = true
		if r.timer && !g.atEnd {
			t.held = append(t.held, held{g, t.now.Add(timerWait)})
			continue
		}
		t.report(g, r)
	}
	if reported {
		return
	}
	if waiting {
		t.sum.StillOpen++
		return
	}
	g := f
	r := g.decideConnection()
	if prev != nil && (!f.brief || r.verdict.Family() != "clean") {
		g = f.about(prev, nil, nil)
		r = g.decideConnection()
	}
	if r.verdict == StillOpen {
		t.sum.StillOpen++
		return
	}
	t.report(g, r)
}

// timedOutOrEarly reports whether a request that was answered still calls for a
// finding.
func timedOutOrEarly(f *facts) bool {
	return timedOutWithAnswer(f) != nil || earlyResponseReset(f) != nil || f.mismatch != nil && f.q.number == 1
}

// report turns a ruling into a finding and counts it.
func (t *Tracker) report(f *facts, r ruling) {
	t.count(f, &r)
	if f.brief && !r.lost && (r.verdict.Family() == "clean" || r.unopened && t.crowded(f, r.verdict)) {
		return
	}
	x := &Finding{
		Time: f.time, Verdict: r.verdict, Confidence: r.confidence, Lost: r.lost, Retry: r.retry,
		Candidates: r.candidates, Connection: f.conn, ClosedBy: r.by,
		Modifiers: r.modifiers, Evidence: r.evidence,
	}
	if r.close != nil {
		x.Close = Close{Kind: r.close.kind, Frame: r.close.frame, Ack: r.close.ack, HasAck: r.close.hasAck}
		if r.close.notify {
			x.Close.Kind = NotifyClose
		}
	}
	for _, r := range f.resets {
		if r != nil && r.length > 0 && (x.Close.PayloadLen == 0 || r.frame == x.Close.Frame) {
			x.Close.Payload, x.Close.PayloadLen = slices.Clone(r.kept()), r.length
		}
	}
	if tm := f.timer(); tm != nil {
		x.Timer = tm
	}
	if x.Upgraded = f.left(r.close); x.Upgraded != nil && x.Upgraded.Abnormal {
		t.sum.Abnormal++
	}
	f.tellKernel(x)
	x.Programs = Programs{t.agents.names[f.agent], f.agent == forwarded, f.server.product, f.server.via}
	if v := &x.Connection; v.Vantage == NoVantage {
		v.Vantage = vantageByTTL(f.headers[0].ttlHigh, f.headers[1].ttlHigh)
		v.VantageByTTL = v.Vantage != NoVantage
	}
	if f.hasRequest {
		q := &f.q
		x.Request = &Request{Method: q.method(), Target: q.target(), Host: q.host(), Number: q.number,
			Time: q.time, Frame: q.frame, Bytes: q.end - q.start, Complete: q.complete}
		if q.resp.began {
			x.Response = &Response{Status: q.resp.status, Frame: q.resp.frame, Bytes: q.resp.end - q.resp.start, Complete: f.wholeResponse()}
		}
	}
	switch {
	case r.lost || r.verdict == CaptureIncomplete && f.hasRequest:
		x.Idle, x.HasIdle = f.q.idle, f.q.hasIdle
		if f.q.number == 1 && f.conn.StartSeen {
			x.Modifiers = append(x.Modifiers, "first-use")
		} else {
			x.Modifiers = append(x.Modifiers, "reused")
		}
	case r.close != nil:
		x.Idle, x.HasIdle = f.idleBefore(r.close)
	}
	if u := x.Upgraded; u != nil {
		x.Idle, x.HasIdle = u.Idle, u.HasIdle
	}
	if !f.conn.StartSeen {
		x.Modifiers = append(x.Modifiers, "began-before-capture")
	}
	for _, e := range x.Evidence {
		if e.Frame != 0 && !slices.Contains(x.Connection.Files, e.File) {
			x.Connection.Files = append(x.Connection.Files, e.File)
		}
	}
	t.after(x, f, &r)
	if t.current != 0 {
		t.order.add(t.current, x)
		return
	}
	t.emit(x)
}

func (t *Tracker) count(f *facts, r *ruling) {
	k := countKey{r.verdict, f.conn.Server}
	n := t.lastCount
	if n == nil || t.lastKey != k {
		n = t.countFor(k)
		t.lastKey, t.lastCount = k, n
	}
	k = countKey{n.Verdict, n.Server}
	if r.lost {
		n.Lost++
		t.sum.Lost++
		if r.verdict.racesTimer(r.modifiers) {
			f.server.races++
		}
	}
	if r.confidence == Proven {
		n.Proven++
	}
	if r.unopened {
		t.sum.Unopened++
	}
	if r.why != "" {
		if t.reasons[k] == nil {
			t.reasons[k] = map[string]uint64{}
		}
		t.reasons[k][r.why]++
	}
	if f.tally == nil { // the connection's only finding
		n.Connections++
		return
	}
	if !r.lost && r.verdict.Family() == "unknown" {
		t.sum.Unjudged++
	}
	if r.lost && !f.tally.lost {
		f.tally.lost = true
		t.sum.LostOn++
	}
	if !slices.Contains(f.tally.verdicts, r.verdict) {
		f.tally.verdicts = append(f.tally.verdicts, r.verdict)
		n.Connections++
	}
}

func (t *Tracker) countFor(k countKey) *VerdictCount {
	n := t.counts[k]
	if n == nil && len(t.counts) >= maxServers {
		k = countKey{verdict: k.verdict} // too many servers to tell apart
		n = t.counts[k]
	}
	if n == nil {
		n = &VerdictCount{Verdict: k.verdict, Server: k.server}
		t.counts[k] = n
	}
	return n
}

// Summary returns the counts so far.
func (t *Tracker) Summary() Summary {
	s := t.sum
	s.Owners = t.facts.ownerCounts()
	for k, n := range t.counts {
		v := *n
		var most uint64
		for why, n := range t.reasons[k] {
			if n > most || n == most && why < v.Reason {
				v.Reason, most = why, n
			}
		}
		s.Verdicts = append(s.Verdicts, v)
	}
	slices.SortFunc(s.Verdicts, func(a, b VerdictCount) int {
		return cmp.Or(cmp.Compare(b.Lost, a.Lost), cmp.Compare(a.Verdict, b.Verdict), a.Server.Compare(b.Server))
	})
	for e, v := range t.servers {
		if tm := v.tunnel(); tm != nil {
			s.Tunnels = append(s.Tunnels, ServerTunnel{e, *tm})
		}
		if l, any := v.shownLimits(); any {
			l.Server = e
			s.Limits = append(s.Limits, l)
		}
		for _, r := range v.restarts {
			r.Server = e
			s.Restarts = append(s.Restarts, r)
		}
		tm := v.learned()
		switch {
		case tm != nil:
		case v.races > 0:
			tm = &Timer{} // nothing is known of it but that requests were lost to it
		default:
			continue
		}
		v.describeTimer(tm)
		st := ServerTimer{Server: e, Timer: *tm, ClientReuse: v.maxReuse, Clients: t.clientsOf(v), ExpectedRaces: v.expected(tm), SeenRaces: v.races}
		if ct := v.clients.timer(); ct != nil {
			st.ClientTimer = *ct
		}
		s.Servers = append(s.Servers, st)
	}
	slices.SortFunc(s.Restarts, func(a, b Restart) int { return cmp.Or(cmp.Compare(a.From, b.From), a.Server.Compare(b.Server)) })
	slices.SortFunc(s.Limits, func(a, b ServerLimit) int { return a.Server.Compare(b.Server) })
	slices.SortFunc(s.Tunnels, func(a, b ServerTunnel) int { return a.Server.Compare(b.Server) })
	slices.SortFunc(s.Servers, func(a, b ServerTimer) int { return a.Server.Compare(b.Server) })
	return s
}

func (x *ruling) note(frame uint64, file int32, format string, args ...any) {
	if x.brief {
		return
	}
	x.evidence = append(x.evidence, Evidence{Frame: frame, File: int(file), Text: fmt.Sprintf(format, args...)})
}

func (x *ruling) noteServerReset(f *facts, what string) {
	if f.rstS.seen() {
		x.note(f.rstS.frame, f.rstS.file, "server's reset (frame %d) %s", f.rstS.frame, what)
	} else if len(f.replies) > 0 {
		x.note(f.replies[0].frame, f.replies[0].file, "server's reset (frame %d) %s", f.replies[0].frame, what)
	}
}

// noteTimer tells when the server closed, and how that compares with its timer.
func (x *ruling) noteTimer(f *facts, how string) {
	idle, ok := f.idleBefore(&f.K)
	if !ok {
		x.note(f.K.frame, f.K.file, "how long the connection had been idle is not known, %s", how)
		return
	}
	tm := f.timer()
	switch {
	case tm == nil:
		x.note(f.K.frame, f.K.file, "it came %s after the last response, %s", short(idle), how)
	case tm.Closes > 0:
		x.note(f.K.frame, f.K.file, "it came %s after the last response, %s: %s ± %s in %d closes", short(idle), how, short(tm.Timeout), short(tm.Spread), tm.Closes)
	default:
		x.note(f.K.frame, f.K.file, "it came %s after the last response, %s: %s, says its Keep-Alive header, and several servers add up to a second", short(idle), how, short(tm.Stated))
	}
}

// name is what people call the close.
func (k *closing) name() string {
	switch {
	case k.notify:
		return "close_notify"
	case k.kind == FINClose:
		return "FIN"
	}
	return "reset"
}

func (p Party) possessive() string {
	switch p {
	case Client:
		return "client's"
	case Server:
		return "server's"
	case BothParties:
		return "both ends'"
	}
	return "a"
}

// short prints d as people read it: about four digits.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d >= time.Minute:
		d = d.Round(time.Second)
		return fmt.Sprintf("%d m %d s", d/time.Minute, d%time.Minute/time.Second)
	case d >= time.Second:
		return fmt.Sprintf("%.3f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%d µs", d.Microseconds())
}
