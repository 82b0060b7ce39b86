package report

import "time"

// An idleLimit is how long a product keeps idle connections, and where that is
// set. Defaults are those of the documentation or the source; those of servers
// marked measured were seen on the wire.
type idleLimit struct {
	product string
	setting string // its name in the product's own words
	family  string // of a client: what the words of verdicts call it and its kin, with "client"

	// defaults are the values of a product that nobody has configured, the present
	// one first; none if it has no limit unless one is set.
	defaults []time.Duration
	plus     time.Duration // what the product adds to its setting before it closes
	slack    time.Duration // how much later it may close since it looks only now and then

	// tokens recognise it: a server by the first product of its Server header or
	// the name in its Via header, a client by a product of its User-Agent, all in
	// lower case and without versions. None if it does not say who it is.
	tokens []string
	states statement // whether it sends Keep-Alive: timeout=
	note   string    // what else one must know; a clause
}

// A statement says whether a server sends a Keep-Alive header with its timeout.
type statement uint8

const (
	neverStates statement = iota
	mayState
	alwaysStates
)

const (
	// tight is the slack of a product that keeps time to some milliseconds.
	tight = 150 * time.Millisecond
	// aSecond is that of one that looks at its connections once a second.
	aSecond = 1050 * time.Millisecond
)

// serverLimits are the idle timeouts of servers and of what accepts connections in
// their place, in order of time.
var serverLimits = []idleLimit{
	{product: "gunicorn", setting: "--keep-alive", defaults: []time.Duration{2 * time.Second}, slack: aSecond,
		tokens: []string{"gunicorn"}, note: "sync workers close after every response; workers of uvicorn's class call themselves uvicorn and keep gunicorn's setting"},
	{product: "Node", setting: "keepAliveTimeout", defaults: []time.Duration{5 * time.Second, 65 * time.Second}, plus: time.Second, slack: tight,
		states: alwaysStates, note: "65 s from version 27; closes 1 s later than set since 20.18 and 22.9 (keepAliveTimeoutBuffer); keep headersTimeout above it"},
	{product: "uvicorn", setting: "--timeout-keep-alive or gunicorn's --keep-alive", defaults: []time.Duration{5 * time.Second}, slack: tight,
		tokens: []string{"uvicorn"}, note: "gunicorn's --keep-alive, 2 s, counts where uvicorn is its worker"},
	{product: "hypercorn", setting: "--keep-alive (keep_alive_timeout)", defaults: []time.Duration{5 * time.Second}, slack: tight,
		tokens: []string{"hypercorn-h11", "hypercorn-h2", "hypercorn"}},
	{product: "Apache httpd", setting: "KeepAliveTimeout", defaults: []time.Duration{5 * time.Second}, slack: tight,
		tokens: []string{"apache"}, states: alwaysStates, note: "closes by halves, so a race shows no reset; MaxKeepAliveRequests (100) closes too"},
	{product: "lighttpd", setting: "server.max-keep-alive-idle", defaults: []time.Duration{5 * time.Second}, slack: aSecond,
		tokens: []string{"lighttpd"}, note: "looks once a second"},
	{product: "Varnish", setting: "timeout_idle", defaults: []time.Duration{5 * time.Second}, slack: tight, tokens: []string{"varnish"}},
	{product: "Cowboy", setting: "request_timeout", defaults: []time.Duration{5 * time.Second}, slack: tight, tokens: []string{"cowboy"}},
	{product: "Actix", setting: "HttpServer::keep_alive", defaults: []time.Duration{5 * time.Second}, slack: tight},
	{product: "Bun", setting: "Bun.serve idleTimeout", defaults: []time.Duration{10 * time.Second}, slack: tight},
	{product: "HAProxy", setting: "timeout http-keep-alive", slack: tight,
		note: "where unset timeout http-request counts, and then timeout client; 10 s is usual"},
	{product: "Puma", setting: "persistent_timeout", defaults: []time.Duration{65 * time.Second, 20 * time.Second}, slack: tight, note: "20 s before version 7"},
	{product: "Jetty", setting: "ServerConnector idleTimeout", defaults: []time.Duration{30 * time.Second}, slack: tight, tokens: []string{"jetty"}},
	{product: "Tomcat", setting: "keepAliveTimeout", defaults: []time.Duration{60 * time.Second, 20 * time.Second}, slack: tight,
		tokens: []string{"apache-coyote"}, states: mayState, note: "connectionTimeout where unset: 60 s embedded in Spring Boot (server.tomcat.keep-alive-timeout), 20 s in its own server.xml"},
	{product: "AWS ALB", setting: "idle_timeout.timeout_seconds", defaults: []time.Duration{60 * time.Second}, slack: tight,
		tokens: []string{"awselb"}, note: "it hands on its target's Server header"},
	{product: "Fastify", setting: "keepAliveTimeout", defaults: []time.Duration{72 * time.Second}, plus: time.Second, slack: tight, states: alwaysStates, note: "runs on Node, which adds 1 s"},
	{product: "nginx", setting: "keepalive_timeout", defaults: []time.Duration{75 * time.Second}, slack: aSecond,
		tokens: []string{"nginx", "openresty", "tengine"}, states: mayState, note: "keepalive_requests (1000) and keepalive_time (1 h) close too; the header is sent where a second parameter is set"},
	{product: "aiohttp server", setting: "keepalive_timeout", defaults: []time.Duration{75 * time.Second}, slack: aSecond, tokens: []string{"python"}, note: "in web.run_app or AppRunner"},
	{product: "IIS, HTTP.sys", setting: "connectionTimeout", defaults: []time.Duration{120 * time.Second}, slack: aSecond, tokens: []string{"microsoft-iis", "microsoft-httpapi"}},
	{product: "Kestrel", setting: "Limits.KeepAliveTimeout", defaults: []time.Duration{130 * time.Second}, slack: aSecond, tokens: []string{"kestrel"}},
	{product: "Traefik", setting: "respondingTimeouts.idleTimeout", defaults: []time.Duration{180 * time.Second}, slack: tight, note: "of the entry point; it hands on its backend's Server header"},
	{product: "Caddy", setting: "servers { timeouts { idle } }", defaults: []time.Duration{300 * time.Second}, slack: tight,
		tokens: []string{"caddy"}, note: "idle_timeout in JSON"},
	{product: "GCP load balancer", setting: "client HTTP keepalive timeout", defaults: []time.Duration{610 * time.Second}, slack: aSecond, tokens: []string{"google"}},
	{product: "Envoy", setting: "common_http_protocol_options.idle_timeout", defaults: []time.Duration{time.Hour}, slack: aSecond,
		tokens: []string{"envoy", "istio-envoy"}, note: "of the HTTP connection manager; stream_idle_timeout is 5 min"},
	{product: "Go net/http", setting: "http.Server.IdleTimeout", slack: tight, note: "ReadTimeout counts where it is unset; never, where both are"},
}

