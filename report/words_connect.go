package report

import "whyreset/correlate"

// codesConnect is how a connection is called that was not opened.
var codesConnect = Codes{
	HAProxy: "503 with SC--; sC-- if it took as long as timeout connect",
	Envoy:   "503 UF, upstream_reset_before_response_started{connection_failure}",
	Nginx:   "502; connect() failed (111: Connection refused) while connecting to upstream; 504 and (110: Connection timed out) without an answer",
	ALB:     "502 (reset while connecting), 504 (no connection within 10 s)",
	GCP:     "failed_to_connect_to_backend",
}

const retryUnopened = "Safe for any method: not a byte of a request had been sent."

const retriedConnect = "Clients with several addresses or servers try the next one (curl, Go, browsers; nginx: proxy_next_upstream error timeout; HAProxy: retries, option redispatch; " +
	"Envoy: retry_on connect-failure). With one address they report it."

var connectWords = map[correlate.Verdict]Words{
	correlate.ConnectRefused: {
		Title: "the connection was refused",
		Meaning: "The SYN was answered by a reset: on the server's host nothing listens on this port. " +
			"It never started, has stopped or is restarting, or it listens on another address only.",
		Blame: "the server's side: nothing was listening on that address and port",
		Rule: "A reset that acknowledges the SYN, from the distance at which the server's own segments come as far as there are any. " +
			"Proven: its acknowledgement number is that of the SYN. A firewall on the server's host can send the same (netfilter's REJECT with tcp-reset); packets do not tell.",
		Saw: "connection refused (Go), connect ECONNREFUSED (Node), [Errno 111] (Python), (7) (curl), connect() failed (111) (nginx), SC (HAProxy), UF (Envoy)",
		Prints: []Line{
			{"Go net/http", "dial tcp …: connect: connection refused"},
			{"curl", "(7) Failed to connect to … port …: Connection refused"},
			{"Node http", "connect ECONNREFUSED …"},
			{"Node fetch, undici", "fetch failed, cause: connect ECONNREFUSED …"},
			{"Python requests", "Failed to establish a new connection: [Errno 111] Connection refused"},
			{"Java", "ConnectException: Connection refused"},
		},
		Retried: retriedConnect,
		Codes:   codesConnect,
		Retry:   retryUnopened,
		Fix:     "see whether the server runs and on which addresses it listens (ss -ltn); while it restarts, take it out of the balancer first, or hand over its socket",
		Config: []Line{
			{"Linux", "ss -ltnp; a service bound to 127.0.0.1 refuses everybody else"},
			{"systemd", "socket activation keeps the port open through a restart"},
			{"Kubernetes", "readinessProbe, and preStop sleep so that endpoints are gone before the server is"},
		},
	},
	correlate.ConnectTimeout: {
		Title: "nothing answered the SYN",
		Meaning: "The client sent its SYN again and again and no answer came: a firewall drops it, the address is not in use, the host is down, or its accept queue is full. " +
			"A single SYN without an answer is not counted: that is what probes send.",
		Blame: "the path, a firewall that drops without a word, or the server's host; packets on one side do not tell which",
		Rule: "The SYN was sent twice or more, and no packet came from the server. Strong, as long as the capture sees both directions: the client's own repetition says that it got no answer. " +
			"Where other connections of the same client to this server were accepted meanwhile it is accept-queue-overflow.",
		Saw: "i/o timeout (Go), connect ETIMEDOUT (Node), Connection timed out (Python), (28) (curl), (110) (nginx), sC (HAProxy), UF (Envoy)",
		Prints: []Line{
			{"Go net/http", "dial tcp …: i/o timeout, or connect: connection timed out"},
			{"curl", "(28) Connection timed out, or Failed to connect to … port …"},
			{"Node http", "connect ETIMEDOUT …"},
			{"Node fetch, undici", "fetch failed, cause: Connect Timeout Error (UND_ERR_CONNECT_TIMEOUT)"},
			{"Python requests", "ConnectTimeoutError, Max retries exceeded with url"},
			{"Java", "ConnectException: Connection timed out; SocketTimeoutException: connect timed out"},
		},
		Retried: retriedConnect,
		Codes:   codesConnect,
		Retry:   retryUnopened,
		Fix:     "capture at the server: if the SYN arrives there, look at its accept queue (ss -ltn, Recv-Q) and host firewall; if not, at the path, security groups and routes",
		Config: []Line{
			{"Linux", "net.ipv4.tcp_syn_retries (6: about two minutes)"},
			{"Go client", "net.Dialer.Timeout (30 s in http.DefaultTransport)"},
			{"nginx as proxy", "proxy_connect_timeout (60 s)"},
			{"HAProxy", "timeout connect, retries"},
			{"Envoy", "connect_timeout of the cluster (5 s)"},
			{"AWS", "security groups and network ACLs drop without a word"},
		},
	},
	correlate.AcceptQueueOverflow: {
		Title: "the server's queue of connections waiting to be accepted was full",
		Meaning: "The kernel of the server completes handshakes by itself and queues the connections until the program accepts them. When that queue is full it drops SYNs (syn-dropped), or ignores the " +
			"acknowledgement that ends the handshake, so that the client believes itself connected and nobody takes what it sends (ack-dropped), or, with tcp_abort_on_overflow, answers it with a reset (abort-on-overflow).",
		Blame: "the server's program, which accepted too slowly, or a backlog too short for the burst",
		Rule: "syn-dropped: three SYNs or more without an answer, while another connection of the same client to the same server was accepted: weak. " +
			"ack-dropped: the SYN-ACK came again after the client had acknowledged it, and no byte of the request was ever acknowledged: strong if it came so twice or the capture is the server's, else weak. " +
			"abort-on-overflow: resets answer the handshake's end and all that follows, at once: strong where other connections were accepted afterwards, else weak.",
		Doubt: "packets lost on the way, a firewall that limits new connections, or a balancer that offers connections in the server's name can look the same; ListenOverflows in the server's nstat would tell",
		Saw:   "i/o timeout or connection reset by peer (Go), ETIMEDOUT or ECONNRESET (Node), timed out or [Errno 104] (Python), (28) or (56) (curl), sC (HAProxy), UF (Envoy)",
		Prints: []Line{
			{"syn-dropped", "what connect-timeout prints"},
			{"ack-dropped", "what a server that never answers draws: context deadline exceeded, Read timed out, (28)"},
			{"abort-on-overflow", "connection reset by peer, ECONNRESET, curl's (56), on a fresh connection"},
		},
		Retried: retriedConnect,
		Codes:   codesConnect,
		Retry:   "Safe for any method when a reset refused it; else likely safe: the server's TCP took nothing of it, but the client's may send on.",
		Fix:     "find what keeps the program from accepting (ss -ltn: Recv-Q against Send-Q); raise its backlog and net.core.somaxconn, or take in fewer connections at a time",
		Config: []Line{
			{"Linux", "nstat -az TcpExtListenOverflows TcpExtListenDrops; net.core.somaxconn (4096); net.ipv4.tcp_abort_on_overflow (0)"},
			{"nginx", "listen … backlog= (511); worker_processes, multi_accept"},
			{"Apache", "ListenBacklog (511)"},
			{"Node", "server.listen({backlog}) (511); a blocked event loop accepts nothing"},
			{"Go", "the backlog is somaxconn; netutil.LimitListener holds back accepts"},
			{"Python", "gunicorn --backlog (2048); uvicorn --backlog (2048)"},
		},
	},
	correlate.BacklogDropped: {
		Title: "the server closed its listening socket with this connection still in the queue",
		Meaning: "The kernel had completed the handshake, and taken the request, for a connection that waited to be accepted. When the listening socket was closed, in a restart as a rule, all such connections were reset. " +
			"No program had seen them.",
		Blame: "the server's restart: it closed its listener without draining the queue",
		Rule: "A reset of the server's own acknowledges the first request of a fresh connection, another such connection was reset within 50 ms, and SYNs were refused within a second. " +
			"Strong; without those two observations the same packets are abort-before-response. Also where resets answer the handshake's end itself and SYNs are refused at that time.",
		Saw:     sawReset,
		Prints:  printsReset,
		Retried: retriedDuplicate,
		Codes:   codesBefore,
		Retry:   "Ambiguous from packets: in all likelihood no program had seen it, but a program that was stopped in the middle of its work would look the same. Safe for any method where a reset answered the handshake itself.",
		Fix:     "let the listening socket survive restarts: socket activation, or handing it over to the new process (SO_REUSEPORT with net.ipv4.tcp_migrate_req on Linux 5.14 or later); stop new connections before the server",
		Config: []Line{
			{"systemd", "socket activation: the socket belongs to systemd and stays open"},
			{"nginx", "reload keeps the listening sockets; restart does not"},
			{"HAProxy", "expose-fd listeners, and master-worker mode"},
			{"Linux", "net.ipv4.tcp_migrate_req with SO_REUSEPORT"},
			{"Kubernetes", "preStop sleep, so that nobody connects any more when the listener closes"},
		},
	},
}
