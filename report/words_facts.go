package report

import (
	"strconv"
	"strings"

	"whyreset/capture"
	"whyreset/correlate"
)

// unreadTitles take the place of Words.Title where the server's kernel says that not
// a byte of the request was read.
var unreadTitles = map[correlate.Verdict]string{
	correlate.IdleRaceUnread:      "the server closed the idle connection as it arrived, and never read it",
	correlate.AbortBeforeResponse: "the server had it and reset the connection without having read it",
}

// fixMemory is what to change where a kernel ran out of memory for TCP.
const fixMemory = "the host ran out of memory for TCP or of orphaned sockets: nstat -az TcpExtTCPAbortOnMemory; raise net.ipv4.tcp_mem or tcp_max_orphans, or hold fewer connections"

// peeked is where the count of unread bytes proves less than it seems to: tcp_recvmsg
// does not move copied_seq under MSG_PEEK.
const peeked = "A program that acted on what it had only looked at (MSG_PEEK), and not taken off the socket, would be counted as not having read it"

// kernelSays are what the kernel of an end adds to the rule of a verdict, where eBPF
// is used.
var kernelSays = map[correlate.Verdict]string{
	correlate.IdleRace:            "the kernel's reason TCP_ABORT_ON_DATA, for the segment with the request's first byte, proves the refusal even where the reset itself was not captured",
	correlate.IdleRaceUnread:      "the server's kernel counts the bytes that its program had not read when it closed: where that is the whole request, it is proven that it was not processed, and safe to send again, whether the idle timer is known or not. " + peeked,
	correlate.IdleRaceRST:         "the kernel's reason TCP_STATE in the state CLOSE is close() with SO_LINGER 0; in another state it is an abort from outside, as by ss -K",
	correlate.IdleRaceLingering:   "unread bytes when the server shut down its side show that it had not read the request by then",
	correlate.LateReuse:           "the kernel's reason TCP_TIMEWAIT_SOCKET says that the server had closed, and that the client's TCP had acknowledged its FIN",
	correlate.StaleConnection:     "the kernel's reason TCP_FLAGS (the port listens) or NO_SOCKET says that the server's host did not know of the connection: no box on the way sent the reset",
	correlate.CloseBeforeResponse: "where nothing was left unread, the program had read the request: proven if the server's idle timer was not due. Where it was, a program that reads ahead of its handlers may have dropped what it read (asyncio)",
	correlate.AbortBeforeResponse: "where the program had read the request, or part of it, and its idle timer was not due, the kernel proves that it was no idle close; where it had read nothing, that it was not processed, and is safe to send again. " + peeked,
	correlate.BacklogDropped:      "the kernel's reason TCP_STATE in the state CLOSE, with the whole request unread, is how connections end that nobody had accepted: proven, and safe to send again",
	correlate.AcceptQueueOverflow: "the kernel's reason INVALID_SYN for the handshake's last segment proves abort-on-overflow",
	correlate.ConnectRefused:      "that the server's kernel sent the refusal itself shows that it was no packet filter; where it did not, and was seen to tell of another refusal just before, the verdict is firewall-reject",
	correlate.InjectedReset:       "a reset that the kernel of the end in whose name it came did not send: strong where every reset of that host is told of and nothing was lost at that time",
	correlate.FirewallReject:      "a reset that answers the request and that the server's kernel did not send: a packet filter's, on that host or before it",
	correlate.PeerDead:            "the kernel's reason TCP_KEEPALIVE_TIMEOUT proves that the other end answered no probes",
	correlate.Ambiguous:           "the kernel's reason and its count of unread bytes decide most of these",
}

// processText names the owner of a socket, as far as it is known.
func processText(p *capture.Process) string {
	var parts []string
	if p.Command != "" {
		parts = append(parts, escape(p.Command))
	}
	if p.PID != 0 {
		parts = append(parts, "pid "+strconv.Itoa(p.PID))
	}
	switch id := p.Container; {
	case p.Name != "":
		parts = append(parts, "container "+escape(shorten(p.Name, 64)))
	case id != "":
		parts = append(parts, "container "+escape(id[:min(len(id), 12)]))
	case p.Cgroup != "" && p.Cgroup != "/":
		parts = append(parts, "cgroup "+escape(shorten(p.Cgroup, 80)))
	}
	return strings.Join(parts, ", ")
}

// titleOf says what became of the request of f.
func titleOf(f *correlate.Finding, words Words) string {
	if t := unreadTitles[f.Verdict]; t != "" && f.Kernel != nil && f.Kernel.End == correlate.Server && f.Retry == correlate.RetrySafe {
		return t
	}
	return words.Title
}

// ownerLines say whose sockets were reset by their own end.
func ownerLines(owners []correlate.OwnerCount) []string {
	type owner struct{ command, container, name string }
	var order []owner
	reasons := map[owner][]string{}
	for _, o := range owners {
		k := owner{o.Command, o.Container, o.Name}
		if reasons[k] == nil {
			order = append(order, k)
		}
		reason := o.Reason
		if reason == "" {
			reason = "for no stated reason"
		}
		reasons[k] = append(reasons[k], group(o.Resets)+" "+reason)
	}
	var lines []string
	for i, k := range order {
		if i == maxAdvice {
			lines = append(lines, "… and of "+plural(uint64(len(order)-i), "program more", "programs more"))
			break
		}
		p := capture.Process{Command: k.command, Container: k.container, Name: k.name}
		lines = append(lines, "resets by "+processText(&p)+", as the kernel names them: "+strings.Join(reasons[k], ", "))
	}
	return lines
}

// factNotes say what was missed of what kernels told.
func factNotes(k *correlate.Summary) []string {
	var notes []string
	if k.FactsLost > 0 {
		notes = append(notes, plural(k.FactsLost, "fact", "facts")+" of the kernel lost: resets at those times may lack their reason")
	}
	if k.FactsDropped > 0 {
		notes = append(notes, plural(k.FactsDropped, "fact", "facts")+" of the kernel given up to keep memory bounded")
	}
	if k.FactsUnjoined > 0 {
		notes = append(notes, plural(k.FactsUnjoined, "fact", "facts")+" of the kernel about connections that were not captured")
	}
	return notes
}
