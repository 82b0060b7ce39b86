package report

import "slices"

// What the server's side logs, by verdict. Most of what clients complain of is no
// error to a server, and it is worth knowing where not to look.

var logsNothing = []Line{{"All servers", "nothing: to close an idle connection is no error to them"}}

var logsFailure = []Line{
	{"Go server", "http: panic serving …, or nothing (WriteTimeout, os.Exit)"},
	{"Node server", "the stack of an uncaughtException, or nothing"},
	{"gunicorn", "[CRITICAL] WORKER TIMEOUT (pid:…); Worker (pid:…) was sent SIGKILL! Perhaps out of memory?"},
	{"uvicorn", "Exception in ASGI application"},
	{"nginx, its workers", "worker process … exited on signal 9 (or 11)"},
	{"Kernel", "Out of memory: Killed process …; segfault at …"},
	{"Kubernetes", "OOMKilled, Liveness probe failed, Killing container (kubectl describe pod, get events)"},
}

var logsClientGone = []Line{
	{"Go server", "context canceled in the handler; write: broken pipe, write: connection reset by peer"},
	{"Node server", "aborted (code ECONNRESET), close of the request before its end"},
	{"Python server", "BrokenPipeError: [Errno 32] Broken pipe; ClientDisconnect (Starlette)"},
	{"Java server", "ClientAbortException: Broken pipe (Tomcat), EofException (Jetty)"},
}

var logsOverflow = []Line{
	{"Linux", "nstat -az TcpExtListenOverflows TcpExtListenDrops grow; ss -ltn shows Recv-Q above Send-Q"},
	{"Kernel", "possible SYN flooding on port … (once)"},
	{"The program", "nothing: it never saw the connection"},
}

