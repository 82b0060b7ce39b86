package report

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"whyreset/capture"
	"whyreset/correlate"
)

func at(hour, minute, sec, usec int) capture.Time {
	return capture.Time(time.Date(2026, 11, 22, hour, minute, sec, usec*1000, time.UTC).UnixNano())
}

func addr(s string) capture.Endpoint { return capture.EndpointFrom(netip.MustParseAddrPort(s)) }

// race is the finding that the design shows, with every field filled in.
func race() *correlate.Finding {
	return &correlate.Finding{
		Time: at(14, 2, 11, 337104), Verdict: correlate.IdleRace, Confidence: correlate.Proven,
		Lost: true, Retry: correlate.RetrySafe,
		Connection: correlate.Connection{
			ID: 12, Client: addr("10.0.3.7:41822"), Server: addr("10.0.9.2:8080"),
			Start: at(14, 1, 3, 0), StartSeen: true, Requests: 17, Responses: 16, Protocol: "http/1.1",
			HandshakeRTT: 1200 * time.Microsecond, HasRTT: true, Vantage: correlate.AtClient, Files: []int{0},
		},
		Programs: correlate.Programs{Client: "Go-http-client/1.1"},
		Request: &correlate.Request{
			Method: "POST", Target: "/orders", Number: 17, Time: at(14, 2, 11, 330000),
			Frame: 1042, Bytes: 87, Complete: true,
		},
		Idle: 5998 * time.Millisecond, HasIdle: true,
		ClosedBy:  correlate.Server,
		Close:     correlate.Close{Kind: correlate.FINClose, Frame: 1043, Ack: 1201, HasAck: true},
		Timer:     &correlate.Timer{Timeout: 6002 * time.Millisecond, Spread: 4 * time.Millisecond, Closes: 38, Stated: 5 * time.Second, Described: true},
		Modifiers: []string{"reused", "anything-new"},
		Evidence: []correlate.Evidence{
			{Frame: 1043, Text: "server's FIN (frame 1043) acknowledges 1201, the request's first byte (frame 1042) is 1201: it had none of the request"},
			{Frame: 1044, Text: "reset (frame 1044) with seq 9877 answers the request's ack 9877: the request was refused, not processed"},
		},
	}
}

