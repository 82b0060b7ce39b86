//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"whyreset/capture"
)

// A finding is what the program says of a request or a connection.
type finding struct {
	Time       time.Time
	Verdict    string
	Family     string
	Confidence string
	Retry      string
	Lost       bool
	Client     struct{ Port int }
	Server     struct{ Port int }
	Request    *struct {
		Target string
		Time   time.Time
		Frame  uint64
	}
	Close      struct{ Frame uint64 }
	Candidates []string
	Evidence   []struct {
		Frame uint64
		Text  string
	}
}

func (f *finding) frame() uint64 {
	if f.Request != nil && f.Request.Frame != 0 {
		return f.Request.Frame
	}
	if len(f.Evidence) > 0 {
		return f.Evidence[0].Frame
	}
	return f.Close.Frame
}

// undecided reports whether the finding leaves open what happened.
func (f *finding) undecided() bool { return slices.Contains(neutral, f.Verdict) }

// names reports whether one of the verdicts is among the finding's candidates.
func (f *finding) names(verdicts []string) bool {
	return slices.ContainsFunc(f.Candidates, func(v string) bool { return slices.Contains(verdicts, v) })
}

// text says what the finding rests on.
func (f *finding) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", f.Verdict, f.Confidence)
	if len(f.Candidates) > 0 {
		fmt.Fprintf(&b, " %v", f.Candidates)
	}
	for _, e := range f.Evidence {
		fmt.Fprintf(&b, "; %s", e.Text)
	}
	return b.String()
}

// explain runs the program on a capture.
func explain(program, file string) ([]*finding, error) {
	cmd := exec.Command(program, "-o", "json", "--all", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", program, file, err, stderr.Bytes())
	}
	return readFindings(file, out)
}

// readFindings reads what the program printed.
func readFindings(file string, out []byte) ([]*finding, error) {
	var all []*finding
	for line := range bytes.Lines(out) {
		if !bytes.HasPrefix(line, []byte(`{"type":"finding"`)) {
			continue
		}
		f := new(finding)
		if err := json.Unmarshal(line, f); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", file, err, line)
		}
		all = append(all, f)
	}
	return all, nil
}

// An attempt is one time that a request was sent. A library may repeat one.
type attempt struct {
	id   string
	port int // the client's
	time float64
	// seen says that the capture holds bytes of it. What a library logged under TLS
	// may never have left the client.
	seen bool
}

var requestLine = regexp.MustCompile(`(?:GET|POST|HEAD|PUT) /w/[\w.-]+/([\w.-]+)[? ]`)

