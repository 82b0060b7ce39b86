package report

import (
	"strconv"
	"strings"
	"time"

	"whyreset/correlate"
)

// fixRestart is what to change where requests are lost when a server goes down,
// whatever the verdict.
const fixRestart = "let the server drain before it stops: take it out of rotation, answer with Connection: close for longer than clients keep connections idle, and only then exit; " +
	"let clients repeat what was not processed"

// knownTunnels are the silences after which proxies end upgraded connections, by
// default.
var knownTunnels = []struct {
	timeout, slack time.Duration
	name           string
}{
	{60 * time.Second, tight, "a 60 s default (nginx's proxy_read_timeout, AWS ALB's idle timeout)"},
	{300 * time.Second, tight, "Envoy's stream_idle_timeout of 5 min"},
	{350 * time.Second, time.Second, "the 350 s of an AWS NLB or NAT gateway"},
	{time.Hour, time.Second, "a 1 h default (Envoy's idle_timeout; usual for HAProxy's timeout tunnel)"},
}

// tunnelLooksLike names the setting that the timeout of tunnels resembles, or "".
func tunnelLooksLike(t *correlate.Timer) string {
	for _, k := range knownTunnels {
		if over := t.Timeout - k.timeout; t.Closes >= minCloses && over >= -5*time.Millisecond && over <= k.slack {
			return k.name
		}
	}
	return ""
}

// patterns says what several connections of a server have in common, a line for
// each.
func (o *Options) patterns(k *correlate.Summary) []string {
	var lines []string
	for i, r := range k.Restarts {
		if i == maxTimerRows {
			lines = append(lines, strings.TrimPrefix(more(len(k.Restarts) - i)[0], "  "))
			break
		}
		lines = append(lines, o.restartLine(&r))
	}
	if k.Replayed > 0 {
		line := group(k.Replayed) + " of the lost requests " + wasWere(k.Replayed) + " sent again within a second, and " + group(k.ReplayedAnswered) + " of those answered: there the applications may not have noticed"
		if k.DuplicateRisk > 0 {
			line += "; " + group(k.DuplicateRisk) + " may have taken effect twice"
		}
		lines = append(lines, line)
	}
	if k.Abnormal > 0 {
		lines = append(lines, plural(k.Abnormal, "WebSocket", "WebSockets")+" ended without a close frame (code 1006)")
	}
	for i, l := range k.Limits {
		if i == maxTimerRows {
			break
		}
		if l.Requests > 0 {
			lines = append(lines, o.place(l.Server)+" closes connections after "+plural(uint64(l.Requests), "response", "responses")+" ("+plural(uint64(l.Closes), "close", "closes")+"): a limit of requests, not an idle timer")
		} else {
			lines = append(lines, o.place(l.Server)+" closes connections at an age of "+timerText(&l.Age)+": a limit of age, not an idle timer")
		}
	}
	for i, t := range k.Tunnels {
		if i == maxTimerRows {
			break
		}
		line := o.place(t.Server) + ": upgraded connections end after " + timerText(&t.Timer) + " of silence"
		if like := tunnelLooksLike(&t.Timer); like != "" {
			line += ", looks like " + like
		}
		lines = append(lines, line+": a timeout for tunnels, which pings more often than that keep from running out")
	}
	return lines
}

// restartLine says when a server closed many connections at once.
func (o *Options) restartLine(r *correlate.Restart) string {
	line := o.place(r.Server) + " closed " + plural(uint64(r.Closed), "connection", "connections")
	if r.Open > r.Closed {
		line = o.place(r.Server) + " closed " + strconv.Itoa(r.Closed) + " of " + plural(uint64(r.Open), "connection", "connections")
	}
	line += " within " + seconds(r.To.Sub(r.From)) + " at " + r.From.Std().In(o.Location).Format("15:04:05")
	if r.Closed == 1 {
		line = o.place(r.Server) + " closed a connection at " + r.From.Std().In(o.Location).Format("15:04:05")
	}
	if r.Refused {
		line += ", and refused new ones right afterwards"
	}
	line += ": a restart or deploy, not an idle timer"
	if r.Lost > 0 {
		line += "; " + plural(r.Lost, "request was", "requests were") + " lost with it"
	}
	return line
}

// restartBlame names the restarts with which requests were lost.
func restartBlame(restarts []correlate.Restart, loc *time.Location) string {
	var at string
	n := 0
	for _, r := range restarts {
		if r.Lost == 0 {
			continue
		}
		if n++; n == 1 {
			at = r.Server.String() + " at " + r.From.Std().In(loc).Format("15:04:05")
		}
	}
	switch n {
	case 0:
		return "restarts of the server, which closed what was open: drain before stopping"
	case 1:
		return "the restart of " + at + ", which closed what was open: drain before stopping"
	}
	return strconv.Itoa(n) + " restarts, the first of " + at + ", which closed what was open: drain before stopping"
}

func wasWere(n uint64) string {
	if n == 1 {
		return "was"
	}
	return "were"
}
