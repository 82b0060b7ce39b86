package report

import "whyreset/correlate"

// codesClient is how a client's end before the response is called at the server.
var codesClient = Codes{
	HAProxy: "CH-- (CC-- while connecting to the server, CQ-- in the queue)",
	Envoy:   "DC",
	Nginx:   "499; client prematurely closed connection",
	ALB:     "460",
	GCP:     "client_disconnected_before_any_response",
}

// configPatience is where clients set how long they wait.
var configPatience = []Line{
	{"Go client", "http.Client.Timeout, the request's context, Transport.ResponseHeaderTimeout"},
	{"Node client", "AbortSignal.timeout; undici headersTimeout and bodyTimeout (300 s)"},
	{"Python client", "requests: timeout=; aiohttp: ClientTimeout (300 s); httpx: timeout (5 s)"},
	{"nginx as proxy", "proxy_read_timeout (60 s); proxy_ignore_client_abort"},
	{"HAProxy", "timeout server; option abortonclose"},
	{"Envoy", "route timeout (15 s), per_try_timeout"},
	{"AWS ALB", "idle_timeout (60 s)"},
}

var clientWords = map[correlate.Verdict]Words{
	correlate.ClosedOnAccept: {
		Title: "the server closed the new connection without having any of it",
		Meaning: "The server accepted the connection and closed it at once. Its close acknowledges no byte of the first request, so nothing of it was there to be read. " +
			"A limit on connections, an access list, a server that expects TLS or the PROXY protocol, or one that was just shutting down do this.",
		Blame: "the server's side: something refuses the connection after TCP has accepted it; which limit or list, packets do not show",
		Rule: "It is the first request of a connection that had hardly been idle, and the server's FIN or reset acknowledges at most its first byte. " +
			"Strong: that nothing of the request was had is certain, that it has to do with accepting is inferred from the age of the connection (under a second).",
		Doubt:  "a load balancer between may have closed in the server's place; a capture at the server would tell",
		Saw:    "EOF or connection reset by peer (Go), socket hang up or read ECONNRESET (Node), (52) or (56) (curl), SH (HAProxy), UC (Envoy)",
		Prints: append(append([]Line{}, printsEOF...), Line{"any, if reset", "connection reset by peer, ECONNRESET, curl's (56)"}),
		Retried: "Go does not send a request again that failed on a fresh connection; curl reports (52) or (56). " +
			"nginx tries the next server of the group as far as the method allows.",
		Codes: codesBefore,
		Retry: retrySafe,
		Fix:   "look for a limit on connections, an access list, or a protocol that the server expects first (TLS, PROXY) on that port",
		Config: []Line{
			{"nginx", "limit_conn, allow and deny, listen … ssl or proxy_protocol, worker_connections"},
			{"HAProxy", "maxconn, tcp-request connection reject, bind … accept-proxy or ssl"},
			{"Envoy", "connection limit filter, overload manager, listener's proxy_protocol"},
			{"Linux", "ulimit -n of the server: accept succeeds, the program closes"},
		},
	},
	correlate.ClientAbortBeforeResponse: {
		Title: "the client gave up before the response began",
		Meaning: "The client closed or reset the connection while its complete request waited for an answer, before a byte of one had been seen. " +
			"A wait of a round number of seconds is a timeout of the client's; others are cancelled by users or by what called the client. " +
			"A response that is sent later meets a closed socket and is answered by resets.",
		Blame: "the client's timeout or cancellation, or a server that was too slow for it: the wait tells which to look at",
		Rule: "The client's FIN or reset comes first in sequence terms, the request is complete, and no byte of a response had been sent by then. " +
			"Proven with a reset; strong where the server closed in turn; weak where the client closed one direction only and may still have waited.",
		Doubt:   "the client may have closed its sending side only, and still have been waiting for the response; its log would tell",
		Saw:     "its own timeout or cancellation: context deadline exceeded or canceled (Go), Read timed out (Python), (28) (curl); at the server 499 (nginx), CH (HAProxy), DC (Envoy), 460 (ALB)",
		Prints:  append(append([]Line{}, printsTimeout...), Line{"Any, if cancelled", "what its caller asked for: context canceled (Go), AbortError (Node), CancelledError (Python)"}),
		Retried: retriedNever,
		Codes:   codesClient,
		Retry:   retryAmbiguous,
		Fix:     "compare the wait with the client's timeout: raise it, or find out why the server was slow; give the server a shorter timeout than its callers have",
		Config:  configPatience,
	},
	correlate.ClientAbortMidResponse: {
		Title: "the client gave up inside the response",
		Meaning: "The client closed or reset the connection while the response was being sent: it had some of it, and did not want or did not wait for the rest. " +
			"Users who leave, readers that stop after the header, and timeouts that cover the whole exchange do this.",
		Blame: "the client: its choice, its timeout, or a program that does not read bodies to their end; or a response that came too slowly for it",
		Rule: "The client's FIN or reset comes first in sequence terms, after some bytes of the response and before its end. " +
			"Proven with a reset; strong where the server closed in turn; weak where the client closed one direction only and may still have been reading.",
		Doubt:   "the client may have closed its sending side only, and still have been reading the response; its log would tell",
		Saw:     "nothing, or its own timeout: context deadline exceeded while reading body (Go); at the server broken pipe (Go), 499 or broken pipe while sending to client (nginx), CD (HAProxy), DC (Envoy)",
		Prints:  append(append([]Line{}, printsTimeout...), Line{"Any, if it chose to", "nothing: it had read what it wanted"}),
		Retried: retriedNever,
		Codes: Codes{
			HAProxy: "CD-- (cD-- where the client fell silent)",
			Envoy:   "DC",
			Nginx:   "the status that was sent, with fewer bytes; broken pipe while sending to client",
			ALB:     "460",
			GCP:     "client_disconnected_after_partial_response",
		},
		Retry:  retryUnsafe,
		Fix:    "nothing where users leave; else read bodies to the end, or give the whole exchange more time than the response takes",
		Config: configPatience,
	},
	correlate.ClientAbortMidUpload: {
		Title: "the client gave up inside its own request",
		Meaning: "The client closed or reset the connection before its request was complete by its own framing: fewer bytes than Content-Length, no last chunk, or a header that stops in the middle. " +
			"The server had not answered and had not closed.",
		Blame: "the client: it was cancelled, crashed, timed out, or its source of data failed",
		Rule: "The client's FIN or reset comes first in sequence terms, and the request before it is not complete. " +
			"Proven with a reset; strong where the server closed in turn; weak where only the client's FIN was seen.",
		Doubt: "the client's end was seen only in part; its log would tell",
		Saw:   "its own cancellation or failure; at the server unexpected EOF (Go), client prematurely closed connection and 400 (nginx), CR (HAProxy), DC (Envoy)",
		Prints: []Line{
			{"Clients", "their own cancellation, timeout, or the error of what they read from"},
		},
		Retried: retriedNever,
		Codes: Codes{
			HAProxy: "CR-- (header), CH-- (body)",
			Envoy:   "DC",
			Nginx:   "400 or 499; client prematurely closed connection",
			ALB:     "460",
			GCP:     "client_disconnected_before_any_response",
		},
		Retry:  "Ambiguous: a server that handles uploads as they come may have acted on the part it got. Repeat idempotent methods only.",
		Fix:    "look at the client's log at this second: what cancelled the upload, or what it was reading from",
		Config: configPatience,
	},
}
