package trial

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const idle = 80 * time.Millisecond

// bench starts a server on loopback and returns a maker of clients.
func bench(t *testing.T) (*Log, func(Mode) *Client) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := NewLog(io.Discard)
	srv := Serve(ln, idle, log)
	t.Cleanup(func() {
		srv.Close()
		if err := log.Err(); err != nil {
			t.Error(err)
		}
	})
	return log, func(m Mode) *Client {
		c, err := NewClient("http://"+ln.Addr().String(), m, new(net.Dialer).DialContext, log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
}

func TestModes(t *testing.T) {
	for _, test := range []struct {
		mode   Mode
		pause  time.Duration
		reused bool
	}{
		{Faulty, idle / 4, true},
		{Faulty, 2 * idle, false},
		{NoKeepAlives, idle / 4, false},
		{ShortIdle, idle / 4, true},
	} {
		log, newClient := bench(t)
		Run(context.Background(), []*Client{newClient(test.mode)}, 3, 1, "POST", Schedule{Pause: test.pause}, nil)
		truths := Merge(log.Events())
		if len(truths) != 3 {
			t.Fatalf("%s, pause %v: %d truths, want 3", test.mode, test.pause, len(truths))
		}
		for i, r := range truths {
			if r.ID != i+1 || !r.Wrote || !r.Complete || r.Lost || !r.ServerSaw || r.Status != 200 || r.Error != "" || r.ServerRead != r.WroteBytes {
				t.Errorf("%s, pause %v: %+v", test.mode, test.pause, r)
			}
			if want := test.reused && i > 0; r.Reused != want {
				t.Errorf("%s, pause %v, request %d: reused %v, want %v", test.mode, test.pause, r.ID, r.Reused, want)
			}
		}
	}
	if _, err := NewClient("http://h", "none such", nil, nil); err == nil {
		t.Error("want an error for an unknown mode")
	}
}

// A seeking schedule loses requests where an even one hardly would.
func TestSeek(t *testing.T) {
	log, newClient := bench(t)
	clients := []*Client{newClient(Faulty), newClient(Faulty), newClient(Faulty)}
	Run(context.Background(), clients, 25, 1, "GET", Schedule{Pause: idle, Jitter: 2 * time.Millisecond, Seek: true}, nil)
	lost, missing := 0, 75
	for _, r := range Merge(log.Events()) {
		if r.Attempt == r.Attempts {
			missing--
		}
		if r.Lost {
			lost++
			// net/http repeats a GET that got no answer on a reused connection.
			if !r.Retried || r.Error != "" || r.ServerSaw || r.Provoked != "" {
				t.Errorf("%+v", r)
			}
		}
	}
	if missing != 0 {
		t.Errorf("%d requests are missing", missing)
	}
	if lost == 0 {
		t.Log("no request was lost: the machine is too busy to find the timeout")
	}
}

func TestFaults(t *testing.T) {
	type want struct {
		status int
		lost   bool
		err    string
	}
	wants := map[Fault]want{
		ReadReset:     {0, true, "connection reset by peer"},
		ReadClose:     {0, true, "EOF"},
		HalfClose:     {200, true, "unexpected EOF"},
		HalfReset:     {200, true, "connection reset by peer"},
		Early413Late:  {413, false, ""},
		ClientTimeout: {0, true, "context deadline exceeded"},
		ClientCancel:  {200, true, "context canceled"},
		ClientUpload:  {0, true, "gave up its upload"},
	}
	for _, f := range Faults() {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			log, newClient := bench(t)
			c := newClient(Faulty)
			c.Do(context.Background(), Request{ID: 1, Method: "POST"})
			o := c.Do(context.Background(), Request{ID: 2, Method: "POST", Fault: f})
			time.Sleep(30 * time.Millisecond)
			truths := Merge(log.Events())
			if len(truths) != 2 || truths[0].Lost || truths[0].Provoked != "" {
				t.Fatalf("truths %+v", truths)
			}
			r := truths[1]
			if r.Provoked != string(f) || !r.Reused || !r.ServerSaw || !r.Wrote || r.Local != o.Local {
				t.Errorf("%+v", r)
			}
			w, ok := wants[f]
			if !ok {
				return // whether the client gets to read the answer is up to the scheduler
			}
			if r.Status != w.status || r.Lost != w.lost || !strings.Contains(r.Error, w.err) || (w.err == "") != (r.Error == "") {
				t.Errorf("status %d, lost %v, error %q; want %+v", r.Status, r.Lost, r.Error, w)
			}
		})
	}
}

