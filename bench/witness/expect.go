//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// An expectation says which verdicts are right for a lost request, and why: the
// first line whose cause and fact fit decides. A fact is something that the
// applications logged. Where it leaves several verdicts possible, which of them
// is right depends on what happened on the wire, microseconds apart, that no
// application can see; then all are listed. So all idle races are right for the
// requests that a kill, a reload or a limit met outside the handler.
type expectation struct {
	cause    string
	fact     string
	holds    func(h *header, t *truth) bool // nil: always
	verdicts string
	why      string
	// quiet says that nothing need be said: what was lost cannot be seen, or is not
	// lost on the wire.
	quiet bool
}

// What applications can know.
var (
	// On a connection of its own: the client had not a byte from the server.
	silent     = func(_ *header, t *truth) bool { return t.Status < 0 }
	handlerRan = func(_ *header, t *truth) bool { return t.Began > 0 }
	firstUse   = func(_ *header, t *truth) bool { return t.First }
	someStatus = func(_ *header, t *truth) bool { return t.Status != 0 }
	// The client sent before the earliest moment at which the server can have
	// closed: its TCP cannot have had the FIN. Some timers fire a little early.
	sentBeforeTimer = func(h *header, t *truth) bool { return t.Idle < h.Earliest-0.025 }
	// The client sent when the FIN must have been there.
	sentAfterTimer = func(h *header, t *truth) bool { return t.Idle > h.Latest+0.3 }
	// The client's own time-out ended it.
	gaveUp       = func(_ *header, t *truth) bool { return strings.Contains(t.Error, "i/o timeout") }
	underTLS     = func(h *header, _ *truth) bool { return h.TLS != "" }
	ranAndStatus = func(h *header, t *truth) bool { return t.Began > 0 && t.Status != 0 }
)

const (
	race     = "idle-race idle-race-unread idle-race-rst idle-race-lingering idle-408-race "
	unread   = "abort-before-response close-before-response "
	cutShort = "truncated-response abort-mid-response "
)

