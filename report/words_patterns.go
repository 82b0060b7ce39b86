package report

import (
	"time"

	"whyreset/correlate"
)

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
func patterns(k *correlate.Summary) []string {
	var lines []string
	if k.Abnormal > 0 {
		lines = append(lines, plural(k.Abnormal, "WebSocket", "WebSockets")+" ended without a close frame (code 1006)")
	}
	for i, t := range k.Tunnels {
		if i == maxTimerRows {
			break
		}
		line := t.Server.String() + ": upgraded connections end after " + timerText(&t.Timer) + " of silence"
		if like := tunnelLooksLike(&t.Timer); like != "" {
			line += ", looks like " + like
		}
		lines = append(lines, line+": a timeout for tunnels, which pings more often than that keep from running out")
	}
	return lines
}
