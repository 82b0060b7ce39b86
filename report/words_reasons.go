package report

import (
	"io"
	"strings"
)

// A KernelReason explains why a kernel sent a reset.
type KernelReason struct {
	Name    string // enum sk_rst_reason (include/net/rstreason.h), without SK_RST_REASON_
	Title   string // a clause about the end that sent it; {unread} stands for how many bytes it had not read
	Meaning string // what the kernel did, and where
	Request string // what it means for a request
	Retry   string // whether that may be sent again
}

// The usual ones first. Their numbers differ between kernels.
var kernelReasons = []KernelReason{
	{
		"TCP_ABORT_ON_CLOSE", "closed with {unread} received and not read",
		"the owner called close(), or ended, while data that the kernel had acknowledged still waited to be read; TCP then resets instead of closing (RFC 2525, section 2.17; __tcp_close)",
		"where what was unread begins with a request line, the program had none of that request; where it begins inside a body, the program gave up an upload",
		"safe if the request's first byte is among what was unread: nobody can read it any more. Otherwise the program may have begun to act on it. This fact alone does not show where a request begins, as packets do: a body may begin like one",
	},
	{
		"TCP_ABORT_ON_DATA", "had closed, and then data came",
		"the owner had called close() and the kernel waited for the other end's close when new data came (tcp_rcv_state_process in FIN-WAIT)",
		"the usual idle race: the request came after the server had given the connection up",
		"safe if the refused segment is all new and the request's first byte is in it: the program had closed and cannot read it. This fact alone does not show that, as packets do: a body, whose request was read, may begin like a request",
	},
	{
		"TCP_TIMEWAIT_SOCKET", "had closed, the other end knew it, and then data came",
		"the close had been acknowledged, only a shadow of the connection was left, and data came for it (tcp_timewait_state_process)",
		"late reuse: the client used a connection whose close its own TCP had acknowledged",
		"safe unless the segment is a copy of one that was taken before the close, which this fact alone does not show",
	},
	{
		"TCP_FLAGS", "does not know the connection; the port still listens",
		"a segment that is no SYN came to a listening socket: the connection it belongs to is gone, or never was (tcp_rcv_state_process in LISTEN)",
		"it came too late, after the connection had ended, or after a restart; often it is only what followed the first refused segment",
		"this copy was not processed. An earlier one may have been",
	},
	{
		"NO_SOCKET", "has no socket for it",
		"a segment came for which there is neither a connection nor a listening socket (tcp_v4_rcv, tcp_v6_rcv)",
		"for a SYN: the connection is refused, nothing listens on the port. For anything else: the program is gone, with its connections",
		"a refused SYN carried no request: safe. Otherwise this copy was not processed; an earlier one may have been",
	},
	{
		"TCP_STATE", "ended the connection at once",
		"close() with SO_LINGER set to 0 seconds; or a listening socket was closed with connections nobody had accepted; or ss -K (tcp_disconnect, inet_csk_listen_stop, tcp_abort); or the wait for the other end's close took too long",
		"an abort on purpose, or a server that went down: what it had not accepted, nobody has read",
		"likely safe if the request's first byte is among what was unread; otherwise the program may have acted on it",
	},
	{
		"INVALID_SYN", "refused the handshake",
		"a segment that does not fit came for a connection whose handshake was not finished; or the queue of connections to accept was full and net.ipv4.tcp_abort_on_overflow is set (tcp_check_req)",
		"no program heard of the connection",
		"safe: the connection was never given to a program",
	},
	{
		"TCP_KEEPALIVE_TIMEOUT", "had no answer to its keep-alive probes",
		"SO_KEEPALIVE was on, and the other end answered none of the probes (tcp_keepalive_timer)",
		"the other end, or the path to it, had been dead for long",
		"what was outstanding may have been processed",
	},
	{
		"TCP_ABORT_ON_MEMORY", "had no memory left for it",
		"TCP's memory was used up, or there were too many connections that no program owns any more (tcp_check_oom, tcp_out_of_resources): net.ipv4.tcp_mem, tcp_max_orphans",
		"the machine was overloaded: the close had begun, or was forced",
		"what was outstanding may have been processed",
	},
	{
		"TCP_ABORT_ON_LINGER", "does not wait for the other end's close",
		"TCP_LINGER2 was set below 0, so that close() does not wait in FIN-WAIT-2 (__tcp_close); this is not SO_LINGER",
		"the owner had read everything and was done",
		"what was outstanding may have been processed",
	},
	{
		"TCP_DISCONNECT_WITH_DATA", "broke off with data unsent",
		"the socket was disconnected while it was closing and had data that was not sent (tcp_disconnect)",
		"the end of a response may be missing",
		"it was processed, at least in part",
	},
	{
		"TCP_INVALID_ACK_SEQUENCE", "had an answer to its SYN that does not fit",
		"the acknowledgement was not for the SYN that it sent (tcp_rcv_synsent_state_process)",
		"another host, or an older connection of the same ports, answered",
		"safe: there was no connection",
	},
	{
		"TCP_RFC7323_PAWS", "had an answer to its SYN with a timestamp that it never sent",
		"the timestamp that was echoed is outside of what was sent (RFC 7323; tcp_rcv_synsent_state_process)",
		"an old segment, or a middlebox that rewrites timestamps",
		"safe: there was no connection",
	},
	{
		"TCP_TOO_OLD_ACK", "had an acknowledgement that is far too old for its handshake",
		"the segment that should end the handshake acknowledges less than this connection sent (tcp_ack in SYN-RECEIVED)",
		"ports used again too soon, or an old segment",
		"safe: no program heard of the connection",
	},
	{
		"TCP_ACK_UNSENT_DATA", "had an acknowledgement of what it never sent",
		"the segment that should end the handshake acknowledges what was not sent (tcp_ack in SYN-RECEIVED)",
		"ports used again too soon, or an old segment",
		"safe: no program heard of the connection",
	},
	{
		"TCP_OLD_ACK", "had an acknowledgement that is too old for its handshake",
		"the segment that should end the handshake acknowledges less than the SYN-ACK (tcp_ack in SYN-RECEIVED)",
		"ports used again too soon, or an old segment",
		"safe: no program heard of the connection",
	},
	{
		"MPTCP_RST_EUNSPEC", "ended a subflow of Multipath TCP", "unspecified error (RFC 8684, section 3.6)",
		"the connection may go on over its other subflows", "what was outstanding may have been processed",
	},
	{
		"MPTCP_RST_EMPTCP", "ended a subflow of Multipath TCP after an error in its use", "MPTCP-specific error (RFC 8684, section 3.6)",
		"the connection may go on over its other subflows", "what was outstanding may have been processed",
	},
	{
		"MPTCP_RST_ERESOURCE", "had no resources left for a subflow of Multipath TCP", "lack of resources (RFC 8684, section 3.6)",
		"the connection may go on over its other subflows", "what was outstanding may have been processed",
	},
	{
		"MPTCP_RST_EPROHIBIT", "is not permitted this subflow of Multipath TCP", "administratively prohibited (RFC 8684, section 3.6)",
		"the connection may go on over its other subflows", "what was outstanding may have been processed",
	},
	{
		"MPTCP_RST_EWQ2BIG", "had too much outstanding on a subflow of Multipath TCP", "too much outstanding data (RFC 8684, section 3.6)",
		"the connection may go on over its other subflows", "what was outstanding may have been processed",
	},
	{
		"MPTCP_RST_EBADPERF", "gave up a slow subflow of Multipath TCP", "unacceptable performance (RFC 8684, section 3.6)",
		"the connection may go on over its other subflows", "what was outstanding may have been processed",
	},
	{
		"MPTCP_RST_EMIDDLEBOX", "found that something on the path breaks Multipath TCP", "middlebox interference (RFC 8684, section 3.6)",
		"the connection may go on over its other subflows, or without them", "what was outstanding may have been processed",
	},
	{
		"ERROR", "failed in a way that has no name", "an error for which the kernel has no reason of its own",
		"nothing follows for a request", "what was outstanding may have been processed",
	},
	{
		"NOT_SPECIFIED", "does not say why",
		"the kernel gives this reset no reason; before Linux 6.12 that is so for all that answer no segment, and before 6.10 for all",
		"nothing follows for a request", "what was outstanding may have been processed",
	},
}

