package capture

import "time"

// A FactKind says what a kernel tells of a socket.
type FactKind uint8

const (
	// ResetSent: the kernel decided to send a RST (tracepoint tcp_send_reset).
	ResetSent FactKind = iota + 1
	// ResetReceived: the kernel took a reset for the socket (tcp_receive_reset). It
	// calls tcp_reset on itself, too, when data reaches a socket after close(): the
	// tracepoint alone does not prove that there was a RST on the wire.
	ResetReceived
	// Closed: the owner closed or shut down the socket, or the kernel ended it: it
	// left ESTABLISHED, SYN_RECV or CLOSE_WAIT (inet_sock_set_state).
	Closed
	// Opened: the socket became ESTABLISHED, or began to connect (the same).
	Opened
)

// String returns the word for k that evidence and JSON use.
func (k FactKind) String() string {
	return [...]string{"", "reset-sent", "reset-received", "closed", "opened"}[k]
}

// A SocketFact is what a kernel says of one of its sockets at one moment. No
// packet shows it. It is of one end only: Local is that end.
type SocketFact struct {
	Time          Time // on the clock of packets
	Kind          FactKind
	Local, Remote Endpoint // taken from the provoking segment where the socket was a listener
	// Reason is the kernel's own name of why it sent the reset, without prefix,
	// such as "TCP_ABORT_ON_CLOSE" (enum sk_rst_reason); "" where this kernel does
	// not say (before Linux 6.10, and before 6.12 for active resets).
	Reason string
	// Active resets are sent because of what the owner or the kernel itself did;
	// the others answer a segment.
	Active bool
	// State is the socket's TCP state in the kernel's words without prefix, such as
	// "ESTABLISHED", "FIN_WAIT1", "CLOSE" or "LISTEN"; for Closed the one that it
	// left, and NewState the one that it entered. A ResetSent without a socket has
	// neither, and one that the owner's close() made is in CLOSE already.
	State, NewState string
	// Unread is how many bytes the kernel had received in order and the owner had not
	// read: rcv_nxt - copied_seq of the tcp_sock. Only where HasUnread.
	Unread    uint32
	HasUnread bool
	// RcvNxt is the sequence number behind what the kernel had received in order,
	// as in the segments of Remote. Only where HasUnread.
	RcvNxt uint32
	// Seq, Len and Ack are of the segment that an answering reset answers. Only
	// where HasSegment.
	Seq, Ack   uint32
	Len        int
	HasSegment bool
	// Head is how the request begins that the kernel still had: in the provoking
	// segment or in the receive queue. At most a few hundred bytes; nil if none.
	Head []byte
	// Idle is how long the socket had neither sent nor received data. Only where
	// HasIdle.
	Idle    time.Duration
	HasIdle bool
	// Owner is whose socket it is, as far as that is known.
	Owner Process
	// Where is the network namespace that the socket is in, by inode number.
	Where uint64
}

// A Process is the owner of a socket: not the task that happened to run when the
// kernel acted. Fields that are not known are empty.
type Process struct {
	PID       int    // in the namespace of the observer; 0 if not known
	Command   string // as the kernel keeps it: at most 15 bytes
	Cgroup    string // path below the cgroup2 root, such as "/system.slice/nginx.service"
	Container string // the container's id as its engine gives it; "" outside of containers
	Name      string // the container's name; "" if not known
}

// Known reports whether anything is known of p.
func (p *Process) Known() bool { return *p != Process{} }
