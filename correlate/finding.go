package correlate

import (
	"time"

	"whyreset/capture"
)

// A Finding is the verdict on one lost request, or on one connection that ended
// with nothing lost.
type Finding struct {
	Time       capture.Time // when the connection ended, or the request was known to be lost
	Verdict    Verdict
	Confidence Confidence
	Lost       bool // the request got no complete answer
	Retry      Retry
	Candidates []Verdict // for Ambiguous: what fits

	Connection Connection
	Programs   Programs
	Request    *Request  // the lost request; else the connection's last one; nil if it carried none
	Response   *Response // as far as there was one to Request; nil if there was none

	Idle     time.Duration // from the last response byte, or the handshake, to the request, or to the close if no request was outstanding
	HasIdle  bool          // Idle is known
	ClosedBy Party
	Close    Close
	Upgraded *Upgraded // what followed HTTP; nil if nothing did
	Timer    *Timer    // the idle timer learned for this server so far; nil if none

	Client, Server End          // what the kernels say of the two ends
	Kernel         *KernelFacts // of the end that reset or closed the connection; nil if its kernel did not say

	Replay *Replay // the copy of the lost request that was sent within a second; nil if none was seen

	// Modifiers are words that qualify the verdict, such as "first-use".
	Modifiers []string
	// Evidence is what the verdict rests on, the decisive item first.
	Evidence []Evidence
}

// An End is what the kernel says of one end, if it was asked.
type End struct {
	Process capture.Process // the owner of the socket
}

// KernelFacts are what a kernel said of the end of its socket.
type KernelFacts struct {
	End         Party  // whose
	ResetReason string // the kernel's own name (enum sk_rst_reason); "" if it sent no reset, or does not say
	State       string // the socket's TCP state then; "" if there was no socket
	UnreadBytes uint32 // what it had received and its owner had not read
	HasUnread   bool
}

// A Connection describes the TCP connection of a finding.
type Connection struct {
	ID             uint64 // its number in the capture, from 0, in order of first packets
	Client, Server capture.Endpoint
	Start          capture.Time // its first packet
	StartSeen      bool         // its handshake was captured; else it began before the capture
	Requests       int          // requests that began on it
	Responses      int          // final responses that ended on it
	Protocol       string       // "http/1.1", or what else was recognised: "tls", "h2c", "opaque", "" for no bytes
	TLS            *TLS         // nil if it does not speak TLS
	HandshakeRTT   time.Duration
	HasRTT         bool
	Vantage        Vantage
	VantageByTTL   bool    // the handshake was not captured, and TTLs tell the vantage
	Files          []int   // the files (Segment.File) that its frames are in
	Elided         *Elided // what a recorder in the kernel did not keep of it; nil if that is nothing
}

// Elided tells what passed on a connection while the recorder kept none of it.
type Elided struct {
	Requests int
	Bytes    uint64       // of payload, in both directions
	Until    capture.Time // when the last of it passed
}

// Programs are what the ends of a connection call themselves.
type Programs struct {
	// Client is the client's User-Agent up to the first comment, such as
	// Go-http-client/1.1; "" if it has none, or if the client forwards.
	Client string
	// ClientForwards says that the client is a proxy: its requests have header
	// fields that only proxies add (Via, Forwarded, X-Forwarded-…), or several
	// different User-Agents.
	ClientForwards bool
	// Server and ServerVia are Timer.Product and Timer.Via, also where there is no
	// Timer.
	Server, ServerVia string
}

// TLS is what the handshake of TLS shows in clear.
type TLS struct {
	Version    string // such as "TLS 1.3"; "" if it was not captured
	ServerName string // the name that the client asked for (RFC 6066, section 3)
	ALPN       string // the protocol that the server chose (RFC 7301), if it is known; TLS 1.3 encrypts it
}

// A Request describes an HTTP request message.
type Request struct {
	Method, Target, Host string // as far as they were captured
	Number               int    // 1 is the first on the connection
	Time                 capture.Time
	Frame                uint64 // the packet with its first byte
	Bytes                int64  // on the wire, as far as it was sent
	Complete             bool   // all of it was sent
}

// A Response describes the final HTTP response to a request.
type Response struct {
	Status   int // 0 if the status line was not captured whole
	Frame    uint64
	Bytes    int64
	Complete bool
}

// A Party is an end of a connection, or what is between them.
type Party uint8

const (
	NoParty Party = iota // nobody, or it is not known
	Client
	Server
	BothParties
	Middlebox
)

// String returns "client", "server", "both", "middlebox", or "".
func (p Party) String() string {
	return [...]string{"", "client", "server", "both", "middlebox"}[p]
}

// A Close describes the first close of a connection, in sequence terms.
type Close struct {
	Kind   CloseKind
	Frame  uint64
	Ack    int64 // what it acknowledges, relative to the peer's first byte being 1
	HasAck bool
	// Payload is what a reset carried, at most its first 64 bytes, and PayloadLen
	// its length on the wire.
	Payload    []byte
	PayloadLen int
}

// A CloseKind tells how a connection was closed.
type CloseKind uint8