// serverLogs are what the server's side logs, by the verdict's id.
var serverLogs = map[string][]Line{
	"idle-race":            logsNothing,
	"idle-race-unread":     logsNothing,
	"idle-race-rst":        logsNothing,
	"idle-race-lingering":  logsNothing,
	"keepalive-limit-race": logsNothing,
	"idle-408-race": {
		{"HAProxy as server", "408 with cR--, and <BADREQ> for the request"},
		{"Apache, Node", "408 in the access log, or nothing"},
	},
	"late-reuse": logsNothing,
	"stale-connection": {
		{"A server that restarted", "nothing of this connection: its kernel does not know it any more"},
		{"A server that did not", "nothing now; much later its own idle timeout, or ETIMEDOUT from TCP keep-alives"},
	},
	"idle-blackhole":        {{"All servers", "nothing: the request never arrived; later an idle timeout, or ETIMEDOUT from TCP keep-alives"}},
	"close-before-response": logsFailure,
	"abort-before-response": logsFailure,
	"abort-mid-response":    logsFailure,
	"truncated-response":    logsFailure,
	"early-response-reset": {
		{"All servers", "the request with the status that they sent (413, 401, …), as if all were well"},
		{"nginx", "client intended to send too large body"},
		{"Go server", "http: request body too large, where the handler logs it"},
	},
	"server-never-answered": {
		{"All servers", "nothing until the handler ends; when the client gives up what client-abort-before-response says"},
		{"A thread or goroutine dump", "what it waits for"},
	},
	"request-timeout": {
		{"nginx", "408 in the access log; client timed out (110: Connection timed out) while reading client request headers, at level info"},
		{"Apache", "408; Request header read timeout"},
		{"HAProxy", "408 with cR-- (header) or cH-- (body)"},
		{"Node server", "clientError with ERR_HTTP_REQUEST_TIMEOUT"},
		{"Go server", "i/o timeout from reading the body, or nothing"},
	},
	"pipelined-lost": {{"All servers", "nothing of this request: the last that they log is the one before it"}},
	"closed-on-accept": {
		{"nginx", "worker_connections are not enough; limiting connections by zone"},
		{"Apache", "server reached MaxRequestWorkers setting"},
		{"HAProxy", "PC-- or PR--, or nothing (tcp-request connection reject)"},
		{"Any server", "accept: too many open files; a TLS handshake error where TLS was expected"},
	},
	"client-abort-before-response": append([]Line{{"nginx", "499; client prematurely closed connection (epoll_wait() reported that … while …)"}, {"HAProxy", "CH--"}}, logsClientGone...),
	"client-abort-mid-response":    append([]Line{{"nginx", "the status that was sent, with fewer bytes; writev() failed (32: Broken pipe) while sending to client"}, {"HAProxy", "CD--"}}, logsClientGone...),
	"client-abort-mid-upload": {
		{"nginx", "400 or 499; client prematurely closed connection"},
		{"HAProxy", "CR-- (header), CH-- (body)"},
		{"Go server", "unexpected EOF from reading the body"},
		{"Node server", "aborted (code ECONNRESET)"},
		{"Python server", "ClientDisconnect (Starlette); a short body without an error (WSGI)"},
	},

	"clean-close":        {{"All servers", "nothing"}, {"nginx", "client closed keepalive connection, at level info"}},
	"simultaneous-close": logsNothing,
	"reset-after-complete": {
		{"nginx", "recv() failed (104: Connection reset by peer) while keepalive, at level info"},
		{"Node server", "clientError with ECONNRESET"},
		{"Other servers", "nothing"},
	},
	"close-noise": {{"All servers", "nothing: only the kernel sees them"}},
	"unused-connection": {
		{"nginx", "client closed connection while waiting for request, at level info"},
		{"HAProxy", "nothing, or <BADREQ> with CR-- or cR--"},
		{"Go server with TLS", "http: TLS handshake error from …: EOF"},
	},
	"upgraded-close": {
		{"nginx", "101 with the bytes of both directions; upstream timed out (110) while proxying upgraded connection"},
		{"HAProxy", "-- or CD--, SD--, cD--, sD-- (timeout tunnel)"},
		{"WebSocket servers", "close code 1006"},
	},
	"still-open": {{"All servers", "nothing yet"}},

	"unknown":            {{"Servers", "depends on the cause"}},
	"capture-incomplete": {{"Servers", "depends on the cause"}},
	"ambiguous":          {{"Servers", "depends on the cause: with a log of that second the named causes can be told apart"}},

	"connect-refused":       {{"The program", "nothing: it does not listen there, or not yet, or not any more"}, {"Its supervisor", "a start, a stop or a crash at this second"}},
	"connect-timeout":       {{"The program", "nothing: no SYN reached it"}, {"Firewalls on the way", "a counter of dropped packets (nft list ruleset, iptables -vnL)"}},
	"accept-queue-overflow": logsOverflow,
	"backlog-dropped":       {{"The program", "nothing: it never accepted the connection"}, {"Its supervisor", "a stop or a restart at this second"}},
	"protocol-mismatch": {
		{"Go server", "http: TLS handshake error from …: client sent an HTTP request to an HTTPS server"},
		{"nginx", "client sent plain HTTP request to HTTPS port; client sent invalid method while reading client request line (\"\\x16\\x03\\x01…\")"},
		{"HAProxy", "SSL handshake failure; <BADREQ> with PR-- or CR--"},
		{"Node server", "clientError with HPE_INVALID_METHOD; ERR_SSL_HTTP_REQUEST"},
	},
	"tls-handshake-failed": {
		{"Go server", "http: TLS handshake error from …: with the alert that it sent or got (remote error: tls: …)"},
		{"nginx", "SSL_do_handshake() failed (SSL: error:…) while SSL handshaking, at level info or crit"},
		{"HAProxy", "SSL handshake failure, or SSL client … with the reason"},
		{"Node server", "tlsClientError"},
	},
	"injected-reset":  {{"The program", "the same as if the client had reset: context canceled, 499, broken pipe; or nothing if the reset went to the client only"}},
	"firewall-reject": {{"The program", "nothing: the packet did not reach it"}, {"Firewalls on the way", "a counter of rejected packets (nft list ruleset, iptables -vnL), a line where LOG is set"}},
	"peer-dead":       {{"The program", "nothing: its machine or its network is gone"}, {"The end that is left", "ETIMEDOUT, EHOSTUNREACH, from TCP keep-alives or retransmissions"}},
	"ignored-reset":   {{"Linux", "nstat -az TcpExtTCPChallengeACK grows"}, {"The program", "nothing"}},
}

// proxyStatus are the verdicts that go with the error types of RFC 9209, section
// 2.3, in the Proxy-Status field of a proxy that lost the request.
var proxyStatus = map[string][]string{
	"connection_terminated":    {"idle-race", "idle-race-unread", "idle-race-rst", "idle-race-lingering", "keepalive-limit-race", "late-reuse", "stale-connection", "close-before-response", "abort-before-response", "pipelined-lost", "closed-on-accept", "backlog-dropped", "injected-reset", "firewall-reject"},
	"http_response_incomplete": {"abort-mid-response", "truncated-response"},
	"http_response_timeout":    {"server-never-answered"},
	"connection_read_timeout":  {"idle-blackhole", "peer-dead"},
	"connection_refused":       {"connect-refused"},
	"connection_timeout":       {"connect-timeout", "accept-queue-overflow"},
	"http_protocol_error":      {"protocol-mismatch"},
	"tls_protocol_error":       {"tls-handshake-failed"},
}

// proxyStatusOf returns the error type that goes with the verdict of that id, or "".
func proxyStatusOf(id string) string {
	for status, ids := range proxyStatus {
		if slices.Contains(ids, id) {
			return status
		}
	}
	return ""
}
