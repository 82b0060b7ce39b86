package report

import "whyreset/correlate"

const (
	blameTimeouts = "the settings: the server's idle timeout is not longer than the time for which the client keeps and reuses a connection; neither program misbehaved"
	fixIdle       = "{client}, or {server}"
)

var raceWords = map[correlate.Verdict]Words{
	correlate.IdleRace: {
		Title: "the server closed while it was on its way",
		Meaning: "The server closed the idle connection, and before its FIN had reached the client the client sent a request on it. The two crossed. " +
			"The FIN acknowledges no byte of the request, so the server's TCP held none of it when it closed; the request acknowledges no FIN, so the client could not have known. " +
			"The closed socket then answers the request with a reset.",
		Blame: blameTimeouts,
		Rule: "The server's FIN acknowledges at most the request's first byte, the request does not acknowledge the FIN, and not a byte of a response was sent. " +
			"Proven when a reset carries the very number that the request acknowledged: then the request was refused. Strong without that reset.",
		Saw:     sawEOF,
		Prints:  printsEOF,
		Retried: retriedIdle,
		Codes:   codesBefore,
		Retry:   retrySafe,
		Fix:     fixIdle,
		Config:  configIdle,
	},
	correlate.IdleRaceUnread: {
		Title: "it arrived just as the server's idle timer ran out, and was reset, in all likelihood unread",
		Meaning: "The request reached the server's kernel, and the server closed the idle connection without reading it; closing a socket with unread bytes makes the kernel send a reset. " +
			"The reset acknowledges the request, so the packets do not show whether the program had read it; the idle time, as long as this server's idle timeout, is what speaks for it. " +
			"On fast networks this is the commonest form of the idle race.",
		Blame: blameTimeouts,
		Rule: "The server's reset acknowledges the request, not a byte of a response was sent, the connection had been idle, and the idle time matches the timer learned from this server's other closes. " +
			"The packets of a server that read the request and then failed can be the same, so it is never proven by packets alone.",
		Doubt:   "the server may have read the request and then failed; its log at that moment, or the kernel's reset reason and count of unread bytes, would tell",
		Saw:     sawReset,
		Prints:  printsReset,
		Retried: retriedIdle,
		Codes:   codesBefore,
		Retry:   retryAmbiguous,
		Fix:     fixIdle,
		Config:  configIdle,
	},
	correlate.IdleRaceRST: {
		Title: "the server aborted the idle connection while it was on its way",
		Meaning: "The server ended the idle connection with a reset instead of a FIN (SO_LINGER 0, or a proxy that kills connections), and a request crossed it. " +
			"The reset acknowledges no byte of the request, so the server's TCP held none of it when it aborted.",
		Blame: "the settings, as for idle-race: the server gives up idle connections before its clients do, and it does so abruptly",
		Rule: "A reset sent by the server's own accord (it acknowledges) acknowledges at most the request's first byte, and not a byte of a response was sent. " +
			"Proven when further resets answer the request's segments. Strong without them.",
		Saw:     sawReset,
		Prints:  printsReset,
		Retried: retriedIdle,
		Codes:   codesBefore,
		Retry:   retrySafe,
		Fix:     "{client}; let the server close idle connections with a FIN (no SO_LINGER 0)",
		Config:  configIdle,
	},
	correlate.IdleRaceLingering: {
		Title: "the server had closed its side while it was on its way, then acknowledged it and did not answer",
		Meaning: "As in an idle race the server's FIN and the request crossed. This server closes its sending side first and goes on reading for a while (lingering close), " +
			"so its kernel acknowledges the request instead of refusing it. No response can follow on that connection, and RFC 9112, section 9.6, forbids processing the request.",
		Blame: blameTimeouts,
		Rule: "The server's FIN acknowledges at most the request's first byte, a later segment without RST acknowledges more, and there is no response. " +
			"Strong: that the request went unread is the rule, not an observation. " +
			"Weak where the FIN acknowledges the request: then it rests on the idle time, which fits the server's timer, and on how this server closes other connections.",
		Doubt:   "where the FIN acknowledges the request, the server may have read it and then closed (close-before-response); its log at that moment would tell",
		Saw:     sawEOF,
		Prints:  printsEOF,
		Retried: retriedIdle,
		Codes:   codesBefore,
		Retry:   retryLikely,
		Fix:     fixIdle,
		Config:  configIdle,
	},
	correlate.Idle408Race: {
		Title: "a response that nobody had asked for crossed it, and can be taken for its own",
		Meaning: "The server ended the idle connection with a parting response, as a rule 408 Request Timeout, while a request was on its way. " +
			"That response acknowledges no byte of the request, so it cannot be an answer to it; a client that pairs messages by their order takes it for one.",
		Blame: "the settings: the server's idle timeout is not longer than the client's, and it says 408 to connections on which nothing was asked",
		Rule: "The segment that carries the response acknowledges at most the request's first byte, and the request does not acknowledge the response. " +
			"Proven: it answers nothing that was asked. That the request went unread is proven by a reset that answers it, and likely otherwise.",
		Saw:     "status 408 (most clients and proxies hand it on), Unsolicited response received on idle HTTP channel (Go's log)",
		Prints:  []Line{{"Most clients", "status 408 as if it were the answer"}, {"Go net/http", "408, or http: server closed idle connection; logs Unsolicited response received on idle HTTP channel"}, {"OkHttp", "nothing: it sends the request again"}},
		Retried: "OkHttp sends the request again after a 408. The others return it.",
		Codes: Codes{
			HAProxy: "no name of its own: the 408 counts as the answer",
			Envoy:   "no name of its own: the 408 counts as the answer",
			Nginx:   "408, handed on",
			ALB:     "no name of its own: the 408 counts as the answer",
			GCP:     "no name of its own: the 408 counts as the answer",
		},
		Retry: "Likely safe: the server answered before it had any of it, and RFC 9110, section 15.5.9, lets a client repeat a request after 408.",
		Fix:   "{client}, and let the server close idle connections without a word (HAProxy: option http-ignore-probes)",
		Config: append([]Line{
			{"HAProxy as server", "timeout http-keep-alive closes silently, timeout http-request says 408; option http-ignore-probes"},
		}, configIdle...),
	},
	correlate.KeepaliveLimitRace: {
		Title: "the server closed at a limit of requests or of age while it was on its way",
		Meaning: "The server ended a busy connection because it had served its number of requests or had reached its age, without announcing it by Connection: close in the last response. " +
			"The next request was already under way. The close acknowledges none of it, or came with the same counts on other connections.",
		Blame: "the server's settings: a limit that is enforced unannounced",
		Rule: "The rule of idle-race or idle-race-rst holds, there was next to no idle time, and the number of responses or the age is a usual limit (100, 1000, one hour) or one at which this server closed other connections. " +
			"Proven, as for idle-race, that the server had none of the request; that a limit was the reason is inferred from the number.",
		Doubt:   "the server may have closed for another reason at that number of requests; several connections that end at the same number would tell",
		Saw:     sawEOF,
		Prints:  append(append([]Line{}, printsEOF...), Line{"any, if reset", "connection reset by peer, ECONNRESET"}),
		Retried: retriedIdle,
		Codes:   codesBefore,
		Retry:   retrySafe,
		Fix:     "raise or remove the server's limit of requests or age per connection, or let it announce the last response with Connection: close",
		Config: []Line{
			{"nginx", "keepalive_requests (1000; 100 before 1.19.10), keepalive_time (1 h)"},
			{"Apache", "MaxKeepAliveRequests (100; 0 is without limit)"},
			{"Tomcat", "maxKeepAliveRequests (100; -1 is without limit)"},
			{"gunicorn", "--max-requests with --max-requests-jitter"},
			{"Envoy", "max_requests_per_connection, max_connection_duration with drain_timeout"},
		},
	},
}

