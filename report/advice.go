package report

import (
	"slices"
	"strings"
	"time"

	"whyreset/correlate"
)

// OrderingRule is what keeps idle races away.
const OrderingRule = "a client keeps idle connections for less than its server's idle timeout − the round trip − a margin; so at every hop, each hop outward shorter than the hop behind it"

// A hop is what is known of both ends of a connection whose idle timeouts met.
type hop struct {
	server, client *idleLimit    // nil where they do not say who they are
	agrees         bool          // the measured timeout is one that the server's product has, or says it has
	agent          string        // the client's User-Agent, up to the first comment
	forwards       bool          // the client is a proxy
	used           time.Duration // the client used a connection that long idle; 0 if it is not known
	idle           time.Duration // the client should keep connections for less; 0 if it is not known
}

func hopOf(f *correlate.Finding) hop {
	p := &f.Programs
	t := correlate.Timer{Product: p.Server, Via: p.ServerVia}
	if f.Timer != nil {
		t = *f.Timer
	}
	h := hop{server: serverLimit(&t), agrees: LooksLike(&t) != "", client: clientLimit(p.Client), agent: p.Client, forwards: p.ClientForwards}
	if f.HasIdle && f.Request != nil {
		h.used = f.Idle
	}
	if f.Timer != nil {
		// Without a handshake the round-trip time is 0, as it may be.
		h.idle = ClientIdle(f.Timer, f.Connection.HandshakeRTT)
	}
	return h
}

// limitsMeet reports whether f has to do with idle timeouts at both ends.
func limitsMeet(f *correlate.Finding) bool {
	family := f.Verdict.Family()
	return f.Verdict == correlate.SimultaneousClose || f.Lost && (family == "idle-race" && f.Verdict != correlate.KeepaliveLimitRace || family == "stale-reuse")
}

// clientLine says how long this client keeps connections, as far as its name
// tells.
func (h *hop) clientLine() string {
	switch {
	case h.forwards:
		return "the client is a proxy, as the header of its requests shows"
	case h.agent == "" || strings.HasPrefix(h.agent, "Mozilla/"): // all browsers call themselves that
		return ""
	}
	line := "the client calls itself " + escape(shorten(h.agent, 64))
	switch k := h.client; {
	case k == nil:
	case k.setting == "":
		line += ", which keeps idle connections without limit"
	case len(k.defaults) == 0:
		line += ", which keeps idle connections without limit unless " + k.setting + " is set"
	default:
		line += ", which keeps idle connections for " + round(k.defaults[0]) + " by default (" + k.setting + ")"
		if h.used > k.defaults[0]+aSecond {
			line += ": here for longer"
		}
	}
	return line
}

// proxyLimits are where the proxies that do not say who they are set how long
// they keep connections to their servers.
const proxyLimits = "nginx: keepalive_timeout in upstream {}; Envoy: idle_timeout of the cluster; HAProxy: pool-purge-delay"

// changeClient says what to change in the client.
func (h *hop) changeClient() string {
	switch k := h.client; {
	case h.forwards:
		return "keep idle connections for less than {idle} in the proxy that is the client (" + proxyLimits + ")"
	case k == nil:
		return "keep idle connections for less than {idle} in the client (Go: Transport.IdleConnTimeout)"
	case k.setting == "":
		return "the client (" + k.product + ") has " + k.note
	default:
		return "set the client's " + k.setting + " (" + k.product + ") below {idle}"
	}
}

// changeServer says what to change in the server.
func (h *hop) changeServer() string {
	switch k := h.server; {
	case k == nil:
		return "raise the server's idle timeout above the client's"
	case k.setting == "":
		return "raise the server's idle timeout (" + k.product + ") above the client's"
	case !h.agrees:
		return "raise the server's " + k.setting + " (" + k.product + ", as its header says, unless a proxy that hands that on is what closes) above the client's"
	default:
		return "raise the server's " + k.setting + " (" + k.product + ") above the client's"
	}
}

// fill puts what is known of the hop into the text of a fix.
func (h *hop) fill(fix string) string {
	idle := "the server's idle timeout"
	if h.idle > 0 {
		idle = setting(h.idle)
	}
	return strings.NewReplacer("{idle}", idle).Replace(
		strings.NewReplacer("{client}", h.changeClient(), "{server}", h.changeServer()).Replace(fix))
}

// restartDecides reports whether a restart of the server is to blame for v, and
// not what v's own words say: in stale reuse the client had the close in time,
// whatever its reason, and backlog-dropped is the doing of restarts as it is.
func restartDecides(v correlate.Verdict) bool {
	return v.Family() != "stale-reuse" && v != correlate.BacklogDropped
}

// Fix returns what to change, with the settings of the products at both ends
// where they say who they are, and with the idle time that suits this server's
// timer.
func Fix(f *correlate.Finding) string {
	if slices.Contains(f.Modifiers, "deploy-restart") && (restartDecides(f.Verdict) || slices.Contains(f.Modifiers, "near-miss")) {
		return fixRestart
	}
	if f.Kernel != nil && f.Kernel.ResetReason == "TCP_ABORT_ON_MEMORY" && f.Verdict.Family() == "server-abort" {
		return fixMemory
	}
	h := hopOf(f)
	verdict := f.Verdict
	if slices.Contains(f.Modifiers, "near-miss") {
		verdict = correlate.IdleRace // the same settings meet, whoever was a moment late
	}
	words := WordsOf(verdict)
	fix := h.fill(words.Fix)
	if l, ok := h.line(verdict, words.Config); ok {
		fix += "; " + l.Product + ": " + l.Text
	}
	return fix
}

// fixRecorded is what to change where a recorder in the kernel did not keep enough: its
// buffer and the snap length of captures have no part in that.
const fixRecorded = "start before the connections do; --ebpf keeps 1024 bytes of how a message begins (fewer with a lower --snap): " +
	"for a server with longer header sections, leave out --ebpf, and -i any has whole packets"

// fix is Fix for where f comes from.
func (o *Options) fix(f *correlate.Finding) string {
	if o.Recorded && f.Verdict == correlate.CaptureIncomplete {
		return fixRecorded
	}
	return Fix(f)
}

// line returns the settings of the product whose doing v is, if it is known.
func (h *hop) line(v correlate.Verdict, config []Line) (Line, bool) {
	var name string
	switch family := v.Family(); {
	case h.server != nil && (family == "server-abort" || family == "connect"):
		name = h.server.product
	case h.client != nil && family == "client-abort":
		name = h.client.family + " client"
	}
	for _, l := range config {
		if name != "" && (l.Product == name || l.Product == configName(name)) {
			return l, true
		}
	}
	return Line{}, false
}

// configName is what the words of verdicts call a server: Apache httpd is Apache,
// Node is Node server.
func configName(product string) string {
	switch product {
	case "Apache httpd":
		return "Apache"
	case "Node":
		return "Node server"
	}
	return product
}

// FixOf returns what to change after v, for products that are not known.
func FixOf(v correlate.Verdict) string { return (&hop{}).fill(WordsOf(v).Fix) }