// attempts finds the requests in a capture, or, where TLS hides them, the times
// at which one was sent according to the logs and bytes of a client passed.
func attempts(file string, h *header, truths []*truth) ([]attempt, error) {
	src, err := capture.OpenFiles([]string{file}, nil, capture.Filter{})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	type place struct {
		src  netip.AddrPort
		seq  uint32
		line string
	}
	seen := map[place]bool{}
	sent := map[int][]float64{} // by client port
	var all []attempt
	for {
		var s capture.Segment
		if err := src.Next(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if s.Len == 0 || s.Dst.Port != port {
			continue
		}
		at := epoch(time.Unix(0, int64(s.Time)))
		p := int(s.Src.Port)
		if h.TLS != "" {
			if holdsRequest(s.Payload) {
				sent[p] = append(sent[p], at)
			}
			continue
		}
		from := s.Src.AddrPort()
		for _, m := range requestLine.FindAllSubmatchIndex(s.Payload, -1) {
			id := string(s.Payload[m[2]:m[3]])
			k := place{from, s.Seq + uint32(m[0]), id}
			if !seen[k] {
				seen[k] = true
				all = append(all, attempt{id, p, at, true})
			}
		}
	}
	if h.TLS == "" {
		return all, nil
	}
	for _, t := range truths {
		for _, p := range t.Ports {
			all = append(all, attempt{t.ID, p, t.Start, slices.ContainsFunc(sent[p], func(at float64) bool {
				return at >= t.Start-0.002 && at <= t.End+h.Delay+0.002
			})})
		}
	}
	return all, nil
}

// holdsRequest reports whether one of the TLS records that begin in a segment is
// long enough to hold a request. The longest Finished message has 69 bytes, in
// TLS 1.3 with SHA-384.
func holdsRequest(payload []byte) bool {
	for len(payload) > 5 {
		n := int(payload[3])<<8 | int(payload[4])
		if payload[0] == 23 && n > 69 {
			return true
		}
		payload = payload[min(len(payload), 5+n):]
	}
	return false
}

// An outcome is what the program made of one attempt at a request, or of one
// connection, or what it invented.
type outcome struct {
	kind    kind
	cause   string
	verdict string // "" where nothing was said
	sure    string // "weak", "strong" or "proven"
	want    []string
	file    string
	frame   uint64
	who     string // the request, or the connection
	said    string
	logs    string // what the applications logged
	named   bool   // undecided, but the right verdict is among the candidates
}

// takes notes what the program says.
func (o *outcome) takes(f *finding) {
	o.verdict, o.sure, o.frame, o.said = f.Verdict, f.Confidence, f.frame(), f.text()
}

type kind int

const (
	right      kind = iota
	undecided       // an honest unknown
	wrong           // another verdict
	unreported      // lost, and nothing was said
	falseLost       // answered, and said to be lost
	invented        // a verdict on what nobody did
)

func (k kind) String() string {
	return [...]string{"right", "undecided", "wrong", "unreported", "answered-but-reported-lost", "invented"}[k]
}

// A match is the attempts of a request, and the findings about it.
type match struct {
	attempts int
	findings []*finding
	others   []*finding // in which nothing is said to be lost
}

// judge holds the findings in a capture, or of a run beside it, against the truth.
// In a damaged copy only accusations are judged, by the attempts in the undamaged
// capture.
func judge(findings []*finding, file string, h *header, truths []*truth, tries []attempt, damaged bool) []outcome {
	var out []outcome
	by := map[string]*match{}
	at := func(id string) *match {
		if by[id] == nil {
			by[id] = &match{}
		}
		return by[id]
	}
	for _, a := range tries {
		if a.seen {
			at(a.id).attempts++
		}
	}
	known := map[string]*truth{}
	for _, t := range truths {
		known[t.ID] = t
	}
	conns := map[int][]*finding{} // by index of h.Conns
	for _, f := range findings {
		if i := h.conn(f); i >= 0 {
			conns[i] = append(conns[i], f)
			continue
		}
		id := f.request(tries)
		if !f.Lost {
			if known[id] != nil {
				at(id).others = append(at(id).others, f)
			}
			continue
		}
		if known[id] == nil {
			if o := stray(h, f); o != nil && !(damaged && o.kind == undecided) {
				o.file = file
				out = append(out, *o)
			}
			continue
		}
		m := at(id)
		m.findings = append(m.findings, f)
	}
	for _, t := range truths {
		m := at(t.ID)
		for _, o := range t.judge(h, m, damaged) {
			o.file = file
			out = append(out, o)
		}
	}
	for i, c := range h.Conns {
		for _, o := range c.judge(conns[i], damaged) {
			o.file = file
			out = append(out, o)
		}
	}
	return out
}

// conn returns the index of the connections in the header that the finding is
// about, or -1.
func (h *header) conn(f *finding) int {
	return slices.IndexFunc(h.Conns, func(c connTruth) bool {
		return c.Port == f.Server.Port && (c.Client == 0 || c.Client == f.Client.Port)
	})
}

// request returns the id of the finding's request: from its target, or else, where
// that was cut off or is hidden, the latest one sent on the connection by then.
func (f *finding) request(tries []attempt) string {
	when := epoch(f.Time)
	if f.Request != nil {
		// The snap length may have cut the id too.
		id := requestID(f.Request.Target)
		if slices.ContainsFunc(tries, func(a attempt) bool { return a.id == id && a.port == f.Client.Port }) {
			return id
		}
		if !f.Request.Time.IsZero() {
			when = epoch(f.Request.Time)
		}
	}
	id, best := "", math.Inf(-1)
	for _, a := range tries {
		if a.port == f.Client.Port && a.time <= when+0.02 && a.time > best {
			id, best = a.id, a.time
		}
	}
	return id
}

// stray judges a finding that belongs to no request of the logs. Where a server
// was killed or replaced, connections that it never accepted are to be expected.
func stray(h *header, f *finding) *outcome {
	o := &outcome{kind: invented, who: fmt.Sprintf("client port %d", f.Client.Port)}
	o.takes(f)
	ends := strings.HasPrefix(h.Case, "kill-") || strings.HasPrefix(h.Case, "reload-") || strings.HasPrefix(h.Case, "limit-")
	switch {
	case ends && f.Family == "connect":
		return nil
	case f.undecided():
		o.kind = undecided
	}
	return o
}

// judge returns an outcome for each attempt at the request.
func (t *truth) judge(h *header, m *match, damaged bool) []outcome {
	want, quiet := t.expected(h, m.attempts)
	logs := fmt.Sprintf("%s: ok %v status %d error %q, idle %.4f s; handler began %d times, ended %v", t.Client, t.OK, t.Status, t.Error, t.Idle, t.Began, t.Ended)
	base := outcome{cause: t.Cause, want: want, who: t.ID, logs: logs}
	lost := max(m.attempts, len(m.findings))
	if !t.lost() {
		lost = max(0, m.attempts-1) // the last one was answered
	}
	accepted := want
	if damaged {
		accepted = related(want)
	}
	var out []outcome
	for i, f := range m.findings {
		o := base
		o.takes(f)
		switch {
		case f.undecided():
			o.kind = undecided
			o.named = f.names(want)
		case i >= lost && t.unfinished() && slices.Contains(accepted, f.Verdict):
			o.kind = right
		case i >= lost:
			o.kind = falseLost
		case slices.Contains(accepted, f.Verdict):
			o.kind = right
		default:
			o.kind = wrong
		}
		if o.kind == undecided && i >= lost && !damaged {
			o.kind = falseLost
		}
		out = append(out, o)
	}
	if damaged || quiet {
		return out
	}
	for range max(0, lost-len(m.findings)) {
		o := base
		o.kind = unreported
		// A response that the client's TCP has and its application never reads is
		// not lost on the wire, whatever the application says. Where it is not known
		// whether anything was lost, the program said so.
		if i := slices.IndexFunc(m.others, func(f *finding) bool { return slices.Contains(want, f.Verdict) }); i >= 0 {
			o.kind = right
			o.takes(m.others[i])
		} else if i := slices.IndexFunc(m.others, (*finding).undecided); i >= 0 {
			o.kind = undecided
			o.takes(m.others[i])
			o.named = m.others[i].names(want)
		}
		out = append(out, o)
	}
	return out
}

// judge returns an outcome for each of the connections.
func (c *connTruth) judge(findings []*finding, damaged bool) []outcome {
	t := &truth{Cause: c.Cause}
	if c.Silent {
		t.Status = -1
	}
	want, _ := expected(&header{}, t)
	accepted := want
	if damaged {
		accepted = related(want)
	}
	var out []outcome
	for _, f := range findings {
		o := outcome{cause: c.Cause, want: want, logs: c.Note, who: fmt.Sprintf("connection from port %d to port %d", f.Client.Port, f.Server.Port)}
		o.takes(f)
		switch {
		case slices.Contains(accepted, f.Verdict):
			o.kind = right
		case f.undecided():
			o.kind = undecided
			o.named = f.names(want)
		case damaged && !f.Lost:
			continue // a quiet end accuses nobody
		default:
			o.kind = wrong
		}
		out = append(out, o)
	}
	for range max(0, c.Least-len(findings)) {
		if !damaged {
			out = append(out, outcome{kind: unreported, cause: c.Cause, want: want, who: fmt.Sprintf("a connection to port %d", c.Port), logs: c.Note})
		}
	}
	return out
}

// expected returns the verdicts that are right for the lost ones of so many
// attempts at the request. The application saw no more of them than it logged.
func (t *truth) expected(h *header, attempts int) (verdicts []string, quiet bool) {
	if t.lost() && t.Began >= attempts {
		return expected(h, t)
	}
	unseen := *t
	unseen.Began, unseen.Ended = 0, false
	if !t.lost() {
		unseen.Status = 0 // that of the last attempt
	}
	verdicts, quiet = expected(h, &unseen)
	if t.Began > 1 || (t.lost() || t.unfinished()) && t.Began > 0 {
		more, _ := expected(h, t)
		verdicts = append(verdicts, more...)
	}
	return verdicts, quiet
}
