package correlate

import (
	"fmt"
	"strings"
)

// A Verdict says why a request was lost, or how a connection on which nothing
// was lost came to its end.
type Verdict uint8

// The verdicts. Their rules are the table in decide.go; their words, for people,
// are in package report.
const (
	// Unknown means that what was captured does not support a verdict. It is the
	// zero value, so that forgetting to decide accuses nobody.
	Unknown Verdict = iota
	// CaptureIncomplete means that packets which a verdict needs are missing.
	CaptureIncomplete
	// Ambiguous means that more than one cause fits what was captured.
	Ambiguous

	// IdleRace: the server closed the idle connection while the request was on its way.
	IdleRace
	// IdleRaceUnread: the request had reached the server's kernel, and the server
	// closed the idle connection without reading it.
	IdleRaceUnread
	// IdleRaceRST: as IdleRace, but the server aborted instead of closing.
	IdleRaceRST
	// IdleRaceLingering: as IdleRace, but the server went on to acknowledge the
	// request and threw it away.
	IdleRaceLingering
	// Idle408Race: an unasked response (408 as a rule) crossed the request.
	Idle408Race
	// KeepaliveLimitRace: the server closed, unannounced, at a limit of requests
	// or of age while the request was on its way.
	KeepaliveLimitRace

	// LateReuse: the client sent the request although its own TCP already had the
	// server's close, or the server's announcement of it.
	LateReuse
	// StaleConnection: the connection had been forgotten at the other end, or on
	// the way there, and no close was ever sent.
	StaleConnection
	// IdleBlackhole: after an idle time the request was retransmitted and never
	// acknowledged.
	IdleBlackhole

	// CloseBeforeResponse: the server had the request, sent nothing, and closed.
	CloseBeforeResponse
	// AbortBeforeResponse: the server had the request, sent nothing, and reset.
	AbortBeforeResponse
	// EarlyResponseReset: the server answered before it had the whole request and
	// then reset the connection under the upload.
	EarlyResponseReset
	// AbortMidResponse: the server reset the connection inside the response.
	AbortMidResponse
	// TruncatedResponse: the server closed before the end of the response.
	TruncatedResponse
	// ServerNeverAnswered: the server acknowledged the request and stayed silent.
	ServerNeverAnswered
	// RequestTimeout: the server gave up waiting for the rest of the request.
	RequestTimeout
	// PipelinedLost: the server closed after its answer to an earlier request of
	// the pipeline.
	PipelinedLost
	// ConnectRefused: the SYN was refused.
	ConnectRefused
	// ConnectTimeout: the SYN was sent again and never answered.
	ConnectTimeout
	// AcceptQueueOverflow: the server's queue of connections to be accepted was
	// full. The modifier tells the form: syn-dropped, ack-dropped, or
	// abort-on-overflow.
	AcceptQueueOverflow
	// BacklogDropped: the listener was closed with the connection in its queue.
	BacklogDropped
	// ClosedOnAccept: the server closed a fresh connection without reading anything.
	ClosedOnAccept

	// ProtocolMismatch: the client and the server do not speak the same protocol on
	// this port.
	ProtocolMismatch
	// TLSHandshakeFailed: the connection ended before TLS was established.
	TLSHandshakeFailed

	// ClientAbortBeforeResponse: the client gave up while it waited.
	ClientAbortBeforeResponse
	// ClientAbortMidResponse: the client gave up inside the response.
	ClientAbortMidResponse
	// ClientAbortMidUpload: the client gave up inside its own request.
	ClientAbortMidUpload

	// InjectedReset: a reset came in the name of an end that did not send it.
	InjectedReset
	// FirewallReject: something between the ends refused the connection, or a
	// segment of it, in the server's name.
	FirewallReject
	// PeerDead: one end fell silent, and nothing that was sent to it came through.
	PeerDead
	// IgnoredReset: a reset had no effect, and the connection went on.
	IgnoredReset

	// CleanClose: FINs with nothing outstanding.
	CleanClose
	// SimultaneousClose: both ends closed the idle connection at once.
	SimultaneousClose
	// ResetAfterComplete: a reset after the last response was complete.
	ResetAfterComplete
	// CloseNoise: resets that only answer the closing segments of the other end.
	CloseNoise
	// UnusedConnection: a connection that carried no request.
	UnusedConnection
	// UpgradedClose: the end of a connection that had left HTTP (101, CONNECT).
	UpgradedClose
	// StillOpen: open when the capture ended. Counted; never a finding.
	StillOpen

	numVerdicts
)

// Verdicts returns every verdict, grouped by family.
func Verdicts() []Verdict {
	v := make([]Verdict, 0, numVerdicts)
	for i := range numVerdicts {
		v = append(v, i)
	}
	return v
}