// The log of a race in which a GET is lost and silently repeated.
func TestMerge(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, int64(ms)*1e6) }
	const a, b, server = "1.1.1.1:1", "1.1.1.1:2", "2.2.2.2:9000"
	truths := Merge([]Event{
		{Time: at(0), Who: "client", What: Start, ID: 7, Method: "GET", Target: "/test?id=7", Pause: 0.3},
		{Time: at(0), Who: "client", What: GotConn, ID: 7, Local: a, Remote: server, Reused: true, IdleSeconds: 0.3},
		{Time: at(1), Who: "client", What: Write, ID: 7, Local: a, Remote: server, Bytes: 100},
		{Time: at(3), Who: "server", What: Close, ID: 6, Local: server, Remote: a},
		{Time: at(5), Who: "client", What: ReadEnd, ID: 7, Local: a, Remote: server, Error: "EOF"},
		{Time: at(9), Who: "client", What: GotConn, ID: 7, Local: b, Remote: server},
		{Time: at(9), Who: "client", What: Write, ID: 7, Local: b, Remote: server, Bytes: 100},
		{Time: at(10), Who: "server", What: Read, ID: 7, Local: server, Remote: b, Bytes: 100},
		{Time: at(10), Who: "server", What: Handler, ID: 7, Local: server, Remote: b},
		{Time: at(11), Who: "server", What: Write, ID: 7, Local: server, Remote: b, Bytes: 119},
		{Time: at(13), Who: "client", What: Result, ID: 7, Local: b, Remote: server, Status: 200, OK: true},
	})
	if len(truths) != 2 {
		t.Fatalf("%d truths, want 2", len(truths))
	}
	first, second := truths[0], truths[1]
	if !first.Lost || !first.Retried || first.ServerSaw || first.ReadError != "EOF" || first.Error != "" || first.Attempts != 2 ||
		first.ServerClosed == nil || *first.ServerClosed < 0.0019 || *first.ServerClosed > 0.0021 {
		t.Errorf("first attempt %+v", first)
	}
	if second.Lost || second.Retried || !second.ServerSaw || !second.Complete || second.Status != 200 || second.Attempt != 2 ||
		second.ServerRead != 100 || second.ServerWrote != 119 || second.ServerClosed != nil {
		t.Errorf("second attempt %+v", second)
	}
	var buf bytes.Buffer
	if err := WriteTruth(&buf, truths); err != nil {
		t.Fatal(err)
	}
	var back Truth
	if err := json.NewDecoder(&buf).Decode(&back); err != nil || back.Target != "/test?id=7" || !back.Lost {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestRequestID(t *testing.T) {
	for line, want := range map[string]int{
		"POST /test?id=17 HTTP/1.1\r\nHost: h\r\n":  17,
		"GET /provoke/read-rst?id=3 HTTP/1.1\r\n\r": 3,
		"GET /test HTTP/1.1\r\n":                    0,
		"GET /test?id= HTTP/1.1\r\n":                0,
		"HTTP/1.1 200 OK\r\nX: ?id=5":               0,
		"?id=5":                                     0,
		"":                                          0,
	} {
		if got := requestID([]byte(line)); got != want {
			t.Errorf("%q: id %d, want %d", line, got, want)
		}
	}
}