const (
	NoClose     CloseKind = iota
	FINClose              // a FIN
	NotifyClose           // the close_notify of TLS
	ActiveReset           // a RST that a socket sent when it was aborted: it acknowledges
	ReplyReset            // a RST that answers a segment for which there is no open socket: it does not
	Refusal               // a RST that answers a SYN
)

// String returns "none", "fin", "active-reset", "reply-reset" or "refusal".
func (k CloseKind) String() string {
	return [...]string{"none", "fin", "close-notify", "active-reset", "reply-reset", "refusal"}[k]
}

// Vantage says where on the path the capture was made, as the handshake's
// timing shows it, else the TTLs.
type Vantage uint8

const (
	NoVantage Vantage = iota // not known
	AtClient
	AtServer
	InMiddle
	Local // both ends are so near that it makes no difference
)

// String returns "client", "server", "middle", "local", or "".
func (v Vantage) String() string {
	return [...]string{"", "client", "server", "middle", "local"}[v]
}

// Evidence is one observation that a verdict rests on.
type Evidence struct {
	Frame uint64 // the packet it was read from; 0 if it is not one packet's
	File  int    // Segment.File of that packet
	Text  string // a clause in lower case, without a full stop
}

// A Timer is a server's idle timeout, as its closes of idle connections show it.
type Timer struct {
	Timeout time.Duration // from the last response byte to the close: the median
	Spread  time.Duration // the largest difference of a close that was counted
	Closes  int           // how many closes agree
	Stated  time.Duration // what the server's Keep-Alive header promises; 0 if nothing
	Product string        // the first product in its Server header, in lower case; "" if it has none
	Via     string        // the nearest proxy in its responses' Via header, in lower case: it, and not Product, ended TCP

	Described bool // the head of a response was read: a header field that is not known was not there
}

// A Summary counts what a tracker has seen.
type Summary struct {
	Connections      uint64 // every connection, whatever it carried
	Opaque           uint64 // those of them that carried something other than HTTP/1
	StillOpen        uint64 // those that were open when the capture ended
	Waiting          uint64 // requests without a complete answer on the latter
	LongestWait      time.Duration
	Requests         uint64         // requests that began
	Replayed         uint64         // lost requests that were sent again within a second
	ReplayedAnswered uint64         // those of them whose copies were answered
	DuplicateRisk    uint64         // those of them that may have taken effect twice
	Abnormal         uint64         // WebSocket connections that ended without a close frame
	Unjudged         uint64         // requests of which the capture does not tell whether they were answered
	Lost             uint64         // requests that got no complete answer
	LostOn           uint64         // connections with a lost request
	Unopened         uint64         // connections that failed before there was a request
	Unlisted         uint64         // those of the latter that were only counted, because many are alike
	Evicted          uint64         // connections given up to keep memory bounded
	Duplicates       uint64         // segments seen a second time on their way (veth and bridge, both directions of a mirror)
	Late             uint64         // segments of connections that were already reported
	Gaps             uint64         // connections with bytes that their receiver acknowledged and the capture lacks
	Facts            uint64         // that kernels told
	FactsLost        uint64         // those that were lost before they came here
	FactsDropped     uint64         // those that there was no room for here
	FactsUnjoined    uint64         // those of connections that were not captured
	Owners           []OwnerCount   // whose sockets were reset by their own end, most first
	Verdicts         []VerdictCount // per verdict and server, most lost first, then by verdict and server
	Servers          []ServerTimer  // servers with a learned timer, by endpoint
	Restarts         []Restart      // servers that closed many connections at once, by time
	Limits           []ServerLimit  // servers that close at a limit of requests or age, by endpoint
	Tunnels          []ServerTunnel // servers whose upgraded connections end after a silence, by endpoint
}

// A ServerTunnel is the silence after which a server's upgraded connections end.
type ServerTunnel struct {
	Server capture.Endpoint
	Timer  Timer
}

// A VerdictCount counts the findings of one verdict about one server.
type VerdictCount struct {
	Verdict     Verdict
	Server      capture.Endpoint
	Lost        uint64 // lost requests
	Restart     uint64 // those of them that the server's restarts explain
	Connections uint64 // connections
	Proven      uint64 // findings whose confidence is Proven
	Reason      string // for capture-incomplete and ambiguous: the commonest reason, else ""
}

// A ServerTimer is what was learned of one server and its clients.
type ServerTimer struct {
	Server        capture.Endpoint
	Timer         Timer
	ClientReuse   time.Duration // the longest idle time after which a client sent another request
	ClientTimer   Timer         // how long clients keep idle connections before they close them; Closes is 0 if it is not known
	Clients       []ClientCount // which programs the clients are, the commonest three
	ExpectedRaces float64       // from how often requests come near the timeout, and the round-trip time
	SeenRaces     uint64        // findings of the family idle-race
}

// A ClientCount counts the connections of one client program to a server.
type ClientCount struct {
	Product     string // see Programs.Client
	Forwards    bool   // see Programs.ClientForwards
	Connections uint64
}
