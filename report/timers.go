package report

import (
	"math"
	"strings"
	"time"

	"whyreset/correlate"
)

// A knownTimer is an idle timeout that a product has by default. A close follows
// it by at most slack: most servers keep time to some milliseconds, others look
// once a second.
type knownTimer struct {
	timeout, slack time.Duration
	name           string
}

const tight = 150 * time.Millisecond

// knownTimers are defaults, in order of time; the first that fits is named.
var knownTimers = []knownTimer{
	{2 * time.Second, 1050 * time.Millisecond, "gunicorn's keepalive of 2 s"},
	{5 * time.Second, tight, "a 5 s default (Apache, uvicorn, hypercorn, lighttpd, Varnish)"},
	{6 * time.Second, tight, "Node's 5 s keepAliveTimeout + 1 s"},
	{10 * time.Second, tight, "a 10 s setting (Bun's idleTimeout; usual for HAProxy)"},
	{20 * time.Second, tight, "a 20 s default (Puma before 7, Tomcat's own server.xml)"},
	{30 * time.Second, tight, "a 30 s default (Jetty's idleTimeout)"},
	{60 * time.Second, tight, "a 60 s default (Tomcat in Spring Boot, AWS ALB)"},
	{65 * time.Second, tight, "a 65 s default (Puma 7)"},
	{66 * time.Second, tight, "Node's 65 s keepAliveTimeout + 1 s"},
	{72 * time.Second, 1150 * time.Millisecond, "Fastify's 72 s keepAliveTimeout"},
	{75 * time.Second, 1050 * time.Millisecond, "nginx's keepalive_timeout of 75 s"},
	{120 * time.Second, tight, "IIS's connectionTimeout of 120 s"},
	{130 * time.Second, 1050 * time.Millisecond, "Kestrel's KeepAliveTimeout of 130 s"},
	{180 * time.Second, tight, "Traefik's idleTimeout of 180 s"},
	{300 * time.Second, tight, "Caddy's idle_timeout of 5 min"},
	{350 * time.Second, time.Second, "the 350 s of an AWS NLB or NAT gateway"},
	{600 * time.Second, time.Second, "the 600 s of a GCP load balancer"},
	{time.Hour, time.Second, "Envoy's idle_timeout of 1 h"},
}

// minCloses is how many closes must agree before a timer is likened to a
// product's: two may be chance.
const minCloses = 3

// LooksLike names the product or setting whose idle timeout t resembles, or "".
func LooksLike(t *correlate.Timer) string {
	if t == nil || t.Closes < minCloses {
		return ""
	}
	if t.Stated > 0 {
		switch over := t.Timeout - t.Stated; {
		case over >= 950*time.Millisecond && over <= 1150*time.Millisecond:
			return "Node's " + setting(t.Stated) + " keepAliveTimeout + 1 s"
		case over >= -50*time.Millisecond && over <= tight:
			return "what its Keep-Alive header says, timeout=" + setting(t.Stated)
		}
		// It is not what it says, and a default that happens to fit explains nothing.
		return ""
	}
	for _, k := range knownTimers {
		// The median may lie a little below: time stamps are taken on the way.
		over := t.Timeout - k.timeout
		if over < -5*time.Millisecond || over > k.slack {
			continue
		}
		// A server that says what it is is not taken for another.
		if t.Product == "" || strings.Contains(strings.ToLower(k.name), t.Product) {
			return k.name
		}
	}
	return ""
}

// ClientIdle returns how long clients that are rtt away from a server with timer t
// may keep idle connections: what the server promises, if that leaves a margin,
// else the next round figure that leaves a tenth. It is 0 if every idle time may
// race.
//
// A request must arrive before the server closes, and the close of a connection
// that is not used must arrive before the request is sent: each takes half of rtt.
func ClientIdle(t *correlate.Timer, rtt time.Duration) time.Duration {
	timeout := t.Timeout
	if t.Closes == 0 {
		timeout = t.Stated // nothing else is known
	}
	safe := timeout - t.Spread - rtt
	if t.Stated > 0 && t.Stated < safe-100*time.Millisecond {
		return t.Stated
	}
	limit := float64(safe) * 0.9
	if limit <= 0 {
		return 0
	}
	power := math.Pow(10, math.Floor(math.Log10(limit)))
	for _, step := range []float64{9, 8, 7, 6, 5, 4, 3, 2.5, 2, 1.5, 1} {
		if step*power <= limit {
			return time.Duration(math.Round(step * power))
		}
	}
	return time.Duration(power)
}