// clientLimits are how long clients, and proxies towards their servers, keep and
// reuse idle connections, in order of time.
var clientLimits = []idleLimit{
	{product: "Ruby Net::HTTP", setting: "Net::HTTP#keep_alive_timeout", defaults: []time.Duration{2 * time.Second}, tokens: []string{"ruby"}},
	{family: "Node", product: "Node fetch, undici", setting: "keepAliveTimeout of undici's Agent", defaults: []time.Duration{4 * time.Second}, tokens: []string{"node", "undici"},
		states: mayState, note: "heeds the server's Keep-Alive header, less 2 s (1 s before version 8)"},
	{family: "Node", product: "Node http agent", setting: "http.Agent timeout", defaults: []time.Duration{5 * time.Second}, tokens: []string{"axios", "node-fetch", "got", "node-superagent"},
		states: mayState, note: "http.globalAgent keeps connections since version 19; heeds the server's Keep-Alive header"},
	{family: "Python", product: "httpx", setting: "Limits(keepalive_expiry=…)", defaults: []time.Duration{5 * time.Second}, tokens: []string{"python-httpx"}},
	{family: "Java", product: "Java HttpURLConnection", setting: "-Dhttp.keepAlive.time.server", defaults: []time.Duration{5 * time.Second}, tokens: []string{"java"},
		states: mayState, note: "heeds the server's Keep-Alive header"},
	{product: "HAProxy as proxy", setting: "pool-purge-delay", defaults: []time.Duration{5 * time.Second}, note: "half of the idle connections are closed each time"},
	{family: "Python", product: "aiohttp", setting: "TCPConnector(keepalive_timeout=…)", defaults: []time.Duration{15 * time.Second}, tokens: []string{"aiohttp"}},
	{family: "Java", product: "Java HttpClient", setting: "-Djdk.httpclient.keepalive.timeout", defaults: []time.Duration{30 * time.Second}, tokens: []string{"java-http-client"}, note: "1200 s before JDK 20"},
	{product: ".NET SocketsHttpHandler", setting: "PooledConnectionIdleTimeout", defaults: []time.Duration{time.Minute}, note: "2 min before .NET 6"},
	{product: "nginx as proxy", setting: "keepalive_timeout in upstream {}", defaults: []time.Duration{time.Minute}, note: "1000 requests, 1 h"},
	{product: "AWS ALB to its targets", setting: "idle_timeout.timeout_seconds", defaults: []time.Duration{time.Minute}, note: "give the target 65 s or more"},
	{family: "Go", product: "Go net/http", setting: "Transport.IdleConnTimeout", defaults: []time.Duration{90 * time.Second}, tokens: []string{"go-http-client"}, note: "of http.DefaultTransport; no limit in a Transport of one's own where it is unset"},
	{product: "reqwest, hyper-util", setting: "pool_idle_timeout", defaults: []time.Duration{90 * time.Second}, tokens: []string{"reqwest"}},
	{product: "Traefik to its backends", setting: "forwardingTimeouts.idleConnTimeout", defaults: []time.Duration{90 * time.Second}},
	{product: "Firefox", setting: "network.http.keep-alive.timeout", defaults: []time.Duration{115 * time.Second}},
	{product: "curl", setting: "CURLOPT_MAXAGE_CONN", defaults: []time.Duration{118 * time.Second}, tokens: []string{"curl", "libcurl"}, note: "within one process"},
	{product: "Caddy to its upstreams", setting: "transport http { keepalive }", defaults: []time.Duration{2 * time.Minute}},
	{family: "Java", product: "Apache HttpClient 5", setting: "RequestConfig.setConnectionKeepAlive", defaults: []time.Duration{3 * time.Minute}, tokens: []string{"apache-httpclient/5"},
		states: mayState, note: "heeds the server's Keep-Alive header"},
	{product: "Chrome", setting: "fixed", defaults: []time.Duration{5 * time.Minute}},
	{family: "Java", product: "OkHttp", setting: "ConnectionPool(…, keepAliveDuration)", defaults: []time.Duration{5 * time.Minute}, tokens: []string{"okhttp"}},
	{product: "GCP load balancer to its backends", setting: "fixed", defaults: []time.Duration{10 * time.Minute}, note: "give the backend 620 s or more"},
	{product: "Envoy as proxy", setting: "common_http_protocol_options.idle_timeout of the cluster", defaults: []time.Duration{time.Hour}},
	{family: "Java", product: "Apache HttpClient 4", setting: "evictIdleConnections", tokens: []string{"apache-httpclient/4"},
		states: mayState, note: "heeds the server's Keep-Alive header; looks at connections idle for validateAfterInactivity (2 s) before it uses them"},
	{family: "Python", product: "requests, urllib3", setting: "", tokens: []string{"python-requests", "python-urllib3"}, note: "no limit to set: mount a Retry, or renew the Session"},
	{product: "Python http.client", setting: "", note: "no limit to set, and it never looks whether a connection is still alive"},
	{product: "reactor-netty", setting: "ConnectionProvider maxIdleTime", tokens: []string{"reactornetty"}},
}

