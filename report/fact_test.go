package report

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// event is a server's close with a request unread.
func event(after time.Duration) *correlate.Event {
	return &correlate.Event{
		SocketFact: capture.SocketFact{
			Time:  capture.Time(1752937331337104000).Add(after),
			Kind:  capture.ResetSent,
			Local: capture.EndpointFrom(netip.MustParseAddrPort("10.0.9.2:8080")), Remote: capture.EndpointFrom(netip.MustParseAddrPort("10.0.3.7:41822")),
			Reason: "TCP_ABORT_ON_CLOSE", Active: true, State: "ESTABLISHED",
			Unread: 512, HasUnread: true, Idle: 5998 * time.Millisecond, HasIdle: true,
			Owner: capture.Process{PID: 4242, Command: "gunicorn\x1b[2J", Container: strings.Repeat("1a2b3c4d", 8), Name: "web", Cgroup: "/docker/x"},
			Where: 4026532281,
		},
		Server: true, Method: "POST", Target: "/orders", Retry: correlate.RetryLikelySafe,
	}
}

// TestFactText has a storm folded, and nothing of it lost.
func TestFactText(t *testing.T) {
	var b strings.Builder
	w := NewFactText(NewText(&b, Options{}))
	tally := &correlate.Tally{}
	put := func(e *correlate.Event) {
		t.Helper()
		tally.Add(e)
		if err := w.Event(e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2000 {
		put(event(time.Duration(i) * time.Millisecond))
	}
	received := &correlate.Event{SocketFact: capture.SocketFact{Time: event(0).Time.Add(time.Hour), Kind: capture.ResetReceived, Local: event(0).Remote, Remote: event(0).Local}}
	put(received)
	unread := &correlate.Event{SocketFact: capture.SocketFact{
		Time: received.Time, Kind: capture.Closed, NewState: "FIN_WAIT1", Unread: 1, HasUnread: true, Owner: capture.Process{PID: 1, Cgroup: "/system.slice/x.service"},
	}}
	put(unread)
	sum := FactSummary{Tally: tally, Start: event(0).Time, End: received.Time, Facts: 2002, Lost: 3}
	if err := w.Summary(&sum); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	const first = `15:02:11.337104  10.0.9.2:8080 → 10.0.3.7:41822  TCP_ABORT_ON_CLOSE  the server closed with 512 bytes received and not read; begins like POST /orders; ` +
		`by gunicorn\x1b[2J, pid 4242, container web; idle 5.998 s; retry likely safe, if that is where a request begins: not a byte of it had been read`
	if lines[0] != first {
		t.Errorf("got  %s\nwant %s", lines[0], first)
	}
	shown, folded := 0, 0
	for _, line := range lines {
		if strings.Contains(line, " → ") {
			shown++
		}
		if m := regexp.MustCompile(`  (\d+) more like these within .* m?s, the last:  10\.0`).FindStringSubmatch(line); m != nil {
			n := 0
			fmt.Sscan(m[1], &n)
			folded += n
			shown--
		}
	}
	if shown > 15 || shown+folded != 2000 {
		t.Errorf("%d lines, %d folded:\n%s", shown, folded, b.String())
	}
	for _, want := range []string{
		"  10.0.3.7:41822 ← 10.0.9.2:8080  reset-received  the other end reset the connection\n",
		"  closed-unread  this end closed its side with 1 byte received and not read; by pid 1, cgroup /system.slice/x.service\n",
		"\n2,002 resets and ends with data unread in 1 h 0 m (2,002 facts of the kernel, 3 lost)\nnot complete: 3 facts were lost: the kernel had no room for more\n",
		"\n  TCP_ABORT_ON_CLOSE  2,000     2,000        2,000  gunicorn\\x1b[2J  web\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestFactJSON has every event, and nothing that is not known.
func TestFactJSON(t *testing.T) {
	var b strings.Builder
	w := FactJSON{NewJSON(&b, Options{})}
	for range 10 {
		if err := w.Event(event(0)); err != nil {
			t.Fatal(err)
		}
	}
	tally := &correlate.Tally{}
	tally.Add(event(0))
	if err := w.Event(&correlate.Event{SocketFact: capture.SocketFact{Kind: capture.Closed}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Summary(&FactSummary{Tally: tally, Start: 0, End: 1e9, Facts: 11}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	want := map[int]string{
		9: `{"type":"fact","schema":1,"time":"2025-07-19T15:02:11.337104000Z","event":"reset-sent","text":"the server closed with 512 bytes received and not read","retry":"likely-safe",` +
			`"local":{"address":"10.0.9.2","port":8080,"role":"server","process":{"pid":4242,"command":"gunicorn\u001b[2J","container_id":"` + strings.Repeat("1a2b3c4d", 8) + `","container_name":"web","cgroup":"/docker/x"}},` +
			`"remote":{"address":"10.0.3.7","port":41822},"kernel":{"reset_reason":"TCP_ABORT_ON_CLOSE","active":true,"state":"ESTABLISHED","unread_bytes":512},` +
			`"request":{"method":"POST","target":"/orders"},"idle_seconds":5.998,"netns_inode":4026532281}`,
		10: `{"type":"fact","schema":1,"time":"1970-01-01T00:00:00.000000000Z","event":"closed-unread","text":"this end closed its side with data received and not read","local":{"address":"::","port":0},"remote":{"address":"::","port":0},"kernel":{}}`,
		11: `{"type":"summary","schema":1,"complete":true,"start":"1970-01-01T00:00:00.000000000Z","end":"1970-01-01T00:00:01.000000000Z","duration_seconds":1,"events":1,"facts":11,"facts_lost":0,` +
			`"counts":[{"event":"reset-sent","reset_reason":"TCP_ABORT_ON_CLOSE","process":{"command":"gunicorn\u001b[2J","container_id":"` + strings.Repeat("1a2b3c4d", 8) + `","container_name":"web"},"count":1,"requests":1,"retry_likely_safe":1,"unread_bytes":512}]}`,
	}
	for i, w := range want {
		if i >= len(lines) || lines[i] != w {
			t.Errorf("line %d: got\n%s\nwant\n%s", i, lines[min(i, len(lines)-1)], w)
		}
		if i < len(lines) && !json.Valid([]byte(lines[i])) {
			t.Errorf("line %d is not JSON", i)
		}
	}
}

// TestReasons holds that every reason has all its words, in whatever way it is
// asked for.
func TestReasons(t *testing.T) {
	for _, r := range kernelReasons {
		if r.Title == "" || r.Meaning == "" || r.Request == "" || r.Retry == "" {
			t.Errorf("%s lacks words", r.Name)
		}
		for _, name := range []string{r.Name, strings.ToLower(r.Name), "SK_RST_REASON_" + r.Name} {
			var b strings.Builder
			if ok, err := ExplainWord(&b, name); !ok || err != nil || !strings.HasPrefix(b.String(), r.Name+" (") || strings.Contains(b.String(), "{") {
				t.Errorf("%s: %v %v %s", name, ok, err, b.String())
			}
		}
	}
	var b strings.Builder
	if ok, err := ExplainWord(&b, "reasons"); !ok || err != nil || strings.Count(b.String(), "\n  ") < len(kernelReasons) {
		t.Error(b.String())
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if len([]rune(line)) > explainWidth {
			t.Errorf("too wide: %s", line)
		}
	}
	if r, known := WordsOfReason("TCP_NEW_IN_7"); known || r.Title == "" {
		t.Error("a reason that is not known has words")
	}
	if got := Similar("tcp_abort_on_clos"); len(got) == 0 || got[0] != "TCP_ABORT_ON_CLOSE" {
		t.Errorf("similar: %v", got)
	}
}
