package report

import "whyreset/correlate"

var printsNothing = []Line{{"All clients", "nothing: no request was under way"}}

// clean completes the words of a verdict with which nothing was lost.
func clean(w Words) Words {
	w.Retry = retryNothing
	w.Codes = codesNormal
	if w.Saw == "" {
		w.Saw = "nothing"
	}
	if w.Prints == nil {
		w.Prints = printsNothing
	}
	w.Retried = "Nothing to send again."
	return w
}

var cleanWords = map[correlate.Verdict]Words{
	correlate.CleanClose: clean(Words{
		Title: "closed with nothing outstanding",
		Meaning: "Every request on the connection had its complete response when one end closed with a FIN and the other followed. " +
			"Idle timeouts of either side, announced closes, limits and shutdowns end this way.",
		Blame: "nobody",
		Rule:  "FINs, and no request without a complete response before them.",
		Prints: []Line{
			{"Most clients", "nothing: no request was under way"},
			{"Go net/http", "http: server closed idle connection, now and then, for a POST of which it had not sent a byte yet: the capture shows no request then"},
		},
		Fix:    "nothing to do",
		Config: []Line{{"Any", "a server whose idle closes are frequent while its clients are busy is a candidate for idle-race: see the idle timers of the summary"}},
	}),
	correlate.SimultaneousClose: clean(Words{
		Title: "both ends closed at once with nothing outstanding",
		Meaning: "Client and server closed the idle connection at about the same time: each FIN left before the other had arrived, as the acknowledgement numbers show. " +
			"Nothing was lost, but the two idle timeouts are about equal, so a request can meet the close another time.",
		Blame:  "nobody; the client's and the server's idle timeouts are about equal",
		Rule:   "Both FINs, neither acknowledging the other, and no request without a complete response.",
		Fix:    "make the client's idle timeout clearly shorter than the server's, before a request meets the close",
		Config: configIdle,
	}),
	correlate.ResetAfterComplete: clean(Words{
		Title: "reset after the last response was complete",
		Meaning: "One end reset the connection when every request had its complete response: SO_LINGER 0, a close with stray bytes unread, a pool or a load balancer that drops connections. " +
			"No request was under way. If the end of the last response had not been acknowledged, the client may have lost it, and the finding says so.",
		Blame:  "nobody; whoever reset it chose the quick way",
		Rule:   "A reset, and no request without a complete response before it.",
		Fix:    "nothing to do; where resets alarm a monitor, close without SO_LINGER 0 and read what the other end sends",
		Config: []Line{{"HAProxy", "option nolinger causes it"}, {"nginx", "reset_timedout_connection causes it; off by default"}},
	}),
	correlate.CloseNoise: clean(Words{
		Title: "resets that only answer the last segments of the other end",
		Meaning: "One end had closed for good, and its kernel answered the other's closing segments (a FIN, an acknowledgement, a TLS close_notify) with resets. " +
			"There is one reset per such segment; none of them carried a request.",
		Blame:  "nobody",
		Rule:   "Resets without acknowledgement, each answering a segment without request bytes, after a close with nothing outstanding.",
		Fix:    "nothing to do",
		Config: []Line{{"Monitoring", "do not count these resets as errors"}},
	}),
	correlate.UnusedConnection: clean(Words{
		Title: "no request was sent on it",
		Meaning: "The connection was opened and ended without a byte of a request. " +
			"Health checks that only connect, connections opened in advance, and port scans look like this.",
		Blame:  "nobody",
		Rule:   "A handshake, an end, and no payload from the client.",
		Fix:    "nothing to do",
		Config: []Line{{"HAProxy", "option httpchk turns its TCP checks into requests"}, {"Browsers", "open connections in advance"}},
	}),
	correlate.UpgradedClose: clean(Words{
		Title: "the end of a connection that had left HTTP",
		Meaning: "The connection had switched protocols (101, as for WebSocket) or become a tunnel (CONNECT), and what followed is not HTTP. " +
			"The finding says who closed it and how, and after what silence; of a WebSocket it gives the close frame: its code, who sent it first, whether it was answered. " +
			"A WebSocket that ends without any close frame is what libraries call 1006: it is shown without --all too. Whether something was lost inside, only the protocol knows.",
		Blame: "nobody, as far as HTTP goes; a proxy's tunnel timeout is a frequent cause where several connections end after the same silence",
		Rule: "A complete 101 or a successful CONNECT, and then the end. Abnormal: every WebSocket frame of both directions was captured (RFC 6455, section 5.2) and none was a close frame. " +
			"Who sent the first close frame follows from what its segment acknowledges.",
		Saw: "what the protocol inside reports, such as close code 1006 (WebSocket)",
		Prints: []Line{
			{"WebSocket", "close code 1006: closed without a close frame"},
			{"Tunnels", "what the protocol inside reports"},
		},
		Fix:    "if tunnels die idle, send pings more often than the shortest tunnel timeout on the way",
		Config: []Line{{"HAProxy", "timeout tunnel"}, {"nginx", "proxy_read_timeout (60 s) covers WebSocket"}, {"AWS ALB", "idle_timeout (60 s)"}, {"Envoy", "stream_idle_timeout (5 min)"}},
	}),
	correlate.StillOpen: clean(Words{
		Title: "still open when the capture ended",
		Meaning: "The connection had not ended when the capture did. It is counted in the summary and makes no finding; " +
			"where a request was waiting for its answer, the summary says for how long.",
		Blame:  "nobody",
		Rule:   "No end within the capture.",
		Fix:    "nothing to do; capture longer to see how it ends",
		Config: []Line{{"tcpdump", "-G and -W record in files of a given length; whyreset reads several at once"}},
	}),
}

