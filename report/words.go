package report

import "whyreset/correlate"

// Words explain a verdict to people. They state no more than the verdict's rule
// (correlate, decide.go) supports.
type Words struct {
	Title   string // a clause about the request ("it"), for the line of a finding
	Meaning string // what happened, in terms of TCP, and how it is known
	Blame   string // whom or what it points at
	Rule    string // the observation that it takes, and what makes it proven, strong or weak
	Doubt   string // what else fits when the confidence is weak, and what would tell; "" if it is never weak
	Saw     string // what applications and proxies print, in one line
	Prints  []Line // what applications print, word for word
	Retried string // which of them hide it by sending the request again
	Codes   Codes
	Retry   string // whether the request may be sent again
	Fix     string // what to change, in one line; {client} and {server} stand for their idle timeouts' settings, {idle} for the advised idle time of clients
	Config  []Line // the same in the words of products

	// Logs is what the server's side logs. WordsOf takes it from serverLogs where
	// it is empty.
	Logs []Line
}

// A Line is something about a product.
type Line struct{ Product, Text string }

// Codes are the names that proxies and load balancers give to an event, when
// they stand where the client or, for a client's abort, the server stands.
type Codes struct{ HAProxy, Envoy, Nginx, ALB, GCP string }

// Lines returns the codes with their products.
func (c Codes) Lines() []Line {
	return []Line{
		{"HAProxy", c.HAProxy},
		{"Envoy", c.Envoy},
		{"nginx", c.Nginx},
		{"AWS ALB", c.ALB},
		{"GCP LB", c.GCP},
	}
}

// WordsOf returns the words of v.
func WordsOf(v correlate.Verdict) Words {
	for _, words := range []map[correlate.Verdict]Words{
		raceWords, staleWords, serverWords, protocolWords, clientWords, connectWords, networkWords, cleanWords, unknownWords,
	} {
		if w, ok := words[v]; ok {
			if w.Logs == nil {
				w.Logs = serverLogs[v.String()]
			}
			return w
		}
	}
	return unknownWords[correlate.Unknown]
}

// What clients print is the same for every cause that looks the same to them,
// which is why they cannot tell the causes apart. The strings were measured with
// Go 1.26, curl 7.88, Node 20, requests with urllib3 2.7, aiohttp 3.8, httpx
// 0.23, JDK 17, Apache HttpClient 4.5 and OkHttp 3.13.

// printsEOF is a connection that ended before the first byte of a response.
var printsEOF = []Line{
	{"Go net/http", `EOF, or http: server closed idle connection`},
	{"curl", `(52) Empty reply from server`},
	{"Node http", `socket hang up (code ECONNRESET)`},
	{"Node fetch, undici", `fetch failed, cause: other side closed (UND_ERR_SOCKET)`},
	{"Python requests", `('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))`},
	{"Python http.client", `RemoteDisconnected: Remote end closed connection without response`},
	{"aiohttp", `ServerDisconnectedError: Server disconnected`},
	{"httpx", `RemoteProtocolError: Server disconnected without sending a response.`},
	{"Java HttpClient", `IOException: HTTP/1.1 header parser received no bytes`},
	{"HttpURLConnection", `SocketException: Unexpected end of file from server`},
	{"Apache HttpClient", `NoHttpResponseException: … failed to respond`},
	{"OkHttp", `IOException: unexpected end of stream on Connection{…}`},
}

const sawEOF = "EOF (Go), socket hang up (Node), RemoteDisconnected (Python), (104) or prematurely closed (nginx), SH (HAProxy), UC (Envoy)"

// printsReset is a connection that was reset before the first byte of a response.
var printsReset = []Line{
	{"Go net/http", `read: connection reset by peer`},
	{"curl", `(56) Recv failure: Connection reset by peer`},
	{"Node http", `read ECONNRESET`},
	{"Node fetch, undici", `fetch failed, cause: read ECONNRESET`},
	{"Python requests", `('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))`},
	{"Python http.client", `ConnectionResetError: [Errno 104] Connection reset by peer`},
	{"aiohttp", `ClientOSError: [Errno 104] Connection reset by peer`},
	{"httpx", `ReadError: [Errno 104] Connection reset by peer`},
	{"Java HttpClient", `SocketException: Connection reset`},
	{"HttpURLConnection", `SocketException: Connection reset`},
	{"Apache HttpClient", `SocketException: Connection reset`},
}

const sawReset = "connection reset by peer (Go, Python), read ECONNRESET (Node), recv() failed (104) (nginx), SH (HAProxy), UC (Envoy)"

// printsCut is a connection that was closed inside a response body.
var printsCut = []Line{
	{"Go net/http", `unexpected EOF`},
	{"curl", `(18) transfer closed with N bytes remaining to read`},
	{"Node http", `aborted (code ECONNRESET)`},
	{"Node fetch, undici", `terminated, cause: other side closed`},
	{"Python requests", `ChunkedEncodingError, IncompleteRead`},
	{"aiohttp", `ClientPayloadError`},
	{"httpx", `peer closed connection without sending complete message body (received N bytes, expected M)`},
	{"Java HttpClient", `fixed content-length: N, bytes received: M`},
	{"HttpURLConnection", `nothing: it returns the part as if it were the whole`},
	{"Apache HttpClient", `ConnectionClosedException: Premature end of Content-Length delimited message body`},
	{"OkHttp", `ProtocolException: unexpected end of stream`},
}

// printsTimeout is a response that did not come in time.
var printsTimeout = []Line{
	{"Go net/http", `context deadline exceeded`},
	{"Node", `ETIMEDOUT, or what its own timer says`},
	{"Python requests", `Read timed out.`},
	{"curl", `(28) Operation timed out`},
}