func textOf(t *testing.T, opt Options, findings ...*correlate.Finding) string {
	t.Helper()
	var b bytes.Buffer
	w := NewText(&b, opt)
	for _, f := range findings {
		if err := w.Finding(f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func jsonOf(t *testing.T, opt Options, f *correlate.Finding) string {
	t.Helper()
	var b bytes.Buffer
	if err := NewJSON(&b, opt).Finding(f); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestTextFinding(t *testing.T) {
	compare(t, textOf(t, Options{StreamIDs: true, Files: []string{"a.pcap"}}, race()), `14:02:11.337104  10.0.3.7:41822 → 10.0.9.2:8080  idle-race  proven
  POST /orders, request 17 on this connection, lost: the server closed while it was on its way
  idle 5.998 s; this server closes idle connections after 6.00 s ± 4 ms (38 closes), looks like Node's keepAliveTimeout of 5 s + 1 s
  the client calls itself Go-http-client/1.1, which keeps idle connections for 90 s by default (Transport.IdleConnTimeout)
  noted  anything-new
  proof  server's FIN (frame 1043) acknowledges 1201, the request's first byte (frame 1042) is 1201: it had none of the request
         reset (frame 1044) with seq 9877 answers the request's ack 9877: the request was refused, not processed
         captured at the client: the request is seen before the close that it crossed
  client saw  EOF (Go), socket hang up (Node), RemoteDisconnected (Python), (104) or prematurely closed (nginx), SH (HAProxy), UC (Envoy)
  retry  safe for any method
  fix    set the client's Transport.IdleConnTimeout (Go net/http) below 5 s, or raise the server's keepAliveTimeout (Node) above the client's
  wireshark  tcp.stream eq 12 && frame.number in {1042, 1043, 1044}
`)
}

// TestFixNamesTheProduct: as far as it says who it is, and is the one to change.
func TestFixNamesTheProduct(t *testing.T) {
	for _, tt := range []struct {
		verdict             correlate.Verdict
		server, via, client string
		proxy               bool
		want, never         string
	}{
		{correlate.AbortBeforeResponse, "gunicorn", "", "", false, "; gunicorn: --timeout (30 s)", ""},
		{correlate.AbortBeforeResponse, "gunicorn", "google", "", false, "look at the server's log", "gunicorn"},
		{correlate.RequestTimeout, "apache", "", "curl/8.0", false, "; Apache: RequestReadTimeout", ""},
		{correlate.ClosedOnAccept, "nginx", "", "", false, "; nginx: limit_conn", ""},
		{correlate.ClientAbortBeforeResponse, "nginx", "", "Go-http-client/1.1", false, "; Go client: http.Client.Timeout", "nginx"},
		{correlate.ClientAbortBeforeResponse, "", "", "python-requests/2.31.0", false, "; Python client: requests: timeout=", ""},
		{correlate.IdleRace, "nginx", "", "Go-http-client/1.1", false, "set the client's Transport.IdleConnTimeout (Go net/http) below 5 s, or raise the server's keepalive_timeout (nginx, as its header says, unless", ""},
		{correlate.IdleRace, "nginx", "", "python-requests/2.31.0", false, "the client (requests, urllib3) has no limit to set: mount a Retry, or renew the Session, or raise the server's keepalive_timeout", ""},
		{correlate.IdleRace, "", "", "", true, "in the proxy that is the client (nginx: keepalive_timeout in upstream {}", ""},
		{correlate.IdleRace, "", "", "unheard-of/1.0", false, "keep idle connections for less than 5 s in the client (Go: Transport.IdleConnTimeout), or raise the server's idle timeout", "unheard-of"},
		{correlate.LateReuse, "", "", "okhttp/4.12.0", false, "set the client's ConnectionPool(…, keepAliveDuration) (OkHttp) below 5 s; find", ""},
	} {
		f := race()
		f.Verdict = tt.verdict
		f.Programs = correlate.Programs{Client: tt.client, ClientForwards: tt.proxy, Server: tt.server, ServerVia: tt.via}
		f.Timer = &correlate.Timer{Timeout: 6 * time.Second, Closes: 10, Product: tt.server, Via: tt.via}
		got := Fix(f)
		if !strings.Contains(got, tt.want) || tt.never != "" && strings.Contains(got, tt.never) {
			t.Errorf("%s, server %q via %q, client %q: got %q", tt.verdict, tt.server, tt.via, tt.client, got)
		}
	}
}

// TestTextManyFindings: hundreds of one kind must not be hundreds of screens.
func TestTextManyFindings(t *testing.T) {
	var b bytes.Buffer
	w := NewText(&b, Options{})
	for range 300 {
		if err := w.Finding(race()); err != nil {
			t.Fatal(err)
		}
	}
	other := race()
	other.Connection.Server = addr("10.0.9.9:80")
	if err := w.Finding(other); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{
		"  fix    ": inFull + 1, "  client saw  ": inFull + 1, "  proof  ": inPart + 1, "  retry  ": inPart + 1, "  POST /orders, request 17": 301,
		"the 6th idle-race of this server: from here on without what would be repeated": 1,
		"the 51st idle-race of this server: from here on without evidence":              1,
	} {
		if n := strings.Count(b.String(), text); n != want {
			t.Errorf("%q is there %d times, want %d", text, n, want)
		}
	}
	if n := strings.Count(b.String(), "\n"); n > 300*5 {
		t.Errorf("%d lines for 301 findings", n)
	}
}

func TestTextNothingLost(t *testing.T) {
	f := race()
	f.Verdict, f.Confidence, f.Lost, f.Retry = correlate.CleanClose, correlate.Proven, false, correlate.NothingToRetry
	f.Response = &correlate.Response{Status: 200, Frame: 1040, Bytes: 120, Complete: true}
	f.Modifiers = nil
	f.Evidence = []correlate.Evidence{{Frame: 1043, Text: "server's FIN with nothing outstanding"}}
	f.Connection.Vantage = correlate.NoVantage
	compare(t, textOf(t, Options{}, f), `14:02:11.337104  10.0.3.7:41822 → 10.0.9.2:8080  clean-close  proven
  POST /orders, request 17 on this connection, the last, answered 200: closed with nothing outstanding
  idle 5.998 s
  proof  server's FIN with nothing outstanding (frame 1043)
  wireshark  frame.number in {1042, 1043}
`)
	f.Verdict, f.Request, f.Response, f.HasIdle = correlate.UnusedConnection, nil, nil, false
	compare(t, textOf(t, Options{}, f), `14:02:11.337104  10.0.3.7:41822 → 10.0.9.2:8080  unused-connection  proven
  no request: no request was sent on it
  proof  server's FIN with nothing outstanding (frame 1043)
  wireshark  frame.number in {1043}
`)
}

func TestTextWeak(t *testing.T) {
	f := race()
	f.Verdict, f.Confidence, f.Retry = correlate.IdleRaceUnread, correlate.Weak, correlate.RetryAmbiguous
	got := textOf(t, Options{}, f)
	for _, want := range []string{
		"idle-race-unread  weak\n",
		"\n  seen   server's FIN",
		"\n  doubt  the server may have read the request and then failed",
		"\n  retry  ambiguous: the server may have acted on it; repeat idempotent methods only, which POST is not\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "proof") {
		t.Errorf("a weak verdict claims proof:\n%s", got)
	}
	f.Request.Method = "DELETE"
	if got := textOf(t, Options{}, f); !strings.Contains(got, "such as this DELETE") {
		t.Errorf("no word that DELETE may be repeated:\n%s", got)
	}
}

func TestTextSeveralFiles(t *testing.T) {
	f := race()
	f.Connection.Files = []int{0, 1}
	f.Evidence[1].File = 1
	got := textOf(t, Options{Files: []string{"a.pcap", "b\x1b.pcap"}}, f)
	for _, want := range []string{
		"it had none of the request [a.pcap]\n", `not processed [b\x1b.pcap]` + "\n",
		"wireshark  frame.number in {1043}  in a.pcap\n", `frame.number in {1044}  in b\x1b.pcap` + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
}

func TestTextAmbiguousAndDays(t *testing.T) {
	f := race()
	f.Verdict, f.Confidence, f.Retry = correlate.Ambiguous, correlate.NoConfidence, correlate.RetryAmbiguous
	f.Candidates = []correlate.Verdict{correlate.IdleRaceUnread, correlate.AbortBeforeResponse}
	later := race()
	later.Time = f.Time.Add(24 * time.Hour)
	got := textOf(t, Options{}, f, later)
	for _, want := range []string{
		"  ambiguous\n", "  fits   idle-race-unread: ", "         abort-before-response: ",
		"\n\n2026-11-23 UTC\n\n14:02:11.337104",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
}

func TestColorAndZone(t *testing.T) {
	got := textOf(t, Options{Color: true, Location: time.FixedZone("CET", 3600)}, race())
	if !strings.HasPrefix(got, "15:02:11.337104") || !strings.Contains(got, "\x1b[1;31midle-race\x1b[0m") {
		t.Errorf("zone or colour is missing: %q", got)
	}
	if got := textOf(t, Options{}, race()); strings.Contains(got, "\x1b") {
		t.Errorf("colour without being asked: %q", got)
	}
}

// hostile is what a request can hold to drive a terminal, forge output or break JSON.
const hostile = "/\x1b]0;owned\a\x1b[2J\r\n14:02 forged\u202e\u009b1m\x7f\xff\xfe\u2028\\x1b\x00<é>"

func TestHostileText(t *testing.T) {
	f := race()
	f.Request.Method, f.Request.Target, f.Request.Host = "G\x1bT", hostile, "h\x9b\n"
	f.Retry = correlate.RetryAmbiguous
	f.Evidence[0].Text = "reset says \x1b[31m\xff"
	f.Modifiers = []string{"a\nb"}
	got := textOf(t, Options{}, f)
	if !utf8.ValidString(got) {
		t.Errorf("not UTF-8: %q", got)
	}
	for _, r := range got {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%U reaches the terminal: %q", r, got)
		}
	}
	const want = `/\x1b]0;owned\x07\x1b[2J\x0d\x0a14:02 forged\u202e\u009b1m\x7f\xff\xfe\u2028\\x1b\x00<é>`
	if !strings.Contains(got, want) {
		t.Errorf("%s is missing in:\n%s", want, got)
	}
	f.Request.Target = "/" + strings.Repeat("a", 1e6)
	if got := textOf(t, Options{}, f); len(got) > 4000 {
		t.Errorf("a long target makes %d bytes of output", len(got))
	}
}

func TestHostileJSON(t *testing.T) {
	f := race()
	f.Request.Method, f.Request.Target, f.Request.Host = "G\x1bT", hostile, "h\x9b\n\U000e0001"
	line := jsonOf(t, Options{}, f)
	for _, r := range strings.TrimSuffix(line, "\n") {
		if !unicode.IsPrint(r) && r != utf8.RuneError {
			t.Errorf("%U is in the JSON: %q", r, line)
		}
	}
	var back struct{ Request struct{ Target, Host string } }
	if err := json.Unmarshal([]byte(line), &back); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	if want := strings.ToValidUTF8(strings.ReplaceAll(hostile, "\xff\xfe", "\ufffd\ufffd"), ""); back.Request.Target != want {
		t.Errorf("target %q, want %q", back.Request.Target, want)
	}
	if want := "h\ufffd\n\U000e0001"; back.Request.Host != want {
		t.Errorf("host %q, want %q", back.Request.Host, want)
	}
}

func TestJSONFinding(t *testing.T) {
	f := race()
	f.Request.Host = "api.example"
	f.Response = &correlate.Response{Status: 200, Frame: 1050, Bytes: 12}
	f.Candidates = []correlate.Verdict{correlate.LateReuse}
	f.Timer.Stated = 5 * time.Second
	compare(t, jsonOf(t, Options{}, f), strings.ReplaceAll(`{"type":"finding","schema":1,"time":"2026-11-22T14:02:11.337104000Z","verdict":"idle-race","family":"idle-race","confidence":"proven","candidates":["late-reuse"],"lost":true,"retry":"safe",
"client":{"address":"10.0.3.7","port":41822,"product":"Go-http-client/1.1"},"server":{"address":"10.0.9.2","port":8080},
"connection":{"id":12,"start":"2026-11-22T14:01:03.000000000Z","start_seen":true,"requests":17,"responses":16,"reused":true,"protocol":"http/1.1","tls":false,"handshake_rtt_seconds":0.0012,"vantage":"client","vantage_from":"handshake"},
"request":{"method":"POST","target":"/orders","host":"api.example","number":17,"time":"2026-11-22T14:02:11.330000000Z","frame":1042,"bytes":87,"complete":true},
"response":{"status":200,"frame":1050,"bytes":12,"complete":false},
"idle_seconds":5.998,"closed_by":"server","close":{"kind":"fin","frame":1043,"ack":1201},
"server_idle_timeout":{"seconds":6.002,"spread_seconds":0.004,"closes":38,"stated_seconds":5,"looks_like":"Node's keepAliveTimeout of 5 s + 1 s","product":"Node","setting":"keepAliveTimeout"},"client_idle_limit":{"product":"Go net/http","setting":"Transport.IdleConnTimeout","default_seconds":90,"advised_seconds":5},
"modifiers":["reused","anything-new"],
"evidence":[{"frame":1043,"text":"server's FIN (frame 1043) acknowledges 1201, the request's first byte (frame 1042) is 1201: it had none of the request"},{"frame":1044,"text":"reset (frame 1044) with seq 9877 answers the request's ack 9877: the request was refused, not processed"}]}`,
		"\n", "")+"\n")

	// What is not known is absent.
	compare(t, jsonOf(t, Options{}, &correlate.Finding{
		Time: at(1, 2, 3, 4), Verdict: correlate.CaptureIncomplete,
		Connection: correlate.Connection{Client: addr("[2001:db8::1]:1"), Server: addr("10.0.0.2:80")},
		Request:    &correlate.Request{Number: 1},
	}), `{"type":"finding","schema":1,"time":"2026-11-22T01:02:03.000004000Z","verdict":"capture-incomplete","family":"unknown","lost":false,`+
		`"client":{"address":"2001:db8::1","port":1},"server":{"address":"10.0.0.2","port":80},`+
		`"connection":{"id":0,"start":"1970-01-01T00:00:00.000000000Z","start_seen":false,"requests":0,"responses":0},`+
		`"request":{"number":1,"time":"1970-01-01T00:00:00.000000000Z","bytes":0,"complete":false},"close":{"kind":"none"}}`+"\n")
}

// TestJSONHasNoNull covers every verdict, empty and full.
func TestJSONHasNoNull(t *testing.T) {
	var check func(path string, v any)
	check = func(path string, v any) {
		switch v := v.(type) {
		case nil:
			t.Errorf("%s is null", path)
		case map[string]any:
			for k, x := range v {
				check(path+"."+k, x)
			}
		case []any:
			for _, x := range v {
				check(path+"[]", x)
			}
		case string:
			if v == "" {
				t.Errorf("%s is empty", path)
			}
		}
	}
	var lines []string
	for _, v := range correlate.Verdicts() {
		full := race()
		full.Verdict = v
		lines = append(lines, jsonOf(t, Options{}, full), jsonOf(t, Options{}, &correlate.Finding{Verdict: v}))
	}
	for _, s := range []*Summary{fullSummary(), {}} {
		var b bytes.Buffer
		if err := NewJSON(&b, Options{}).Summary(s); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, b.String())
	}
	for _, line := range lines {
		if strings.Count(line, "\n") != 1 {
			t.Errorf("not one line: %q", line)
		}
		var v any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		check("", v)
	}
	jq, err := exec.LookPath("jq")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must have jq")
		}
		t.Skip("SKIPPED: no jq here to try the lines on")
	}
	cmd := exec.Command(jq, "-e", ".type")
	cmd.Stdin, cmd.Stderr = strings.NewReader(strings.Join(lines, "")), os.Stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("jq: %v", err)
	}
}
