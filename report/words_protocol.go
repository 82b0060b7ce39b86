package report

import "whyreset/correlate"

var protocolWords = map[correlate.Verdict]Words{
	correlate.ProtocolMismatch: {
		Title: "the client and the server do not speak the same protocol on this port",
		Meaning: "The client began in one protocol and the server answered in another, or closed at once where it speaks another elsewhere: HTTP sent to a port of TLS, TLS to a port of plain HTTP, " +
			"the preface of HTTP/2 or a header of the PROXY protocol to a server that knows neither. The first bytes of each end, which are in clear, say so.",
		Blame: "the settings of one end: the scheme, the port, or what a proxy in between adds (PROXY protocol, HTTP/2 without TLS)",
		Rule: "The server's first bytes belong to another protocol than the client's: a TLS alert for HTTP, an HTTP/1 response for a ClientHello or for the preface of HTTP/2, or a 400 whose text says that TLS is expected. " +
			"Proven then. Strong where the server closed without a byte and speaks the other protocol on its other connections. Weak for a 400 behind a header of the PROXY protocol.",
		Doubt: "the server may have refused the request for another reason; its log, or the same request without the PROXY header, would tell",
		Saw:   "http: server gave HTTP response to HTTPS client (Go), wrong version number (OpenSSL: Python, Node, curl 35), malformed HTTP response (Go), EOF, connection reset by peer",
		Prints: []Line{
			{"Go net/http, TLS to plain", `http: server gave HTTP response to HTTPS client, or tls: first record does not look like a TLS handshake`},
			{"Go net/http, plain to TLS", `net/http: HTTP/1.x transport connection broken: malformed HTTP response "\x15\x03\x01\x00\x02\x02"; or the server's 400`},
			{"curl", `(35) error:…:wrong version number; plain to TLS: (1) Received HTTP/0.9 when not allowed, (52) Empty reply from server, or the 400`},
			{"Python requests", `SSLError: [SSL: WRONG_VERSION_NUMBER] wrong version number; plain to TLS: BadStatusLine, or ConnectionResetError`},
			{"Node http", `EPROTO … wrong version number; plain to TLS: Parse Error: Expected HTTP/ (HPE_INVALID_CONSTANT), or socket hang up`},
			{"Go server", `http: TLS handshake error from …: client sent an HTTP request to an HTTPS server, or tls: first record does not look like a TLS handshake`},
			{"nginx server", `client sent plain HTTP request to HTTPS port; client sent invalid method while reading client request line: "\x16\x03\x01…"`},
			{"Apache server", `AH02032 or AH01996: SSL handshake failed: HTTP spoken on HTTPS port; AH00126: Invalid method in request \x16\x03\x01`},
		},
		Retried: retriedNever,
		Codes: Codes{
			HAProxy: "SL-- or SSL handshake failure towards a server; PR-- for a client that speaks TLS to a plain bind",
			Envoy:   "UF with TLS_error: …:WRONG_VERSION_NUMBER; 503 UC or UPE for HTTP sent to TLS",
			Nginx:   "502; SSL_do_handshake() failed (…:wrong version number) while SSL handshaking to upstream; or 400 from the upstream",
			ALB:     "502 (TLS to the target failed), or the target's 400",
			GCP:     "failed_to_connect_to_backend, or the backend's 400",
		},
		Retry: "Safe where the server answered in another protocol, since it understood nothing; but of no use: the same request meets the same end.",
		Fix:   "use the scheme and the port that the server expects, and let the proxy in between speak to it what it understands (TLS or not, HTTP/2 or not, PROXY protocol or not)",
		Config: []Line{
			{"nginx as proxy", "proxy_pass https://… against http://…; listen … ssl; listen … proxy_protocol"},
			{"HAProxy", "ssl on the server line; bind … ssl; send-proxy and accept-proxy go together"},
			{"Envoy", "transport_socket of the cluster; proxy_protocol listener filter; http2_protocol_options"},
			{"AWS ALB, NLB", "protocol and protocol version of the target group; proxy protocol v2 of an NLB's target group"},
			{"Kubernetes", "the Ingress's backend-protocol annotation; the scheme of probes (HTTP, HTTPS)"},
			{"gRPC, Go", "HTTP/2 without TLS needs h2c at the server (http.Protocols: UnencryptedHTTP2)"},
		},
	},
	correlate.TLSHandshakeFailed: {
		Title: "the connection ended before TLS was established",
		Meaning: "Client and server began the handshake of TLS and did not come to its end: one of them sent an alert, or closed. No request could be sent. " +
			"The alert says why, unless it is encrypted, as most of TLS 1.3's are. Who sent it is the one that was not satisfied: the client as a rule with the server's certificate, the server with versions, names, ciphers or the client's certificate.",
		Blame: "the end that sent the alert knows the reason, and the other has the cause: a certificate, a name, a version, a cipher, or a time limit",
		Rule: "The ClientHello was seen, and an alert, a FIN or a reset before the handshake's end. Proven with an alert in clear. Strong with an encrypted one, which only its length tells, or with a close and no alert. " +
			"Where the server closed at the ClientHello without a byte, and was not seen to speak TLS, it is ambiguous with protocol-mismatch.",
		Saw: "tls: failed to verify certificate, remote error: tls: … (Go), SSLError, CERTIFICATE_VERIFY_FAILED (Python), curl 35 or 60, EPROTO, ECONNRESET (Node), SSL_do_handshake() failed (nginx)",
		Prints: []Line{
			{"Go net/http", `tls: failed to verify certificate: x509: …; remote error: tls: bad certificate; EOF; net/http: TLS handshake timeout`},
			{"curl", `(60) SSL certificate problem: …; (35) …alert handshake failure; (35) OpenSSL SSL_connect: Connection reset by peer`},
			{"Python requests", `SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] …')); SSLEOFError: EOF occurred in violation of protocol`},
			{"Node http", `UNABLE_TO_VERIFY_LEAF_SIGNATURE, DEPTH_ZERO_SELF_SIGNED_CERT, CERT_HAS_EXPIRED; EPROTO …alert…; Client network socket disconnected before secure TLS connection was established`},
			{"Java HttpClient", `SSLHandshakeException: PKIX path building failed; Remote host terminated the handshake`},
			{"Go server", `http: TLS handshake error from …: remote error: tls: bad certificate, or: EOF`},
			{"nginx server", `SSL_do_handshake() failed (SSL: error:…:alert certificate unknown) while SSL handshaking; peer closed connection in SSL handshake`},
			{"Apache server", `AH02008: SSL library error 1 in handshake; AH02261: Re-negotiation handshake failed`},
		},
		Retried: "No client measured sends it again by itself; some try the server's next address.",
		Codes: Codes{
			HAProxy: "SSL handshake failure in the frontend's log; SC-- towards a server (Layer6 invalid response in health checks)",
			Envoy:   "UF with TLS_error in upstream_transport_failure_reason; downstream: ssl.connection_error counted, no access log line",
			Nginx:   "502; SSL_do_handshake() failed, or peer closed connection in SSL handshake, while SSL handshaking to upstream; towards clients at level info",
			ALB:     "502 when the target's handshake fails; ClientTLSNegotiationErrorCount towards clients",
			GCP:     "failed_to_connect_to_backend, or ssl_certificate_san_verification_failed and its kin",
		},
		Retry: "Nothing was sent that could be repeated; a new attempt meets the same end unless the cause is mended.",
		Fix:   "see the alert if there is one, else the logs of both ends, for what to mend: an issuer that is not trusted, a chain that is not whole, a name that the certificate lacks, no common version or cipher, a client's certificate that is wanted; or a time limit",
		Config: []Line{
			{"certificate_unknown, unknown_ca, bad_certificate", "from the client: it does not trust the server's chain, or the name does not match; install the issuer, send intermediates"},
			{"certificate_expired", "renew it; check the clocks"},
			{"certificate_required, bad_certificate", "from the server: it wants a certificate of the client's (mutual TLS)"},
			{"handshake_failure, insufficient_security", "no common cipher or key type"},
			{"protocol_version", "no common version: old clients against servers that ask for TLS 1.2 or 1.3"},
			{"unrecognized_name", "the server has no site of the name that the client asked for (SNI)"},
			{"no_application_protocol", "no common protocol in ALPN"},
		},
	},
}