var staleWords = map[correlate.Verdict]Words{
	correlate.LateReuse: {
		Title: "the client sent it on a connection whose close had already reached it",
		Meaning: "The server had closed, and the client's own TCP had the FIN, or the announcement Connection: close, when the client sent another request on the connection. " +
			"The request acknowledges the FIN: no packets crossed. The closed socket answers with a reset.",
		Blame: "the client: its pool handed out a connection without looking whether it was still alive, or its event loop was too busy to see the close; where it missed the close by milliseconds (near-miss), the settings, as for idle-race",
		Rule: "The request acknowledges the server's FIN, or a response that announced the close (Connection: close, an unasked 408). " +
			"Proven: the client's kernel had it. A reset that answers the request proves that it was refused, too.",
		Saw: "EOF (Go), RemoteDisconnected (http.client), ECONNRESET or EPIPE (Node), broken pipe, NoHttpResponseException (Apache HttpClient), SH (HAProxy), UC (Envoy)",
		Prints: []Line{
			{"Most pools", "nothing: they see the close and open a new connection"},
			{"Go net/http", "EOF, or http: server closed idle connection"},
			{"Node http", "ECONNRESET, EPIPE"},
			{"Python http.client", "RemoteDisconnected: it never looks"},
			{"Apache HttpClient", "NoHttpResponseException: … failed to respond, within 2 s of the last use"},
			{"any, on a second write", "broken pipe, EPIPE"},
		},
		Retried: "Go, curl, requests, aiohttp, httpx, Java and OkHttp notice the close and take another connection, as long as their event loop gets to it. " +
			"http.client fails, and so does a POST in Apache HttpClient 4 within validateAfterInactivity (2 s).",
		Codes: codesBefore,
		Retry: retrySafe,
		Fix:   "make the client check a pooled connection before use and drop it on EOF; {client}; find what blocks its event loop",
		Config: []Line{
			{"Apache HttpClient", "setValidateAfterInactivity lower (of the pooling connection manager), evictIdleConnections"},
			{"Python http.client", "use urllib3 or requests, which look before they send"},
			{"Node", "agent timeout below the server's; look for blocked event loops (perf_hooks.monitorEventLoopDelay)"},
			{"Go", "Transport.IdleConnTimeout below the server's; read and close every response body"},
			{"Envoy", "common_http_protocol_options.idle_timeout of the cluster below the server's"},
		},
	},
	correlate.StaleConnection: {
		Title: "the other end no longer knew the connection, and no close had been sent",
		Meaning: "After a long idle time the request was answered by a bare reset, although the capture covers the idle time and shows no close. " +
			"Something had forgotten the connection: the server's machine restarted, or a NAT gateway, load balancer or firewall on the way dropped its entry.",
		Blame: "what is between, or a restart of the server: packets alone do not tell which, unless the reset's TTL differs from the server's",
		Rule: "The connection was in use before, the capture lacks nothing of it, no FIN or reset came from the server, and the reset carries the number that the request acknowledged; " +
			"and it came sooner than the server can answer, or with another TTL than the server's segments have, or the connection had been idle for 10 s or more. " +
			"That the bytes were refused is certain; that no close preceded is strong in the first two cases and after a minute of idle time, and weak before; who forgot is inferred.",
		Doubt:   "a close may have been sent that the capture lacks; a capture on the server's side of the middlebox would tell",
		Saw:     sawReset,
		Prints:  printsReset,
		Retried: retriedIdle,
		Codes:   codesBefore,
		Retry:   retrySafe,
		Fix:     "send TCP keep-alives more often than the middlebox forgets, or keep idle connections for less than that (NLB and NAT gateway 350 s, Azure 4 min)",
		Config: []Line{
			{"Linux", "net.ipv4.tcp_keepalive_time (7200 s) applies to sockets with SO_KEEPALIVE only"},
			{"Go client", "net.Dialer.KeepAliveConfig (15 s by default); Transport.IdleConnTimeout"},
			{"Node client", "agent keepAliveMsecs, agent timeout"},
			{"AWS", "NLB tcp.idle_timeout.seconds (350 s); NAT gateway 350 s, fixed"},
			{"Azure", "idleTimeoutInMinutes (4), enableTcpReset"},
			{"nginx, HAProxy, Envoy", "proxy_socket_keepalive on; option srvtcpka; upstream_connection_options.tcp_keepalive"},
		},
	},
	correlate.IdleBlackhole: {
		Title: "it was sent again and again after an idle time, and nothing ever came back",
		Meaning: "After an idle time the request was retransmitted, and no packet came from the server any more. " +
			"The path or the server was gone without a word, as when a firewall or a load balancer drops its entry silently.",
		Blame: "the path or the server's machine: a middlebox that forgets idle connections silently is the usual cause, but an outage looks the same",
		Rule: "The connection had been idle, for a minute or more, the request was retransmitted three times or more, and the server acknowledged none of it. " +
			"Strong, as long as the capture sees both directions; after a shorter idle time the verdict is ambiguous.",
		Doubt:   "the server's packets may have taken another way than the one captured; a capture at the client would tell",
		Saw:     "context deadline exceeded (Go), ETIMEDOUT (Node), read timed out (Python), upstream timed out (110) (nginx), sH or sD (HAProxy), UT (Envoy)",
		Prints:  printsTimeout,
		Retried: retriedNever,
		Codes:   codesSilent,
		Retry:   retryLikely,
		Fix:     "send TCP keep-alives more often than the middlebox forgets, keep idle connections for less than that, and bound the wait with TCP_USER_TIMEOUT",
		Config: []Line{
			{"Azure", "enableTcpReset on the load balancer, so that clients are told; idleTimeoutInMinutes"},
			{"Linux", "SO_KEEPALIVE with TCP_KEEPIDLE below the middlebox's timeout; TCP_USER_TIMEOUT"},
			{"Go client", "net.Dialer.KeepAliveConfig; Transport.IdleConnTimeout; a deadline on every request"},
			{"Envoy", "upstream_connection_options.tcp_keepalive; idle_timeout of the cluster"},
			{"HAProxy", "option srvtcpka with srvtcpka-idle; tcp-ut"},
		},
	},
}