// reasonPrefix is what the enumeration's names begin with.
const reasonPrefix = "SK_RST_REASON_"

// reasonsWord is what explain calls the list of reasons.
const reasonsWord = "reasons"

// WordsOfReason returns what a kernel's reason means, in whatever case its name is
// written. Of one that is not known, only the name is.
func WordsOfReason(name string) (_ KernelReason, known bool) {
	upper := strings.TrimPrefix(strings.ToUpper(strings.ReplaceAll(name, "-", "_")), reasonPrefix)
	for _, r := range kernelReasons {
		if r.Name == upper {
			return r, true
		}
	}
	return KernelReason{Name: name, Title: "has a reason that this program does not know"}, false
}

// reasonTitle says in a clause why this end sent a reset.
func reasonTitle(name string, unread string) string {
	if name == "" {
		name = "NOT_SPECIFIED"
	}
	r, _ := WordsOfReason(name)
	return strings.ReplaceAll(r.Title, "{unread}", unread)
}

const reasonsAbout = "Why a Linux kernel says that it sent a reset (enum sk_rst_reason, Linux 6.10 and later). " +
	"“It” is the end that sent it. No packet shows any of this: it takes --ebpf, or a live capture by root."

// explainReasons lists all of them.
func explainReasons(b *strings.Builder) {
	b.WriteString("reasons: why the kernel sent a reset\n\n")
	for _, line := range wrap(reasonsAbout, explainWidth) {
		b.WriteString(line + "\n")
	}
	b.WriteByte('\n')
	width := 0
	for _, r := range kernelReasons {
		width = max(width, len(r.Name))
	}
	for _, r := range kernelReasons {
		entry(b, "  "+r.Name+strings.Repeat(" ", width-len(r.Name)), "it "+strings.ReplaceAll(r.Title, "{unread}", "data"), explainWidth)
	}
}

func explainReason(w io.Writer, r *KernelReason) error {
	var b strings.Builder
	b.WriteString(r.Name + " (the kernel's reason for a reset)\n")
	section(&b, "In a line (“it” is the end that sent the reset)", "it "+strings.ReplaceAll(r.Title, "{unread}", "data"))
	section(&b, "What happened", r.Meaning)
	section(&b, "What it means for a request", r.Request)
	section(&b, "Retry", r.Retry)
	_, err := io.WriteString(w, b.String())
	return err
}
