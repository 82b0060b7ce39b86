package report

import "whyreset/correlate"

var networkWords = map[correlate.Verdict]Words{
	correlate.InjectedReset: {
		Title: "something on the path reset the connection in the name of one end",
		Meaning: "A reset came with the address of one end, and that end did not send it: firewalls, intrusion prevention, censorship, traffic shaping and balancers that drop connections do this. " +
			"The end in whose name it came may know nothing of it, and still be working on the request.",
		Blame: "something between the ends; whose, packets do not show: its distance (TTL) helps to find it",
		Rule: "At least two independent signs: a TTL at which that end never sends, an IP ID far from that end's counter right after its last segment, a sequence number that is not that end's next, further resets at guessed numbers, " +
			"that end's TCP going on afterwards, a reset without acknowledgement when there was nothing to answer, or one that acknowledges bytes that cannot have reached that end yet. Strong. One sign alone is only noted.",
		Saw:     sawReset,
		Prints:  printsReset,
		Retried: retriedDuplicate,
		Codes:   codesBefore,
		Retry:   retryAmbiguous + " If part of the response had come it is not safe.",
		Fix:     "find the box: capture on both sides of every firewall on the path, and compare the reset's TTL with the hops (traceroute); then look at its log, its idle timeout and its signatures",
		Config: []Line{
			{"tcpdump", "-v 'tcp[tcpflags] & tcp-rst != 0' shows TTL and ID of each reset"},
			{"Linux", "nft list ruleset: reject with tcp reset in a forward chain"},
			{"Azure", "the load balancer resets both ends at idleTimeoutInMinutes with enableTcpReset"},
			{"Suricata, Snort", "reject rules"},
		},
	},
	correlate.FirewallReject: {
		Title: "something on the path refused it in the server's name",
		Meaning: "A SYN, or a segment of the request, was answered by a reset in the form in which a host without the connection refuses it, and the server's host did not send it: it comes from another distance, " +
			"or the server's own TCP went on. A firewall that rejects (netfilter: REJECT with tcp-reset), or a balancer or NAT without a target, does this.",
		Blame: "a firewall, balancer or NAT on the path or on the server's host",
		Rule: "The reset answers the SYN or the request, nothing of which was acknowledged, and its TTL is not one at which the server sends; or the server's TCP went on; or SYNs are refused as well. " +
			"Strong, or weak where only other ports of that address can be compared or the TTL differs by one. " +
			"A rule on the server's own host leaves neither trace: then its reset cannot be told from the kernel's.",
		Doubt: "other ports of the address may lead to other hosts, and routes may differ by a hop; a capture at the server would tell",
		Saw:   "connection refused or connection reset by peer (Go), ECONNREFUSED or ECONNRESET (Node), [Errno 111] or [Errno 104] (Python), (7) or (56) (curl), SC or SH (HAProxy), UF or UC (Envoy)",
		Prints: []Line{
			{"at the SYN", "what connect-refused prints"},
			{"later", "connection reset by peer, ECONNRESET, curl's (56)"},
		},
		Retried: retriedIdle,
		Codes:   codesConnect,
		Retry:   "Likely safe: what was refused did not get through. Safe if it was the SYN.",
		Fix:     "look for a rule that rejects on the path and on the server's host, and for balancers without healthy targets",
		Config: []Line{
			{"Linux", "nft list ruleset, iptables-save: REJECT --reject-with tcp-reset"},
			{"Kubernetes", "kube-proxy rejects connections to a service without endpoints; NetworkPolicy"},
			{"AWS", "NLB: targets that fail their health checks; preserve_client_ip and its limits"},
		},
	},
	correlate.PeerDead: {
		Title: "one end fell silent, and nothing that was sent to it came through",
		Meaning: "The connection was in use, and then one end's data or keep-alive probes were sent again and again without an answer. No close was sent: " +
			"the other end's host crashed, lost its network, or was moved, or the path broke.",
		Blame: "the silent end's host or network, or the path to it; packets on one side do not tell which",
		Rule: "With a request outstanding, data was sent again five times or more without an acknowledgement, or three keep-alive probes went unanswered, and the connection had not been idle before. Strong, as long as the capture sees both directions. " +
			"After an idle time it is idle-blackhole; between the two it is ambiguous.",
		Saw:     "context deadline exceeded (Go), ETIMEDOUT (Node), read timed out, [Errno 110] (Python), (28) or (56) (curl), (110) (nginx), sH or sD (HAProxy), UT (Envoy)",
		Prints:  append(append([]Line{}, printsTimeout...), Line{"any, with keep-alives", "Connection timed out (110), ETIMEDOUT, when the kernel gives up"}),
		Retried: retriedNever,
		Codes:   codesSilent,
		Retry:   "Ambiguous if the server had acknowledged the request, likely safe if it had not, not safe if a response had begun.",
		Fix:     "look at the silent host and the path at that second (crash, reboot, link, migration); bound the wait with TCP_USER_TIMEOUT, keep-alives and a deadline on every request",
		Config: []Line{
			{"Linux", "TCP_USER_TIMEOUT; TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT; net.ipv4.tcp_retries2 (15: about 15 minutes)"},
			{"Go", "net.Dialer.KeepAliveConfig (15 s, 15 s, 9)"},
			{"HAProxy", "tcp-ut, option srvtcpka"},
			{"Envoy", "upstream_connection_options.tcp_keepalive"},
			{"nginx as proxy", "proxy_socket_keepalive on"},
		},
	},
	correlate.IgnoredReset: {
		Title: "a reset had no effect, and the connection went on",
		Meaning: "A reset came in the name of one end, and the other end's TCP did not take it: its number was not the next one due. TCP answers that with a challenge (RFC 5961), which only the real sender of a reset can meet. " +
			"The connection then went on as if nothing had happened. Old packets of an earlier connection, or somebody who guesses, do this.",
		Blame:   "nobody, if it is rare; somebody who tries to break connections, if it is not",
		Rule:    "A reset, then new data from the end in whose name it came, and the other end acknowledged it. No request was lost. Proven.",
		Saw:     "nothing",
		Prints:  printsNothing,
		Retried: "Nothing to send again.",
		Codes:   codesNormal,
		Retry:   retryNothing,
		Fix:     "nothing to do; if it recurs, find who sends these resets (their TTL against that end's own)",
		Config:  []Line{{"Linux", "nstat -az TcpExtTCPChallengeACK counts them; net.ipv4.tcp_challenge_ack_limit"}},
	},
}
