package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

func fullSummary() *Summary {
	server := addr("10.0.9.2:8080")
	return &Summary{
		Tracker: correlate.Summary{
			Connections: 912, Opaque: 3, StillOpen: 2, Waiting: 1, LongestWait: 2500 * time.Millisecond,
			Requests: 5224, Lost: 14, LostOn: 14, Duplicates: 5,
			Verdicts: []correlate.VerdictCount{
				{Verdict: correlate.IdleRace, Server: server, Lost: 11, Connections: 11, Proven: 11},
				{Verdict: correlate.AbortMidResponse, Server: addr("10.0.9.4:8080"), Lost: 2, Connections: 2, Proven: 2},
				{Verdict: correlate.CaptureIncomplete, Server: server, Lost: 1, Connections: 1, Reason: "capture starts mid-connection"},
				{Verdict: correlate.Unknown, Server: server, Connections: 4},
				{Verdict: correlate.CleanClose, Server: server, Connections: 1860},
				{Verdict: correlate.CleanClose, Server: addr("10.0.9.4:8080"), Connections: 1},
				{Verdict: correlate.UnusedConnection, Server: server, Connections: 8},
			},
			Servers: []correlate.ServerTimer{{
				Server:        server,
				Timer:         correlate.Timer{Timeout: 6 * time.Second, Spread: 4 * time.Millisecond, Closes: 38, Stated: 5 * time.Second, Described: true},
				Clients:       []correlate.ClientCount{{Product: "Go-http-client/1.1", Connections: 900}, {Forwards: true, Connections: 12}},
				ClientReuse:   7100 * time.Millisecond,
				ExpectedRaces: 10.2, SeenRaces: 11,
			}},
		},
		Capture: capture.Stats{
			Packets: 41203, Bytes: 9000000, Segments: 41100, Fragments: 2, Undecodable: 1, FirstBad: "frame 7: cut\x1b short",
			First: at(14, 0, 0, 0), Last: at(14, 8, 12, 0),
		},
	}
}