// middleLimits are after what idle time something on the way forgets a
// connection, in order of time. None closes it with a FIN.
var middleLimits = []idleLimit{
	{product: "Azure Load Balancer", setting: "idleTimeoutInMinutes", defaults: []time.Duration{4 * time.Minute}, note: "silent, unless enableTcpReset is on"},
	{product: "AWS NLB", setting: "tcp.idle_timeout.seconds", defaults: []time.Duration{350 * time.Second}, note: "answers the next packet with a reset"},
	{product: "AWS NAT gateway", setting: "fixed", defaults: []time.Duration{350 * time.Second}, note: "answers the next packet with a reset, to the inside only"},
	{product: "AWS security group", setting: "connection tracking, TCP established timeout", defaults: []time.Duration{350 * time.Second}, note: "5 days before Nitro v6; silent"},
	{product: "GCP VM firewall", setting: "fixed", defaults: []time.Duration{10 * time.Minute}, note: "silent"},
	{product: "kube-proxy in IPVS mode", setting: "--ipvs-tcp-timeout", defaults: []time.Duration{15 * time.Minute}, note: "silent"},
	{product: "GCP Cloud NAT", setting: "TCP established connection idle timeout", defaults: []time.Duration{20 * time.Minute}, note: "silent"},
	{product: "Linux conntrack", setting: "nf_conntrack_tcp_timeout_established", defaults: []time.Duration{5 * 24 * time.Hour}, note: "silent; what no rule lets through is then dropped or rejected"},
}