const (
	retriedIdle = "GET: Go, curl, Java HttpClient, HttpURLConnection, Apache HttpClient, OkHttp and nginx send it again on a new connection without a word. " +
		"POST: curl, HttpURLConnection and OkHttp do, and Go if the request has an Idempotency-Key header. " +
		"Node http, undici, requests, http.client, aiohttp, httpx and HAProxy never do: there the application sees the error."
	retriedDuplicate = "The same clients send it again as after an idle race, since they cannot tell the two apart, although the server may have acted on it: " +
		"GET in Go, curl, Java, Apache HttpClient, OkHttp and nginx; POST too in curl, HttpURLConnection, OkHttp, and in Go with an Idempotency-Key header. " +
		"On the first request of a connection Go does not."
	retriedNever = "No client measured sends it again by itself."
)

// Retry advice, by how much the server can have seen.
const (
	retrySafe      = "Safe for any method when proven: the server's TCP took nothing of it. Else likely safe."
	retryLikely    = "Likely safe: by rule or in all likelihood the server has not acted on it, but no packet proves it."
	retryAmbiguous = "Ambiguous: the server may have acted on it. Repeat idempotent methods only."
	retryUnsafe    = "Not safe: the server has acted on it, at least in part. Safe methods, such as GET, may be fetched again."
	retryNothing   = "Nothing to send again: no request was lost."
)

// codesBefore is how a server's end before the response header is called: by the
// same names whether it was an idle race or a crash.
var codesBefore = Codes{
	HAProxy: "502 with SH--; no line at all for a later request of a kept-alive client (http-reuse safe, 2.6)",
	Envoy:   "503 UC, upstream_reset_before_response_started{connection_termination}",
	Nginx:   "502; upstream prematurely closed connection, or recv() failed (104: Connection reset by peer), while reading response header from upstream",
	ALB:     "502 with target_status_code -",
	GCP:     "backend_connection_closed_before_data_sent_to_client",
}

// codesMid is how a server's end inside the response is called.
var codesMid = Codes{
	HAProxy: "SD-- with the status of the part that arrived; 502 with SH-- where its header is cut",
	Envoy:   "UC with the status of the part that arrived",
	Nginx:   "upstream prematurely closed connection, or readv() failed (104: Connection reset by peer), while reading upstream",
	ALB:     "no name of its own",
	GCP:     "backend_connection_closed_after_partial_response_sent",
}

// codesSilent is how a server that says nothing is called.
var codesSilent = Codes{
	HAProxy: "504 with sH--; sD-- if it fell silent inside a response",
	Envoy:   "504 UT",
	Nginx:   "504; upstream timed out (110: Connection timed out) while reading response header from upstream",
	ALB:     "504",
	GCP:     "backend_timeout",
}

// codesNormal goes with what proxies take for the normal end of a connection.
var codesNormal = Codes{
	HAProxy: "nothing, or -- (a normal end)",
	Envoy:   "nothing, or - (no flag)",
	Nginx:   "nothing; client closed keepalive connection at level info",
	ALB:     "nothing",
	GCP:     "nothing, or response_sent_by_backend",
}

// configIdle is where the two idle times of an idle race are set. The rule is:
// the client's must be shorter than the server's by more than a round trip, at
// every hop.
var configIdle = []Line{
	{"Go client", "Transport.IdleConnTimeout below the server's (90 s by default); an Idempotency-Key header and GetBody let net/http repeat a POST"},
	{"Node client", "agent timeout below the server's; undici: keepAliveTimeout, which heeds the server's Keep-Alive header"},
	{"Python client", "aiohttp: TCPConnector(keepalive_timeout=…); httpx: Limits(keepalive_expiry=…); requests has no limit: mount a Retry, or renew the Session"},
	{"Java client", "-Djdk.httpclient.keepalive.timeout; Apache: evictIdleConnections, setValidateAfterInactivity; OkHttp: ConnectionPool's keepAliveDuration"},
	{"nginx as proxy", "keepalive_timeout in upstream {} (60 s) below the server's; proxy_next_upstream … non_idempotent repeats POSTs too"},
	{"HAProxy", "pool-purge-delay; retry-on empty-response repeats requests, replay-safe ones only"},
	{"Envoy", "common_http_protocol_options.idle_timeout of the cluster (1 h); retry_on: reset (reset-before-request does not cover it)"},
	{"AWS ALB", "idle_timeout (60 s): give the target 65 s or more"},
	{"GCP LB", "keeps 600 s, fixed: give the backend 620 s or more"},
	{"Go server", "http.Server.IdleTimeout above the clients' (ReadTimeout counts where it is unset)"},
	{"Node server", "server.keepAliveTimeout above the clients' (5 s up to v26), and headersTimeout above that"},
	{"Python server", "gunicorn --keep-alive (2 s); uvicorn --timeout-keep-alive (5 s)"},
	{"Other servers", "nginx keepalive_timeout (75 s); Apache KeepAliveTimeout (5 s); Tomcat keepAliveTimeout; Puma persistent_timeout; Kestrel KeepAliveTimeout (130 s)"},
}

// configServer is where to look when a server gave up a request that it had.
var configServer = []Line{
	{"Any server", "its log and the kernel's at that second: crash, out of memory, deploy, worker limit"},
	{"gunicorn", "--timeout (30 s) kills the worker with its request; --max-requests, --graceful-timeout"},
	{"uwsgi, php-fpm", "harakiri; request_terminate_timeout, pm.max_requests"},
	{"Go server", "http.Server.WriteTimeout closes without a response; a panic in the handler does too; Shutdown instead of Close"},
	{"Node server", "requestTimeout, uncaughtException; server.close before process.exit"},
	{"Kubernetes", "preStop sleep and terminationGracePeriodSeconds longer than the longest request"},
}