// expectations is the table.
var expectations = []expectation{
	{"idle-timer", "the handler ran", handlerRan, "", "a request that the application had raced nothing: it must be answered", false},
	{"idle-timer", "sent before the timer can have fired", sentBeforeTimer, race, "the client could not know: which of the family it is depends on where packets crossed", false},
	{"idle-timer", "sent after the close must have arrived", sentAfterTimer, "late-reuse", "the client's TCP had the close", false},
	{"idle-timer", "", nil, race + "late-reuse", "within the timer's tolerance: either may have been first", false},

	{"pooled", "the handler ran", handlerRan, "", "it must be answered", false},
	{"pooled", "", nil, race + "late-reuse", "a proxy took an idle connection from its pool: how old it was only the wire tells", false},
	{"pooled-slow", "the handler ran", handlerRan, "client-abort-before-response", "the proxy's time-out ran out", false},
	{"pooled-slow", "", nil, race + "late-reuse", "as pooled", false},

	{"late-reuse", "the handler ran", handlerRan, "", "it must be answered", false},
	{"late-reuse", "", nil, "late-reuse", "sent when the close must have arrived", false},
	{"announced-reuse", "", nil, "late-reuse pipelined-lost", "sent after a response that said Connection: close", false},
	{"idle-first-use", "", nil, race + "late-reuse closed-on-accept request-timeout", "the connection's first request, sent when the header timer had run: to the client's TCP the close may have been known", false},

	{"limit", "the handler ran", handlerRan, unread + cutShort, "the worker ended while it worked", false},
	{"limit", "first request of its connection", firstUse, unread + "closed-on-accept backlog-dropped idle-race idle-race-unread keepalive-limit-race", "the worker ended before it accepted", false},
	{"limit", "", nil, race + unread + "keepalive-limit-race late-reuse backlog-dropped closed-on-accept", "the worker ended, or closed at the limit without a word, as the request came", false},

	{"reload", "the handler ran, the response had begun", ranAndStatus, cutShort, "the server ended inside its response", false},
	{"reload", "the handler ran", handlerRan, unread + cutShort, "the server ended while it worked", false},
	{"reload", "first request of its connection", firstUse, unread + "closed-on-accept backlog-dropped idle-race idle-race-rst idle-race-unread stale-connection tls-handshake-failed", "the server ended before it accepted", false},
	{"reload", "", nil, race + unread + "keepalive-limit-race late-reuse backlog-dropped stale-connection closed-on-accept", "the server closed its idle connections at once as the request came", false},

	{"kill", "under TLS, the response had begun", func(h *header, t *truth) bool { return h.TLS != "" && ranAndStatus(h, t) }, cutShort, "TLS hides where a response ends", true},
	{"kill", "under TLS, the handler ran", func(h *header, t *truth) bool { return h.TLS != "" && handlerRan(h, t) }, unread + cutShort, "how much of a response was on its way is not known", true},
	{"kill", "the handler ran, the response had begun", ranAndStatus, cutShort, "killed inside the response", false},
	{"kill", "the handler ran", handlerRan, unread + cutShort, "killed while it worked; how much of a response was on its way is not known", false},
	{"kill", "first request of its connection", firstUse, unread + "closed-on-accept backlog-dropped idle-race idle-race-rst idle-race-unread stale-connection tls-handshake-failed", "killed before it accepted", false},
	{"kill", "", nil, race + unread + "keepalive-limit-race late-reuse backlog-dropped stale-connection closed-on-accept", "killed as the request came: the kernel closed in the server's name", false},

	{"crash", "", nil, "close-before-response abort-before-response", "the application read the request and ended the connection", false},
	{"reset", "", nil, "abort-before-response", "the application read the request and reset the connection", false},
	{"unread-close", "", nil, "abort-before-response close-before-response early-response-reset", "the application closed without reading the body", false},
	{"truncated-body", "under TLS", underTLS, cutShort, "TLS hides where a response ends: only a reset shows", true},
	{"truncated-body", "the handler ran", handlerRan, cutShort, "the application sent less than it announced", false},
	{"early-413", "under TLS", underTLS, "early-response-reset abort-mid-response", "TLS hides where a request ends: an upload that the answer cut off may look like two requests", true},
	{"early-413", "", nil, "early-response-reset", "answered and closed before the upload had ended", false},
	{"slow-upload", "under TLS, the server answered 408", func(h *header, t *truth) bool { return h.TLS != "" && t.Status == 408 }, "request-timeout close-before-response", "TLS hides what was answered", true},
	{"slow-upload", "under TLS", underTLS, "request-timeout close-before-response abort-before-response early-response-reset", "TLS hides that the request was not complete", false},
	{"slow-upload", "the client gave up first", gaveUp, "client-abort-mid-upload", "the server waits for longer than the client", false},
	{"slow-head", "the client gave up first", gaveUp, "client-abort-mid-upload", "the server waits for longer than the client", false},
	{"slow-upload", "the server answered 408", func(_ *header, t *truth) bool { return t.Status == 408 }, "request-timeout", "the body stalled for longer than the server waits; once it is complete, the 408 is its answer", true},
	{"slow-upload", "", nil, "request-timeout early-response-reset", "the body stalled for longer than the server waits; the client may have lost an answer that said so", false},
	{"slow-head", "", nil, "request-timeout", "the header stalled for longer than the server waits", false},

	{"client-timeout", "the response had begun", someStatus, "client-abort-mid-response", "the client's time-out ran out", false},
	{"client-timeout", "", nil, "client-abort-before-response", "the client's time-out ran out before the handler ended", false},
	{"client-cancel", "under TLS", underTLS, "client-abort-mid-response", "TLS hides where the response ends: it shows only if the server goes on sending", true},
	{"client-cancel", "the whole response had been sent", func(_ *header, t *truth) bool { return t.Cancelled && t.Ended }, "client-abort-mid-response", "a client that cancels what has all arrived loses nothing", true},
	{"client-cancel", "", nil, "client-abort-mid-response", "the client had enough", false},
	{"client-upload", "under TLS", underTLS, "client-abort-mid-upload client-abort-before-response", "TLS hides that the request was not complete", false},
	{"client-upload", "", nil, "client-abort-mid-upload", "the client's time-out ran out inside its own request", false},
	{"client-reset", "", nil, "client-abort-before-response", "the client reset the connection while the handler worked", false},
	{"half-close", "", nil, "client-abort-before-response close-before-response", "the client shut its side down and waited; the server took that for the end", false},
	{"pipeline", "the client gave up first", gaveUp, "client-abort-before-response", "the server does not pipeline", false},
	{"pipeline", "", nil, "pipelined-lost", "the server does not pipeline: it closed without reading on", false},
	{"pipeline-first", "", nil, "abort-mid-response", "the server closed before it had sent all, with the next request unread", false},
	{"pipeline-close", "the client gave up first", gaveUp, "client-abort-before-response", "the server does not pipeline", false},
	{"pipeline-close", "", nil, "pipelined-lost", "sent behind a request whose response announced the close", false},

	{"forged-rst", "", nil, "injected-reset", "a box on the way sent a reset in the server's name, with another TTL", false},
	{"forged-rst-early", "", nil, "injected-reset", "as above, before the server had the request", false},
	{"nat-reset", "", nil, "stale-connection", "a box on the way forgot the idle connection and answered the next segment with a reset", false},
	{"nat-silent", "", nil, "idle-blackhole peer-dead", "a box on the way forgot the idle connection; nothing came back until the client gave up", false},
	{"path-dead", "", nil, "peer-dead idle-blackhole server-never-answered client-abort-before-response", "the path went dead while the handler worked; where the capture ends before either end gives up, nothing has ended", true},
	{"path-gap", "", nil, "peer-dead idle-blackhole", "the path to the server was dead for seconds: the request was sent long before the server's timer, and its copies came after the close", false},
	{"reject-idle", "", nil, "firewall-reject stale-connection", "a rule on the server's host rejected the request with a reset, after an idle time", false},
	{"reject-busy", "", nil, "firewall-reject", "a rule on the server's host rejected a segment of the request with a reset", false},
	{"reject-response", "", nil, "firewall-reject injected-reset abort-mid-response", "a rule on the server's host answered the client's acknowledgements with resets, inside the response", false},

	{"refused", "", nil, "connect-refused", "nothing listened", false},
	{"reject-syn", "", nil, "connect-refused firewall-reject", "a rule on the server's host rejected the SYN with a reset", false},
	{"filtered", "", nil, "connect-timeout", "a rule on the server's host dropped the SYN", false},
	{"overflow-abort", "", nil, "accept-queue-overflow", "the accept queue was full, and the kernel resets", false},
	{"overflow-drop", "", nil, "accept-queue-overflow", "the client's program had a connection, of which the server's program never heard: its acknowledgement found the accept queue full", false},
	{"overflow-syn", "", nil, "accept-queue-overflow connect-timeout", "the accept queue was full, and the SYN was dropped: that looks like a filter, unless others got through", false},
	{"not-accepted", "", nil, "client-abort-before-response server-never-answered", "the connection was in the accept queue, and nobody accepted it until the client gave up", false},
	{"backlog", "", nil, "backlog-dropped", "the listener was closed while the connection waited in its queue", false},
	{"reject-accept", "", nil, "closed-on-accept abort-before-response", "the server's rule closes the connection as it is accepted; whether its kernel had the request by then is a matter of microseconds", false},
	{"http-to-tls", "the server said nothing", silent, "protocol-mismatch close-before-response abort-before-response", "plain HTTP sent to a port that speaks TLS, and closed without a word: the packets hold a request and a close", false},
	{"http-to-tls", "", nil, "protocol-mismatch", "plain HTTP sent to a port that speaks TLS", false},
	{"tls-to-http", "the server said nothing", silent, "protocol-mismatch tls-handshake-failed", "TLS sent to a port that speaks plain HTTP, and not a word came back", false},
	{"tls-to-http", "", nil, "protocol-mismatch", "TLS sent to a port that speaks plain HTTP", false},
	{"h2-to-http1", "the server said nothing", silent, "protocol-mismatch close-before-response abort-before-response", "closed without a word", false},
	{"h2-to-http1", "", nil, "protocol-mismatch", "HTTP/2 with prior knowledge sent to a server of HTTP/1", false},
	{"proxy-protocol", "", nil, "protocol-mismatch", "a PROXY header sent to a server that does not expect one", false},
	{"bad-certificate", "", nil, "tls-handshake-failed", "the client does not know the certificate's issuer", false},
	{"tls-version", "the server said nothing", silent, "tls-handshake-failed protocol-mismatch", "closed without a word", false},
	{"tls-version", "", nil, "tls-handshake-failed", "no version in common", false},
	{"upgrade", "", nil, "upgraded-close", "the connection left HTTP, and then was closed", false},
}