func summaryText(t *testing.T, s *Summary) string {
	t.Helper()
	var b bytes.Buffer
	if err := NewText(&b, Options{}).Summary(s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTextSummary(t *testing.T) {
	compare(t, summaryText(t, fullSummary()), `14 of 5,224 requests were lost on 14 of 912 connections (8 m 12 s of traffic, 41,203 packets, none missed)

  verdict             lost  connections  proven  server
  idle-race             11           11      11  10.0.9.2:8080
  abort-mid-response     2            2       2  10.0.9.4:8080
  capture-incomplete     1            1       –  10.0.9.2:8080   (capture starts mid-connection)

  verdict             points at, and what to change (more: whyreset explain VERDICT)
  idle-race           the settings: the server's idle timeout is not longer than the time for which the client
                      keeps and reuses a connection; neither program misbehaved
                      → the settings named under the idle timers below
  abort-mid-response  the server's side: the program, the proxy in front of it, or whoever stopped it; its log
                      at that moment should say
                      → look at the server's log at those seconds: crash, kill, a timeout that covers the
                      whole response (Go: WriteTimeout; gunicorn: --timeout)

  idle timers    server closes after  clients reuse up to  races expected / seen
  10.0.9.2:8080  6.00 s ± 4 ms (38)   7.10 s               10.2 / 11              looks like Node's keepAliveTimeout of 5 s + 1 s
  expected: an estimate of how many requests came after a pause that ended within one round trip before the
  server's timeout, so that the close met them on the way; seen: how many were lost to such a race

  10.0.9.2:8080  clients, by their headers: Go-http-client/1.1 (900 connections), proxies (12)
                 → keep idle connections for less than 5 s in the client (Go: Transport.IdleConnTimeout), or
                 raise the server's keepAliveTimeout (Node) above the client's
  the rule       a client keeps idle connections for less than its server's idle timeout − the round trip − a
                 margin; so at every hop, each hop outward shorter than the hop behind it

  1,869 connections ended with nothing lost (--all shows them): 1,861 clean-close, 8 unused-connection
  without a verdict, nothing known to be lost (--all shows them): 4 unknown
  2 connections were still open at the end; 1 request was waiting for an answer, up to 2.500 s
  3 connections carried something other than HTTP/1 (HTTP/2, …)
  1 packet could not be decoded: frame 7: cut\x1b short
  2 IP fragments were not looked into
  5 data segments were seen twice and counted once
  captured 2026-11-22 14:00:00 to 14:08:12 UTC
`)
}

func TestTextSummaryHeadlines(t *testing.T) {
	stats := capture.Stats{Packets: 1000, First: at(1, 0, 0, 0), Last: at(1, 0, 20, 0)}
	for _, tt := range []struct {
		tracker correlate.Summary
		want    string
	}{
		{correlate.Summary{Connections: 1, Requests: 100}, "nothing lost: all 100 requests on 1 connection were answered (20.00 s of traffic, 1,000 packets, none missed)"},
		{correlate.Summary{Connections: 1, Requests: 1}, "nothing lost: the one request on 1 connection was answered ("},
		{correlate.Summary{Connections: 9, Requests: 5, Waiting: 1}, "nothing lost: 4 of 5 requests on 9 connections were answered ("},
		{correlate.Summary{Connections: 9, Requests: 1, Lost: 1, LostOn: 1}, "1 of 1 request was lost on 1 of 9 connections ("},
		{correlate.Summary{Connections: 9, Opaque: 9}, "nothing to judge: no HTTP/1 request on 9 connections ("},
		{correlate.Summary{}, "nothing to judge: no TCP in this capture ("},
	} {
		if got := summaryText(t, &Summary{Tracker: tt.tracker, Capture: stats}); !strings.HasPrefix(got, tt.want) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestSummaryIncomplete(t *testing.T) {
	s := &Summary{
		Tracker: correlate.Summary{Evicted: 1},
		Capture: capture.Stats{Packets: 10, Missed: 1234},
		Stopped: "read capture a.pcap: packet 11: the file is cut off",
	}
	const want = "read capture a.pcap: packet 11: the file is cut off; 1,234 packets were missed while capturing; 1 connection was given up to keep memory bounded"
	if got := s.Incomplete(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := summaryText(t, s); !strings.Contains(got, "not complete: "+want) || !strings.Contains(got, "1,234 missed") {
		t.Errorf("got:\n%s", got)
	}
	var b bytes.Buffer
	if err := NewJSON(&b, Options{}).Summary(s); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, `"complete":false,"reason":"`+want+`"`) {
		t.Errorf("got %s", got)
	}
}

// TestSummaryRecorded says what a recorder counted, and what it had no room for.
func TestSummaryRecorded(t *testing.T) {
	s := &Summary{
		Tracker: correlate.Summary{Connections: 51},
		Capture: capture.Stats{Packets: 1000, Last: 5e9, Recorder: &capture.RecorderStats{Records: 1, Segments: 2, Reuses: 340842}},
	}
	got := summaryText(t, s)
	if want := "nothing known to be lost: at least 340,842 requests on 51 connections were answered, as the kernel counts (5.000 s of traffic, 1,000 packets, none missed)\n"; !strings.HasPrefix(got, want) ||
		!strings.Contains(got, "; it counted 340,842 requests on connections used before, open ones included\n") {
		t.Errorf("got:\n%s", got)
	}
	if s.Incomplete() != "" {
		t.Error(s.Incomplete())
	}
	s.Tracker.Requests, s.Tracker.Lost, s.Tracker.LostOn = 3, 1, 1
	if got, want := summaryText(t, s), "1 of at least 340,842 requests was lost on 1 of 51 connections ("; !strings.HasPrefix(got, want) {
		t.Errorf("got:\n%s", got)
	}
	s.Tracker.Requests, s.Tracker.Lost, s.Tracker.Unopened = 3, 0, 2
	if got, want := summaryText(t, s), "nothing known to be lost: at least 340,842 requests on 51 connections were answered, as the kernel counts, and 2 connections could not be opened ("; !strings.HasPrefix(got, want) {
		t.Errorf("got:\n%s", got)
	}
	s.Tracker = correlate.Summary{}
	s.Capture.Recorder.Reuses = 1
	if got, want := summaryText(t, s), "nothing known to be lost: at least 1 request was answered, as the kernel counts ("; !strings.HasPrefix(got, want) {
		t.Errorf("got:\n%s", got)
	}
	s.Capture.Recorder.Full = 11234
	const want = "11,234 segments were not recorded, of connections for which the kernel's table had no room (--max-connections)"
	if got := summaryText(t, s); s.Incomplete() != want || !strings.Contains(got, "not complete: "+want) || !strings.Contains(got, "none missed, 11,234 not recorded)") {
		t.Errorf("%q, got:\n%s", s.Incomplete(), got)
	}
	var b bytes.Buffer
	if err := NewJSON(&b, Options{}).Summary(s); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, `"complete":false,"reason":"`+want+`"`) || !strings.Contains(got, `"reused_requests":1}`) {
		t.Error(got)
	}
}

func TestJSONSummary(t *testing.T) {
	var b bytes.Buffer
	if err := NewJSON(&b, Options{}).Summary(fullSummary()); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		`{"type":"summary","schema":1,"complete":true,"start":"2026-11-22T14:00:00.000000000Z","end":"2026-11-22T14:08:12.000000000Z","duration_seconds":492,"packets":41203,"bytes":9000000,`,
		`"missed":0,"undecodable":1,"undecodable_first":"frame 7: cut\u001b short","fragments":2,"duplicates":5,`,
		`"connections":912,`, `"requests":5224,"waiting":1,"unjudged":0,"gaps":0,"longest_wait_seconds":2.5,"lost":14,"lost_connections":14,`,
		`{"verdict":"idle-race","family":"idle-race","server":{"address":"10.0.9.2","port":8080},"lost":11,"connections":11,"proven":11}`,
		`"idle_timers":[{"server":{"address":"10.0.9.2","port":8080},"seconds":6,"spread_seconds":0.004,"closes":38,"stated_seconds":5,"looks_like":"Node's keepAliveTimeout of 5 s + 1 s","product":"Node","setting":"keepAliveTimeout","client_reuse_seconds":7.1,"clients":[{"product":"Go-http-client/1.1","connections":900},{"is_proxy":true,"connections":12}],"advised_client_idle_seconds":5,"expected_races":10.2,"seen_races":11}]`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is missing in %s", want, got)
		}
	}
}

func TestLooksLike(t *testing.T) {
	const ms = time.Millisecond
	type timer = correlate.Timer
	for _, tt := range []struct {
		timer timer
		want  string
	}{
		// What it says of itself decides.
		{timer{Timeout: 6010 * ms, Stated: 5000 * ms, Closes: 3}, "Node's keepAliveTimeout of 5 s + 1 s"},
		{timer{Timeout: 2010 * ms, Stated: 1000 * ms, Closes: 5}, "Node's keepAliveTimeout of 1 s + 1 s"},
		{timer{Timeout: 5005 * ms, Stated: 5000 * ms, Closes: 5}, "what its Keep-Alive header says, timeout=5 s"},
		{timer{Timeout: 5005 * ms, Stated: 5000 * ms, Closes: 5, Product: "apache"}, "Apache httpd's KeepAliveTimeout of 5 s, as its Keep-Alive header says"},
		{timer{Timeout: 75902 * ms, Closes: 5, Product: "nginx"}, "nginx's keepalive_timeout of 75 s, the default"},
		{timer{Timeout: 2990 * ms, Closes: 5, Product: "gunicorn"}, "gunicorn's --keep-alive of 2 s, the default"},
		{timer{Timeout: 5080 * ms, Closes: 5, Product: "uvicorn"}, "uvicorn's --timeout-keep-alive of 5 s, the default"},
		// Too few closes, or what it says contradicts.
		{timer{Timeout: 6010 * ms, Stated: 5000 * ms, Closes: 2}, ""},
		{timer{Timeout: 75002 * ms, Stated: 5000 * ms, Closes: 5}, ""},
		{timer{Timeout: 6010 * ms, Stated: 5000 * ms, Closes: 5, Product: "apache"}, ""},
		{timer{Timeout: 5005 * ms, Closes: 5, Product: "nginx"}, ""},
		{timer{Timeout: 75002 * ms, Closes: 5, Product: "my-server"}, ""},
		{timer{Timeout: 75002 * ms, Closes: 5, Product: "nginx", Via: "my-proxy"}, ""},
		{timer{Timeout: 75002 * ms, Closes: 5, Product: "nginx", Described: true}, "nginx's keepalive_timeout of 75 s, the default"},
		{timer{Timeout: 5001 * ms, Closes: 5, Product: "nginx", Via: "varnish", Described: true}, "Varnish's timeout_idle of 5 s, the default"},
		{timer{Timeout: 300 * ms, Closes: 50}, ""},
		{timer{Timeout: 7777 * ms, Closes: 50}, ""},
		// A number alone names nobody for sure.
		{timer{Timeout: 75902 * ms, Closes: 5, Described: true}, ""},
		{timer{Timeout: 6002 * ms, Closes: 5, Described: true}, ""},
		{timer{Timeout: 65002 * ms, Closes: 5, Described: true}, "the 65 s that Puma has by default, or another server set so"},
		{timer{Timeout: 5002 * ms, Closes: 5}, "a default of uvicorn, hypercorn, Apache httpd, lighttpd, Varnish, Cowboy or Actix, or another server set so"},
		{timer{Timeout: 5500 * ms, Spread: 600 * ms, Closes: 5, Product: "uvicorn"}, ""},
	} {
		if got := LooksLike(&tt.timer); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.timer, got, tt.want)
		}
	}
	if LooksLike(nil) != "" {
		t.Error("no timer looks like something")
	}
}

