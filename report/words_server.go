package report

import "whyreset/correlate"

const blameServer = "the server's side: the program, the proxy in front of it, or whoever stopped it; its log at that moment should say"

var serverWords = map[correlate.Verdict]Words{
	correlate.CloseBeforeResponse: {
		Title: "the server had it and closed without a response",
		Meaning: "The server's TCP acknowledged the whole request, and then the server closed with a FIN without having sent a byte of a response. " +
			"Whether the program had read it or acted on it, packets do not show: " +
			"a server that closes only its sending side first (Apache, lighttpd) also looks like this when its idle timer meets a request that has just arrived.",
		Blame: blameServer,
		Rule: "The server's FIN acknowledges the whole request, and no byte of a response was sent. " +
			"Proven that the server's TCP had the request and sent nothing; strong where the connection had been idle and the server's idle timer is not known. " +
			"It is a statement about the socket that closed, which may be a proxy's.",
		Doubt:   "it may be the server's idle timer that met the request on its arrival; the server's log would tell",
		Saw:     sawEOF,
		Prints:  printsEOF,
		Retried: retriedDuplicate,
		Codes:   codesBefore,
		Retry:   retryAmbiguous,
		Fix:     "look at the server's log at this second: crash, kill for lack of memory, worker recycling, handler or write timeout, a restart without draining",
		Config:  configServer,
	},
	correlate.AbortBeforeResponse: {
		Title: "the server had it and reset the connection without a response",
		Meaning: "The server's TCP had the request, and its socket was then aborted without a byte of a response. " +
			"A socket is aborted when it is closed with bytes that the program has not read, when SO_LINGER 0 is set, or when its process is killed with unread bytes. " +
			"Whether the program had acted on the request, packets do not show.",
		Blame: blameServer,
		Rule: "A reset that the server sent of its own accord acknowledges bytes of the request, and no byte of a response was sent. Strong where it cannot be the close of an idle connection: the server had time to read, or the connection had not been idle. " +
			"Weak where the connection had been idle for a time that does not fit the server's idle timer. Where no timer is known the verdict is ambiguous.",
		Doubt:   "it may be the server's idle timer (idle-race-unread): the packets can be the same; more closes of idle connections in the capture, or the kernel's count of unread bytes, would tell",
		Saw:     sawReset,
		Prints:  printsReset,
		Retried: retriedDuplicate,
		Codes:   codesBefore,
		Retry:   retryAmbiguous,
		Fix:     "look at the server's log at this second: crash, kill, a request refused without reading its body; close without SO_LINGER 0",
		Config:  configServer,
	},
	correlate.EarlyResponseReset: {
		Title: "the server answered before it had all of it, then reset the connection under the upload",
		Meaning: "The server responded while the client was still sending, as with 413 or 401, and closed without reading the rest, so that the bytes still on their way were answered by resets. " +
			"A reset can destroy the response in the client's receive buffer: then the client reports a broken connection instead of the status.",
		Blame: "the server: it closed without reading on for a while (RFC 9112, section 9.6, asks for a lingering close)",
		Rule: "The response began when the server had acknowledged only part of the request, and a reset followed. Proven with a reset of the server's own accord, strong without. " +
			"Where the client's TCP acknowledged the whole response nothing counts as lost, but a client that was still writing may not have read it.",
		Doubt: "the client may have read the response before the reset; its log would tell",
		Saw:   "write: connection reset by peer or broken pipe (Go), EPIPE (Node), or the status, depending on timing",
		Prints: []Line{
			{"Go net/http", "write: connection reset by peer, or write: broken pipe; sometimes the status"},
			{"Python http.client, httpx", "a write error; the status is lost"},
			{"Apache HttpClient, OkHttp", "a write error; the status is lost"},
			{"HttpURLConnection", "a write error; the status is lost"},
			{"curl, Node, undici", "the status, as a rule"},
			{"requests, aiohttp", "the status, as a rule"},
		},
		Retried: retriedNever,
		Codes: Codes{
			HAProxy: "the server's status if it got through, else 502 with SH--",
			Envoy:   "the server's status if it got through, else 503 UC",
			Nginx:   "the server's status if it got through, else 502 and a failed write (104 or 32: Broken pipe) while sending request to upstream",
			ALB:     "the target's status if it got through, else 502",
			GCP:     "backend_early_response_with_non_error_status where the status is no error",
		},
		Retry: "The response is the answer, even if it was lost: sending the request again as it is will meet the same refusal.",
		Fix:   "let the server read on before it closes (nginx: lingering_close), raise its body limit, or let the client ask first with Expect: 100-continue",
		Config: []Line{
			{"nginx", "client_max_body_size; lingering_close on, lingering_time 30 s, lingering_timeout 5 s"},
			{"Go server", "http.MaxBytesReader closes after the response: read the body first where clients must see the status"},
			{"Node server", "consume the request (req.resume()) before ending the response"},
			{"Clients", "Expect: 100-continue (curl: automatic above 1 MB; Go: ExpectContinueTimeout); read the response after a failed write"},
		},
	},
	correlate.AbortMidResponse: {
		Title: "the server reset the connection inside the response",
		Meaning: "Part of the response had been sent when the server's side reset the connection: by its own framing (Content-Length, chunks) the response is not complete. " +
			"The request had been processed at least in part.",
		Blame: blameServer,
		Rule: "Some bytes of the response and then a reset from the server's side before the end that the response's framing sets. " +
			"Proven that the response is cut; strong where the reset only answers the client's segments. What made the server abort, packets do not show.",
		Doubt: "packets of the response or around the reset are missing; a capture without losses would tell",
		Saw:   "connection reset by peer while reading the body (Go, Python), aborted (Node), (56) (curl), readv() failed (104) (nginx), SD (HAProxy)",
		Prints: []Line{
			{"Go net/http", "read: connection reset by peer, from the body"},
			{"curl", "(56) Recv failure: Connection reset by peer"},
			{"Node http", "ECONNRESET, from the body"},
			{"Python requests", "ConnectionResetError(104, 'Connection reset by peer'), wrapped"},
			{"Java", "SocketException: Connection reset"},
			{"nginx as proxy", "readv() failed (104: Connection reset by peer) while reading upstream"},
		},
		Retried: retriedNever,
		Codes:   codesMid,
		Retry:   retryUnsafe,
		Fix:     "look at the server's log at this second: crash, kill, a timeout that covers the whole response (Go: WriteTimeout; gunicorn: --timeout)",
		Config:  configServer,
	},
	correlate.TruncatedResponse: {
		Title: "the server closed before the end of the response",
		Meaning: "The server sent a FIN before the response was complete by its own framing: fewer bytes than Content-Length, no last chunk, or a header that stops in the middle. " +
			"Some clients take such a response for a whole one and report success.",
		Blame: blameServer,
		Rule: "Some bytes of the response and then the server's FIN before the end that the response's framing sets. " +
			"Proven that it is cut, by its own framing. What made the server close, packets do not show.",
		Doubt: "packets of the response are missing; a capture without losses would tell",
		Saw:   "unexpected EOF (Go), aborted (Node), IncompleteRead (Python), (18) (curl), prematurely closed while reading upstream (nginx), SD (HAProxy)",
		Prints: append(append([]Line{}, printsCut...),
			Line{"Go, a cut header", "net/http: HTTP/1.x transport connection broken: malformed MIME header"},
			Line{"Java, a cut header", "parsing HTTP/1.1 header, receiving […] (HttpClient); Invalid header (Apache HttpClient)"},
			Line{"Others, a cut header", "curl, requests, http.client, HttpURLConnection and OkHttp return 200 as if all were well"}),
		Retried: retriedNever,
		Codes:   codesMid,
		Retry:   retryUnsafe,
		Fix:     "look at the server's log at this second: a handler that failed after its header, a wrong Content-Length, a write timeout, a worker stopped before it was done",
		Config:  configServer,
	},
	correlate.ServerNeverAnswered: {
		Title: "the server acknowledged it and never answered",
		Meaning: "The whole request was acknowledged by the server's TCP, and not a byte came back until the capture ended. " +
			"An acknowledgement is the kernel's: whether the program ever read the request, packets do not show.",
		Blame: "the server's program, or what it waits for: it was slow, stuck, or never accepted the connection",
		Rule: "All of the request is acknowledged, there are no response bytes, neither side closed, and the silence was long. " +
			"Weak: the response may have come later. Where the client gave up, the verdict is client-abort-before-response.",
		Doubt:   "the response may have come after the capture's end",
		Saw:     "context deadline exceeded (Go), ETIMEDOUT (Node), read timed out (Python), upstream timed out (110) (nginx), sH (HAProxy), UT (Envoy)",
		Prints:  printsTimeout,
		Retried: retriedNever,
		Codes:   codesSilent,
		Retry:   retryAmbiguous,
		Fix:     "find what the server waits for (goroutine, thread or stack dump while it hangs); give requests a deadline on both sides",
		Config: []Line{
			{"Go server", "http.TimeoutHandler; curl …/debug/pprof/goroutine?debug=2"},
			{"nginx as proxy", "proxy_read_timeout (60 s)"},
			{"HAProxy", "timeout server"},
			{"Envoy", "route timeout (15 s), per_try_timeout"},
			{"gunicorn", "more workers or threads; --timeout"},
		},
	},
	correlate.RequestTimeout: {
		Title: "the server stopped waiting for the rest of it",
		Meaning: "The request is not complete by its own framing, the client sent nothing more for the server's header or body timeout, and the server closed, with 408 or without a word. " +
			"The server's patience ended, not the client's.",
		Blame: "the client, which stalled in the middle of its request, or the path on which the rest was lost; or a timeout that is too short for such clients",
		Rule: "Part of a request, then a pause, then the server's FIN, reset or 408. " +
			"Proven with a 408 that acknowledges part of the request; strong without.",
		Doubt: "the rest of the request may have been lost on the way or in the capture; a capture at the client would tell",
		Saw:   "408, or write: broken pipe (Go), EPIPE (Node); at the server 408 (nginx, Apache), cR or cH (HAProxy)",
		Prints: []Line{
			{"Most clients", "status 408, or a write error: broken pipe, connection reset by peer"},
			{"Go net/http", "EOF, write: broken pipe"},
		},
		Retried: "OkHttp sends the request again after a 408. The others report it.",
		Codes: Codes{
			HAProxy: "408 with cR-- (header) or cH-- (body)",
			Envoy:   "408, or SI (stream idle timeout)",
			Nginx:   "408, in the access log only",
			ALB:     "408",
			GCP:     "client_timed_out",
		},
		Retry: "Likely safe: a server does not act on half a request as a rule, and 408 says so.",
		Fix:   "find why the client stalls in mid-request (slow producer, full pipe, lost path), or raise the server's header and body timeouts",
		Config: []Line{
			{"nginx", "client_header_timeout, client_body_timeout (60 s each)"},
			{"Apache", "RequestReadTimeout (mod_reqtimeout)"},
			{"HAProxy", "timeout http-request; timeout client"},
			{"Go server", "http.Server.ReadHeaderTimeout, ReadTimeout"},
			{"Node server", "server.headersTimeout (60 s), requestTimeout (300 s)"},
		},
	},
	correlate.PipelinedLost: {
		Title: "the server closed after its answer to an earlier request, with this one already there",
		Meaning: "The client sent several requests without waiting, and the server closed after it had answered an earlier one: it had announced Connection: close, or met a limit, or was shutting down. " +
			"RFC 9112, section 9.6, forbids a server to process what comes after its last response.",
		Blame: "neither alone: pipelining clients must expect it, and servers should read on before they close",
		Rule: "The request was sent before the response ahead of it had come, that response is complete and the last, and the server closed. " +
			"Strong: that the request went unprocessed is the rule, not an observation. Proven where the close acknowledges nothing of it.",
		Doubt:   "the server may have begun to process it; its log would tell",
		Saw:     sawEOF,
		Prints:  append(append([]Line{}, printsEOF...), Line{"any, if reset", "connection reset by peer, ECONNRESET"}),
		Retried: "Clients that pipeline repeat what went unanswered, as RFC 9112, section 9.3.2, tells them; most HTTP/1 clients do not pipeline at all.",
		Codes:   codesBefore,
		Retry:   retryLikely,
		Fix:     "do not pipeline, or repeat unanswered requests on a new connection; let the server close after the last request it has read",
		Config: []Line{
			{"nginx", "keepalive_requests; lingering_close (covers pipelined requests since 1.23.4)"},
			{"Apache", "MaxKeepAliveRequests"},
			{"Node, undici client", "pipelining: 1"},
		},
	},
}