// expected returns the verdicts that are right for a lost request, and whether
// nothing need be said of it.
func expected(h *header, t *truth) (verdicts []string, quiet bool) {
	for _, e := range expectations {
		if e.cause == t.Cause && (e.holds == nil || e.holds(h, t)) {
			return strings.Fields(e.verdicts), e.quiet
		}
	}
	return nil, false
}

// neutral are the verdicts that accuse nobody.
var neutral = []string{"unknown", "ambiguous", "capture-incomplete"}

// families groups verdicts: in a damaged capture any of the same family will do.
var families = []string{
	race + "keepalive-limit-race",
	"late-reuse stale-connection idle-blackhole",
	unread + cutShort + "early-response-reset server-never-answered request-timeout pipelined-lost",
	"client-abort-before-response client-abort-mid-response client-abort-mid-upload",
	"connect-refused connect-timeout accept-queue-overflow backlog-dropped closed-on-accept",
	"protocol-mismatch tls-handshake-failed",
	"injected-reset firewall-reject peer-dead",
	"backlog-dropped abort-before-response", // only the server's other connections tell them apart
}

// related returns the given verdicts and all others of their families.
func related(verdicts []string) []string {
	all := slices.Clone(verdicts)
	for _, f := range families {
		if slices.ContainsFunc(verdicts, func(v string) bool { return slices.Contains(strings.Fields(f), v) }) {
			all = append(all, strings.Fields(f)...)
		}
	}
	return all
}

// causes returns the causes in the order of the table.
func causes() []string {
	var all []string
	for _, e := range expectations {
		if !slices.Contains(all, e.cause) {
			all = append(all, e.cause)
		}
	}
	return all
}

// checkCause says if a case provokes something that the table does not know.
func checkCause(cause string) error {
	if cause != "" && !slices.Contains(causes(), cause) {
		return fmt.Errorf("the table of expectations does not know the cause %q", cause)
	}
	return nil
}