var verdictNames = [numVerdicts]struct{ id, family string }{
	Unknown:                   {"unknown", "unknown"},
	CaptureIncomplete:         {"capture-incomplete", "unknown"},
	Ambiguous:                 {"ambiguous", "unknown"},
	IdleRace:                  {"idle-race", "idle-race"},
	IdleRaceUnread:            {"idle-race-unread", "idle-race"},
	IdleRaceRST:               {"idle-race-rst", "idle-race"},
	IdleRaceLingering:         {"idle-race-lingering", "idle-race"},
	Idle408Race:               {"idle-408-race", "idle-race"},
	KeepaliveLimitRace:        {"keepalive-limit-race", "idle-race"},
	LateReuse:                 {"late-reuse", "stale-reuse"},
	StaleConnection:           {"stale-connection", "stale-reuse"},
	IdleBlackhole:             {"idle-blackhole", "stale-reuse"},
	CloseBeforeResponse:       {"close-before-response", "server-abort"},
	AbortBeforeResponse:       {"abort-before-response", "server-abort"},
	EarlyResponseReset:        {"early-response-reset", "server-abort"},
	AbortMidResponse:          {"abort-mid-response", "server-abort"},
	TruncatedResponse:         {"truncated-response", "server-abort"},
	ServerNeverAnswered:       {"server-never-answered", "server-abort"},
	RequestTimeout:            {"request-timeout", "server-abort"},
	PipelinedLost:             {"pipelined-lost", "server-abort"},
	ConnectRefused:            {"connect-refused", "connect"},
	ConnectTimeout:            {"connect-timeout", "connect"},
	AcceptQueueOverflow:       {"accept-queue-overflow", "connect"},
	BacklogDropped:            {"backlog-dropped", "connect"},
	ClosedOnAccept:            {"closed-on-accept", "connect"},
	ProtocolMismatch:          {"protocol-mismatch", "protocol"},
	TLSHandshakeFailed:        {"tls-handshake-failed", "protocol"},
	ClientAbortBeforeResponse: {"client-abort-before-response", "client-abort"},
	ClientAbortMidResponse:    {"client-abort-mid-response", "client-abort"},
	ClientAbortMidUpload:      {"client-abort-mid-upload", "client-abort"},
	InjectedReset:             {"injected-reset", "network"},
	FirewallReject:            {"firewall-reject", "network"},
	PeerDead:                  {"peer-dead", "network"},
	IgnoredReset:              {"ignored-reset", "network"},
	CleanClose:                {"clean-close", "clean"},
	SimultaneousClose:         {"simultaneous-close", "clean"},
	ResetAfterComplete:        {"reset-after-complete", "clean"},
	CloseNoise:                {"close-noise", "clean"},
	UnusedConnection:          {"unused-connection", "clean"},
	UpgradedClose:             {"upgraded-close", "clean"},
	StillOpen:                 {"still-open", "clean"},
}

// String returns the verdict's id, such as "idle-race".
func (v Verdict) String() string { return verdictNames[v].id }

// Family returns the coarse answer: idle-race, stale-reuse, server-abort,
// client-abort, connect, protocol, network, clean, or unknown.
func (v Verdict) Family() string { return verdictNames[v].family }

// ParseVerdict returns the verdict with the given id.
func ParseVerdict(id string) (Verdict, error) {
	for v, n := range verdictNames {
		if n.id == id {
			return Verdict(v), nil
		}
	}
	return Unknown, fmt.Errorf("no verdict is called %q", id)
}

// Families returns the families that verdicts belong to, in the order of
// [Verdicts].
func Families() []string {
	var f []string
	for _, n := range verdictNames {
		if !strings.Contains(" "+strings.Join(f, " ")+" ", " "+n.family+" ") {
			f = append(f, n.family)
		}
	}
	return f
}

// Confidence says how well a verdict is supported. The zero value is none: it
// goes with Unknown and its kin, and with nothing else.
type Confidence uint8

const (
	NoConfidence Confidence = iota
	Weak                    // fits, and other explanations fit too
	Strong                  // no other explanation fits unless the capture lost something
	Proven                  // follows from sequence and acknowledgement numbers that were seen, or from what a kernel counted
)

// String returns "weak", "strong", "proven", or "" for none.
func (c Confidence) String() string { return [...]string{"", "weak", "strong", "proven"}[c] }

// Retry says whether the lost request may be sent again (RFC 9110, section 9.2.2).
type Retry uint8

const (
	NothingToRetry  Retry = iota
	RetrySafe             // provably not processed: any method may be repeated
	RetryLikelySafe       // not processed, by rule or in all likelihood
	RetryAmbiguous        // may have been processed: idempotent methods only
	RetryUnsafe           // was processed, at least in part
)

// String returns "safe", "likely-safe", "ambiguous", "unsafe", or "" for nothing to retry.
func (r Retry) String() string {
	return [...]string{"", "safe", "likely-safe", "ambiguous", "unsafe"}[r]
}
