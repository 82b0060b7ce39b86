// Package report says what package correlate found: to people as text, to
// programs as JSON lines.
//
// The words that explain a verdict are one table ([WordsOf]), from which the text
// output and "whyreset explain" are both made. Nothing is decided here: a
// verdict, its confidence and its evidence come from package correlate.
package report

import (
	"fmt"
	"strings"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// A Writer is one form of output. Findings come first, one summary last.
type Writer interface {
	Finding(f *correlate.Finding) error
	Summary(s *Summary) error
}

// Options say how findings are written.
type Options struct {
	// Files names what Evidence.File and Connection.Files index. Frame numbers
	// are given with the name of their file where there are several.
	Files []string
	// Zones names the network namespaces of loopback addresses; nil: there is one.
	Zones *capture.Zones
	// StreamIDs allows Connection.ID to be called tcp.stream. It is the same
	// number as Wireshark's if a single file was read and nothing was left out.
	StreamIDs bool
	// Recorded says that frames are in no file: the numbers only tell them apart.
	Recorded bool
	// Color marks up text for a terminal.
	Color bool
	// Location is the time zone of text output; nil means UTC. JSON is always UTC.
	Location *time.Location
}

// place returns an endpoint as people write it, with its namespace if there are
// several.
func (o *Options) place(e capture.Endpoint) string {
	if name := o.Zones.Name(e); name != "" {
		return e.String() + " in " + printable(name)
	}
	return e.String()
}

// A Summary is everything that is said once, at the end.
type Summary struct {
	Tracker correlate.Summary
	Capture capture.Stats
	// Stopped says why the capture was not read to its end; "" if it was.
	Stopped string
	// RTT holds the longest round-trip time to each server, as far as it is known:
	// a client must stop using a connection that much before the server does.
	RTT map[capture.Endpoint]time.Duration
}

// Incomplete returns why the summary does not cover all that happened, or "".
func (s *Summary) Incomplete() string {
	var why []string
	if s.Stopped != "" {
		why = append(why, s.Stopped)
	}
	if n := s.Capture.Missed; n > 0 {
		why = append(why, fmt.Sprintf("%s missed while capturing", plural(n, "packet was", "packets were")))
	}
	if n := s.unrecorded(); n > 0 {
		why = append(why, fmt.Sprintf("%s not recorded, of connections for which the kernel's table had no room (--max-connections)", plural(n, "segment was", "segments were")))
	}
	if r := s.Capture.Recorder; r != nil && r.Evicted > 0 {
		why = append(why, fmt.Sprintf("%s given up in the kernel for want of room", plural(r.Evicted, "connection was", "connections were")))
	}
	if n := s.Tracker.Evicted; n > 0 {
		why = append(why, fmt.Sprintf("%s given up to keep memory bounded", plural(n, "connection was", "connections were")))
	}
	if n := s.Tracker.FactsLost + s.Tracker.FactsDropped; n > 0 {
		why = append(why, fmt.Sprintf("%s of the kernel missing", plural(n, "fact is", "facts are")))
	}
	return strings.Join(why, "; ")
}

// unrecorded returns how many segments a recorder saw of connections for which its
// table had no room. They are not missed: a larger buffer would change nothing.
func (s *Summary) unrecorded() uint64 {
	if r := s.Capture.Recorder; r != nil {
		return r.Full
	}
	return 0
}

// reused returns how many requests a recorder counted on connections that had had a
// response. Each of them shows that one was answered before it, on connections that
// are open still as well, of which nothing else has come up.
func (s *Summary) reused() uint64 {
	if r := s.Capture.Recorder; r != nil {
		return r.Reuses
	}
	return 0
}

// Duration returns the time that the capture spans.
func (s *Summary) Duration() time.Duration {
	if s.Capture.Packets == 0 || s.Capture.Last < s.Capture.First {
		return 0
	}
	return s.Capture.Last.Sub(s.Capture.First)
}

// ShownByDefault reports whether f is shown without --all: lost requests, and
// what is noteworthy though nothing was lost, such as a response that a reset may
// have destroyed, or a WebSocket that died without a close frame.
func ShownByDefault(f *correlate.Finding) bool {
	family := f.Verdict.Family()
	return f.Lost || family != "clean" && family != "unknown" || abnormal(f)
}

// abnormal reports whether f is about a WebSocket connection that ended without a
// close frame.
func abnormal(f *correlate.Finding) bool { return f.Upgraded != nil && f.Upgraded.Abnormal }