// undecided completes the words of a verdict that accuses nobody.
func undecided(w Words) Words {
	w.Saw = "depends on the cause"
	w.Prints = []Line{{"Clients", "depends on the cause: EOF and socket hang up stand for a close, connection reset by peer for a reset"}}
	w.Retried = "Depends on the cause."
	const depends = "depends on the cause"
	w.Codes = Codes{depends, depends, depends, depends, depends}
	w.Retry = "Not known: treat it as ambiguous and repeat idempotent methods only."
	return w
}

var unknownWords = map[correlate.Verdict]Words{
	correlate.Unknown: undecided(Words{
		Title:   "what was captured does not say why",
		Meaning: "The connection's end fits no rule well enough for a verdict. Nothing is concluded about either side.",
		Blame:   "nobody",
		Rule:    "No other rule holds.",
		Fix:     "capture at the other end too, or for longer, and look again",
		Config:  []Line{{"tcpdump", "-i any -s 0 -w FILE.pcap 'tcp port PORT', at both ends"}},
	}),
	correlate.CaptureIncomplete: undecided(Words{
		Title: "packets that would tell why are missing from the capture",
		Meaning: "The connection began before the capture, or packets around the request or the close are not in it, or only one direction is, or packets were cut too short. " +
			"What is missing is named with the finding. Nothing is concluded about either side.",
		Blame: "nobody",
		Rule:  "A range of sequence numbers that a verdict needs was not captured.",
		Fix:   "capture again: start before the connections do, keep whole packets (tcpdump -s 0), enlarge its buffer (-B 65536), and see both directions",
		Config: []Line{
			{"tcpdump", "-s 0 (whole packets), -B 65536 (64 MB of buffer), --immediate-mode where the capture is stopped soon; “dropped by kernel” at its end must be 0"},
			{"Switches", "mirror both directions of the port"},
			{"whyreset --ebpf", fixRecorded},
		},
	}),
	correlate.Ambiguous: undecided(Words{
		Title: "more than one cause fits",
		Meaning: "Two or more verdicts have the same packets here, and nothing else in the capture decides between them. " +
			"They are named with the finding. Nothing is concluded about either side.",
		Blame:  "nobody: it depends on which of the named causes it was",
		Rule:   "The rules of several verdicts hold, and none is better supported.",
		Fix:    "capture at the other end too, or look at the server's log at that second",
		Config: []Line{{"tcpdump", "-i any -s 0 -w FILE.pcap 'tcp port PORT', at the end that is not captured yet"}},
	}),
}
