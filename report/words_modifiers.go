package report

// A Modifier explains a word that qualifies a verdict.
type Modifier struct {
	Meaning     string // a clause, for the line of a finding
	Rule        string // the observation that it takes
	Consequence string // what follows from it
}

// modifierWords explain the modifiers of findings.
var modifierWords = map[string]Modifier{
	"limit-match": {
		"the server ended other connections after the same number of requests, or at the same age",
		"the close came within 50 ms of a response, after as many of them as at least three of the server's closes and half of all that came right after a response, or after 100, 1000 or 10000, which are usual defaults; or at the age at which at least three of its connections closed, or at an hour",
		"idle timeouts need not be changed for it: raise the limit, or let the server announce its last response with Connection: close",
	},
	"syn-dropped": {
		"the server's machine dropped the SYN, although others got through to the same port",
		"the SYN was sent at least three times and never answered, and meanwhile the server accepted another connection of the same client",
		"the path works and the machine is up; a full queue is the likeliest reason, and a filter that drops some connections only is another: the verdict stays weak",
	},
	"ack-dropped": {
		"the handshake ended for the client, and the server's machine dropped it: the queue of connections to accept was full",
		"the server sent its SYN-ACK again after the client had acknowledged it, or, seen at the server's end, everything that the client sent arrived; and not a byte of the request, which was sent again, was acknowledged",
		"the client's program believes that it is connected and waits for an answer to a request that no program has: raise the queue's length (listen, net.core.somaxconn) or accept faster",
	},
	"abort-on-overflow": {
		"the queue of connections to accept was full, and tcp_abort_on_overflow makes the server's machine reset what does not fit",
		"a reset with the sequence number right behind the SYN-ACK answers the acknowledgement that ends the handshake, and nothing that followed was acknowledged",
		"the server's program never heard of the connection, and nothing was processed; without net.ipv4.tcp_abort_on_overflow the handshake would be taken as soon as there is room",
	},
	"announced": {
		"the end of the connection had been announced",
		"the last response said Connection: close, or its request did, or, in HTTP/1.0, neither asked for more; or the server had sent a response of its own accord, such as 408, and the client's TCP had it",
		"a client that reads what it is sent does not use the connection again: where a request was lost all the same, the client, or its pool, is what to look at",
	},
	"server-idle": {
		"the server's idle timer ended it",
		"the server closed first, with nothing outstanding and nothing announced, at least 50 ms after the last response, at no limit that is known and not in a restart",
		"nothing was lost; the close is a sample of the server's idle timeout",
	},
	"client-stalled": {
		"the client had taken nothing of what was sent for some time",
		"the server closed or reset inside a response of which the client had acknowledged no more for at least 500 ms",
		"the client did not read, or the path was gone: the server may only have given up on it (send timeouts)",
	},
	"client-idle": {
		"the client's idle timer ended it",
		"the client closed first, with nothing outstanding and nothing announced, at least 50 ms after the last response",
		"nothing was lost, and this is the right order: the client gave the connection up before the server did",
	},
	"response-lost": {
		"the response may have been lost with the reset",
		"the server sent a whole response before it had the whole request, then reset the connection under the rest, and the client was not seen to have acknowledged the response",
		"the client's program may see a broken pipe or a reset in place of the status that was meant for it; a server that reads the rest, or closes only its sending side first, avoids that",
	},
	"near-miss": {
		"it missed the close by so little that no program could have seen it",
		"the request acknowledges the server's FIN, which had come less than 10 ms before",
		"to the program it is an idle race, and counts as one in the summary: the idle timeouts are what to change, not a pool that fails to notice closes",
	},
	"response-unacknowledged": {
		"the end of the last response was not acknowledged: the client may lack it",
		"the server reset the connection after its last response, and the client had acknowledged less than all of that before",
		"a reset throws away what the client's program has not read yet: it may have had a truncated response although all of it was sent",
	},
	"unasked-response": {
		"the server sent a response that nobody had asked for",
		"a response began on a connection on which no request had",
		"as a rule a 408 for a connection that was opened and not used; a client that sends then may take it for the answer",
	},
	"replayed": {
		"the client sent the request again",
		"the same host sent a request of the same method, target and host to the same server on another connection, within a second of the close and exactly once; requests that this host sends often anyhow do not count, as another one says nothing there",
		"if the copy was answered, the application may not have noticed the loss; many libraries and proxies repeat requests silently",
	},
	"duplicate-risk": {
		"the server may have acted on both copies",
		"the request was sent again (replayed), its method is not idempotent (RFC 9110, section 9.2.2), and it is not proven that the first copy was left unprocessed (retry is not safe)",
		"look for what exists twice: orders, payments, messages; keep clients and proxies from repeating such requests unless a key tells the server that they are the same",
	},
	"deploy-restart": {
		"the server was going down or being restarted",
		"the server closed at least three connections within a second, or 100 ms if they are fewer than eight, and half of those that were open, or a fifth if four or more fell within 100 ms, although they had been idle for different times, so that no timer and no limit can be the cause; or it closed one or more and refused new ones right afterwards",
		"idle timeouts are not to blame and need no change, whatever the verdict: let the server drain before it stops. In the summary such losses do not count as races with an idle timer",
	},
	"abnormal": {
		"a WebSocket ended without a close frame (code 1006)",
		"all frames of both directions were followed, and neither end sent a close frame before the connection ended (RFC 6455, section 7.1.5)",
		"the applications learn of it as code 1006 or a failed read, and not why; whether a timer for tunnels, a restart or a crash did it, the evidence says",
	},
	"timer-match": {
		"it ended when a timer was due",
		"the connection had left HTTP and ended after as long a silence as this server's other upgraded connections",
		"an end or a proxy has a timeout for tunnels: send pings more often than that, or raise it",
	},
	"began-before-capture": {
		"the connection began before the capture",
		"no SYN of it was captured",
		"what was sent before is not known: the number of requests, which end opened it, the round trip; fewer verdicts can be proven",
	},
	"reused": {
		"the connection had been used before",
		"the lost request is not the first on its connection, or the connection began before the capture",
		"the client took the connection from a pool: a fresh connection might have been answered, which is why libraries repeat such requests and no others",
	},
	"first-use": {
		"the connection had not been used before",
		"the lost request is the first on its connection, whose handshake was captured",
		"no pool of idle connections is involved, unless the client opens connections in advance; libraries as a rule do not repeat such a request",
	},
}