func TestForgets(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Minute:       "",
		250 * time.Second: "Azure Load Balancer (4 min)",
		360 * time.Second: "Azure Load Balancer (4 min), AWS NLB (350 s), AWS NAT gateway (350 s) or AWS security group (350 s)",
		time.Hour:         "AWS security group (350 s), GCP VM firewall (10 min), kube-proxy in IPVS mode (15 min) or GCP Cloud NAT (20 min)",
	} {
		if got := list(forgets(d), "or"); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestClientLimit(t *testing.T) {
	for agent, want := range map[string]string{
		"Go-http-client/1.1": "Go net/http", "python-requests/2.31.0": "requests, urllib3", "Python/3.11 aiohttp/3.8.4": "aiohttp",
		"node": "Node fetch, undici", "axios/1.6.0": "Node http agent", "curl/8.5.0": "curl", "okhttp/4.12.0": "OkHttp",
		"Java-http-client/17.0.9": "Java HttpClient", "Java/1.8.0_51": "Java HttpURLConnection", "Apache-HttpClient/4.5.14": "Apache HttpClient 4",
		"Apache-HttpClient/5.2": "Apache HttpClient 5", "ReactorNetty/1.1.0": "reactor-netty", "Ruby": "Ruby Net::HTTP", "python-httpx/0.27": "httpx",
		"ELB-HealthChecker/2.0": "", "Mozilla/5.0": "", "Python-urllib/3.12": "", "curly/1": "", "": "", "/": "",
	} {
		got := ""
		if k := clientLimit(agent); k != nil {
			got = k.product
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", agent, got, want)
		}
	}
}

func TestClientIdle(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct{ timeout, spread, rtt, stated, want time.Duration }{
		{6000 * ms, 4 * ms, 0, 0, 5000 * ms},
		{6000 * ms, 4 * ms, 0, 5000 * ms, 5000 * ms},
		{5001 * ms, 4 * ms, 0, 5000 * ms, 4000 * ms},
		{300 * ms, ms, 0, 0, 250 * ms},
		{300 * ms, ms, 100 * ms, 0, 150 * ms},
		{75 * time.Second, 0, 0, 0, 60 * time.Second},
		{60 * time.Second, 0, 0, 0, 50 * time.Second},
		{2 * time.Second, 0, 0, 0, 1500 * ms},
		{10 * ms, 20 * ms, 0, 0, 0},
		{100 * ms, 0, 200 * ms, 0, 0},
	} {
		got := ClientIdle(&correlate.Timer{Closes: 5, Timeout: tt.timeout, Spread: tt.spread, Stated: tt.stated}, tt.rtt)
		if got != tt.want {
			t.Errorf("%v ± %v, stated %v, round trip %v: got %v, want %v", tt.timeout, tt.spread, tt.stated, tt.rtt, got, tt.want)
		}
		if got != 0 && got+tt.rtt >= tt.timeout {
			t.Errorf("advice %v does not end the races of a timer of %v", got, tt.timeout)
		}
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 412 * time.Microsecond: "412 µs", 299_812 * time.Microsecond: "299.8 ms",
		5998 * time.Millisecond: "5.998 s", 75 * time.Second: "75.00 s", 350 * time.Second: "350.0 s", -time.Second: "-1.000 s",
	} {
		if got := seconds(d); got != want {
			t.Errorf("seconds(%v) = %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		492 * time.Second: "8 m 12 s", 3700 * time.Second: "1 h 1 m", 100 * time.Hour: "4 d 4 h", 20 * time.Second: "20.00 s",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestGroup(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 41203: "41,203", 1234567: "1,234,567"} {
		if got := group(n); got != want {
			t.Errorf("group(%d) = %q, want %q", n, got, want)
		}
	}
}

// TestSummaryOfRestarts holds the summary to not blaming idle timeouts for what a
// restart did.
func TestSummaryOfRestarts(t *testing.T) {
	server := addr("10.0.9.2:8080")
	blame := func(lost, inRestarts uint64) string {
		return strings.Join(blameTable(
			[]correlate.VerdictCount{{Verdict: correlate.IdleRace, Server: server, Lost: lost, Restart: inRestarts, Connections: lost}},
			[]correlate.Restart{{Server: server, From: capture.Time(time.Hour), Lost: inRestarts}}, time.UTC), "\n")
	}
	const restart, settings = "the restart of 10.0.9.2:8080 at 01:00:00", "under the idle timers below"
	if got := blame(3, 3); !strings.Contains(got, restart) || !strings.Contains(got, "drain before") || strings.Contains(got, settings) {
		t.Errorf("all in a restart:\n%s", got)
	}
	if got := blame(3, 2); !strings.Contains(got, "2 of the 3: "+restart) || !strings.Contains(got, "the others: ") || !strings.Contains(got, settings) {
		t.Errorf("some in a restart:\n%s", got)
	}
	if got := blame(3, 0); strings.Contains(got, "restart of") || !strings.Contains(got, settings) {
		t.Errorf("none in a restart:\n%s", got)
	}
}

// TestHeadlineWithoutAnswers: where nothing was answered, nothing lost would sound
// as if all was well.
func TestHeadlineWithoutAnswers(t *testing.T) {
	for requests, want := range map[uint64]string{1: "nothing answered: the one request on 1 connection was still waiting", 3: "nothing answered: all 3 requests on 1 connection were still waiting"} {
		got := headline(&Summary{Tracker: correlate.Summary{Connections: 1, Requests: requests, Waiting: requests, StillOpen: 1}})
		if !strings.HasPrefix(got, want) {
			t.Errorf("%d requests: %s", requests, got)
		}
	}
}
