package correlate

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// frame sums up what a head says of the framing of its message.
func (h *head) frame() string {
	var words []string
	switch {
	case h.chunked:
		words = append(words, "chunked")
	case h.coded:
		words = append(words, "coded")
	}
	if h.length >= 0 {
		words = append(words, fmt.Sprint("length ", h.length))
	}
	if h.invalid {
		words = append(words, "invalid")
	}
	return strings.Join(words, " ")
}

func TestParseHeadFraming(t *testing.T) {
	for _, tt := range []struct{ fields, want string }{
		{"", ""},
		{"Content-Length: 0", "length 0"},
		{"Content-Length: 5", "length 5"},
		{"content-LENGTH:5", "length 5"},
		{"Content-Length: \t 5 \t", "length 5"},
		{"Content-Length: 007", "length 7"},
		{"Content-Length: 999999999999999999", "length 999999999999999999"},
		{"Content-Length: 1000000000000000000", "invalid"}, // more than 18 digits
		{"Content-Length: 18446744073709551616", "invalid"},
		{"Content-Length:", ""},
		{"Content-Length: -1", "invalid"},
		{"Content-Length: +1", "invalid"},
		{"Content-Length: 0x10", "invalid"},
		{"Content-Length: 1 2", "invalid"},
		{"Content-Length: 1.0", "invalid"},
		{"Content-Length : 5", "length 5"}, // wrong, by RFC 9112, section 5.1, and accepted by some
		{"Content-Length x: 5", ""},
		{"Content-Length\t", ""},
		{" Content-Length: 5", ""},
		{"Content-Length: 5\r\n 6", "length 5 invalid"}, // folded: not everybody agrees
		{"Transfer-Encoding: gzip,\r\n\tchunked", "coded invalid"},
		{"X-Other: 5\r\n 6\r\nContent-Length: 5", "length 5"},
		{"X-Content-Length: 5", ""},
		{"Content-Lengths: 5", ""},
		{"Content-Length: 5\r\nContent-Length: 5", "length 5"},
		{"Content-Length: 5\r\nContent-Length: 6", "length 5 invalid"},
		{"Content-Length: 5, 5", "length 5"},
		{"Content-Length: 5,5,5", "length 5"},
		{"Content-Length: 5, 6", "length 5 invalid"},
		{"Content-Length: 5, x", "length 5 invalid"},
		{"Content-Length: x, 5", "length 5 invalid"},
		{"Transfer-Encoding: chunked", "chunked"},
		{"transfer-encoding:Chunked", "chunked"},
		{"Transfer-Encoding: gzip, chunked", "chunked"},
		{"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "chunked"},
		{"Transfer-Encoding: gzip", "coded"},
		{"Transfer-Encoding: chunked, gzip", "coded"},
		{"Transfer-Encoding: chunkedx", "coded"},
		{"Transfer-Encoding: identity", "coded"},
		{"Transfer-Encoding: chunked\r\nContent-Length: 5", "chunked invalid"},
		{"Content-Length: 5\r\nTransfer-Encoding: chunked", "chunked invalid"},
		{"Content-Length: 5\r\nTransfer-Encoding: gzip", "coded invalid"},
		{"Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked", "chunked invalid"},
	} {
		for _, start := range []string{"POST /p HTTP/1.1", "HTTP/1.1 200 OK"} {
			text := start + "\r\n" + tt.fields + "\r\n\r\nbody"
			if tt.fields == "" {
				text = start + "\r\n\r\nbody"
			}
			var h head
			if n := parseHead([]byte(text), start[0] == 'P', &h); n != len(text)-len("body") {
				t.Errorf("%q: %d bytes, want %d", text, n, len(text)-len("body"))
			}
			if got := h.frame(); got != tt.want {
				t.Errorf("%q: %q, want %q", text, got, tt.want)
			}
		}
	}
}

func TestParseHeadPersistence(t *testing.T) {
	for _, tt := range []struct {
		version, fields string
		want            bool
	}{
		{"HTTP/1.1", "", true},
		{"HTTP/1.0", "", false},
		{"HTTP/1.0", "Connection: keep-alive", true},
		{"HTTP/1.0", "Connection: Keep-Alive", true},
		{"HTTP/1.0", "Connection: close", false},
		{"HTTP/1.0", "Connection: keep-alive, close", false},
		{"HTTP/1.0", "Keep-Alive: timeout=5", false},
		{"HTTP/1.1", "Connection: close", false},
		{"HTTP/1.1", "connection: CLOSE", false},
		{"HTTP/1.1", "Connection: keep-alive", true},
		{"HTTP/1.1", "Connection: upgrade, close", false},
		{"HTTP/1.1", "Connection: ,, close ,", false},
		{"HTTP/1.1", "Connection: te\r\nConnection: close", false},
		{"HTTP/1.1", "Connection: closed", true},
		{"HTTP/1.1", "Connection: not-close", true},
		{"HTTP/1.1", "Connection: X-Close", true},
		{"HTTP/1.1", "Proxy-Connection: close", true},
		{"HTTP/1.2", "", true},
	} {
		fields := tt.fields
		if fields != "" {
			fields += "\r\n"
		}
		for request, start := range map[bool]string{true: "GET / " + tt.version, false: tt.version + " 200 OK"} {
			var h head
			if parseHead([]byte(start+"\r\n"+fields+"\r\n"), request, &h) == 0 || !h.http1 {
				t.Errorf("%s, %q is not a head", start, tt.fields)
			}
			if got := h.persistent(); got != tt.want {
				t.Errorf("%s, %q: persistent %v, want %v", start, tt.fields, got, tt.want)
			}
		}
	}
}

func TestParseHeadFields(t *testing.T) {
	var h head
	text := "POST http://h/x y?z HTTP/1.1\nHOST:  example.com:80 \t\nServer: not of a request\n" +
		"Expect: 100-Continue\nConnection: Upgrade, keep-alive\nKeep-Alive: timeout=7, max=100\n\n"
	if n := parseHead([]byte(text), true, &h); n != len(text) {
		t.Fatalf("%d bytes of %d", n, len(text))
	}
	if string(h.method) != "POST" || string(h.target) != "http://h/x y?z" || string(h.host) != "example.com:80" || len(h.server) > 0 || h.minor != 1 {
		t.Errorf("method %q, target %q, host %q, server %q, minor %d", h.method, h.target, h.host, h.server, h.minor)
	}
	if !h.expect || !h.upgrade || !h.keepAlive || h.close || h.timeout != 7*time.Second {
		t.Errorf("expect %v, upgrade %v, keep-alive %v, close %v, timeout %v", h.expect, h.upgrade, h.keepAlive, h.close, h.timeout)
	}

	text = "HTTP/1.0 404 Not Found\r\nServer: nginx/1.25 (x)\r\nHost: not of a response\r\n\r\n"
	if n := parseHead([]byte(text), false, &h); n != len(text) {
		t.Fatalf("%d bytes of %d", n, len(text))
	}
	if h.status != 404 || h.minor != 0 || string(h.server) != "nginx/1.25 (x)" || len(h.host) > 0 || h.expect || h.timeout != 0 || h.length != -1 {
		t.Errorf("status %d, minor %d, server %q, host %q; left over: %+v", h.status, h.minor, h.server, h.host, h)
	}
}

// A folded line continues the field before it (RFC 9112, section 5.2) and is none
// of its own.
func TestParseHeadObsFold(t *testing.T) {
	var h head
	text := "GET / HTTP/1.1\r\nX-Long: one\r\n Content-Length: 5\r\n\tConnection: close\r\nHost: h\r\n\r\n"
	if n := parseHead([]byte(text), true, &h); n != len(text) {
		t.Fatalf("%d bytes of %d", n, len(text))
	}
	if h.length != -1 || h.close || string(h.host) != "h" {
		t.Errorf("length %d, close %v, host %q", h.length, h.close, h.host)
	}
}

// Where a head ends, whatever its line breaks.
func TestEndOfHead(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int
	}{
		{"", 0},
		{"\n", 0},
		{"\r\n", 0},
		{"GET / HTTP/1.1", 0},
		{"GET / HTTP/1.1\r\n", 0},
		{"GET / HTTP/1.1\r\n\r", 0},
		{"GET / HTTP/1.1\r\n\r\n", 18},
		{"GET / HTTP/1.1\r\n\r\nbody\r\n\r\n", 18},
		{"GET / HTTP/1.1\n\n", 16},
		{"GET / HTTP/1.1\n\r\n", 17},
		{"GET / HTTP/1.1\r\n\n", 17},
		{"GET / HTTP/1.1\r\nA: b\r\n", 0},
		{"GET / HTTP/1.1\r\nA: b\r\n\r\n", 24},
		{"GET / HTTP/1.1\r\nA: b\n\nmore", 22},
		{"GET / HTTP/1.1\r\n\r\r\n", 0}, // that line is not empty
		{"GET / HTTP/1.1\r\n \r\n", 0},
		{"GET / HTTP/1.1\r\rA: b\r\r", 0},
	} {
		if got := endOfHead([]byte(tt.text)); got != tt.want {
			t.Errorf("endOfHead(%q) is %d, want %d", tt.text, got, tt.want)
		}
		var h head
		if got := parseHead([]byte(tt.text), true, &h); got != tt.want {
			t.Errorf("parseHead(%q) is %d, want %d", tt.text, got, tt.want)
		}
	}
}

// What was captured of a head is read even if its end was not.
func TestParseCutHead(t *testing.T) {
	var h head
	if n := parseHead([]byte("GET /path HTTP/1.1\r\nHost: h\r\nUser-Ag"), true, &h); n != 0 || string(h.target) != "/path" || string(h.host) != "h" {
		t.Errorf("%d bytes, target %q, host %q", n, h.target, h.host)
	}
	if n := parseHead([]byte("GET /pa"), true, &h); n != 0 || string(h.method) != "GET" || string(h.target) != "/pa" || h.http1 {
		t.Errorf("%d bytes, method %q, target %q, HTTP/1 %v", n, h.method, h.target, h.http1)
	}
	if n := parseHead([]byte("HTTP/1.1 503 Servi"), false, &h); n != 0 || h.status != 503 {
		t.Errorf("%d bytes, status %d", n, h.status)
	}
}

func TestLikeRequest(t *testing.T) {
	for _, tt := range []struct {
		text string
		cut  bool
		want likeness
	}{
		{"", false, maybe},
		{"G", false, maybe},
		{"GET", false, maybe},
		{"GET /", false, maybe},
		{"GET /", true, yes},
		{"GET http://h/", true, yes},
		{"GET x", true, no},
		{"OPTIONS *", true, yes},
		{"CONNECT h:443", true, yes},
		{"MADEUP /", true, no},
		{"MADEUP / HTTP/1.1\r\n", false, yes},
		{"GET / HTTP/1.1\r\n", false, yes},
		{"GET / HTTP/1.0\n", false, yes},
		{"GET / HTTP/1.1 \r\n", false, yes},
		{"GET /a b HTTP/1.1\r\n", false, yes},
		{"GET / HTTP/2.0\r\n", false, no},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, no},
		{"GET /\r\n", false, no}, // HTTP/0.9
		{"GET  HTTP/1.1\r\n", false, no},
		{"GET / HTTP/1.x\r\n", false, no},
		{" GET / HTTP/1.1\r\n", false, no},
		{"GE\x01 / HTTP/1.1\r\n", false, no},
		{"HTTP/1.1 200 OK\r\n", false, no},
		{"\x16\x03\x01\x02", false, no},
		{"SSH-2.0-OpenSSH_9\r\n", false, no},
		{strings.Repeat("A", 32), false, maybe},
		{strings.Repeat("A", 33), false, no},
		{"GET /\x00", false, no},
		{"GET /" + strings.Repeat("a", maxHead), false, no},
		{"GET /caf\xc3\xa9 HTTP/1.1\r\n", false, yes},
	} {
		if got := likeRequest([]byte(tt.text), tt.cut); got != tt.want {
			t.Errorf("likeRequest(%.40q, cut %v) is %d, want %d", tt.text, tt.cut, got, tt.want)
		}
	}
}

func TestLikeResponse(t *testing.T) {
	for text, want := range map[string]likeness{
		"": maybe, "H": maybe, "HTTP/1.": maybe, "HTTP/1.1 20": maybe, "HTTP/1.1 200": yes, "HTTP/1.0 404 Not Found\r\n": yes,
		"HTTP/2 200 OK": no, "HTTP/1.x 200": no, "HTTP/1.1 20x": no, "HTTP/1.1 020": no, "HTTP/1.1  200": no,
		"http/1.1 200": no, "ICY 200 OK": no, "X": no,
	} {
		if got := likeResponse([]byte(text)); got != want {
			t.Errorf("likeResponse(%q) is %d, want %d", text, got, want)
		}
	}
}

func TestParseChunkSize(t *testing.T) {
	for _, tt := range []struct {
		line string
		want int64 // -1 if it is none
	}{
		{"0", 0}, {"5", 5}, {"a", 10}, {"F", 15}, {"fF", 255}, {"0010", 16}, {"1000000", 1 << 24},
		{"5;x", 5}, {"5 ; x=y", 5}, {"5;", 5}, {" 5\t", 5}, {"5;x=\"a;b\"", 5},
		{"ffffffffffffff", 1<<56 - 1}, {"ffffffffffffffff", -1}, {"0000000000000000000005", 5},
		{"", -1}, {";x", -1}, {" ", -1}, {"g", -1}, {"0x5", -1}, {"-1", -1}, {"+1", -1}, {"1 2", -1}, {"5\r", -1}, {"@", -1}, {"`", -1},
	} {
		n, ok := parseChunkSize([]byte(tt.line))
		if !ok {
			n = -1
		}
		if n != tt.want {
			t.Errorf("parseChunkSize(%q) is %d, want %d", tt.line, n, tt.want)
		}
	}
}

func TestKeepAliveTimeout(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"timeout=5": 5 * time.Second, "timeout=5, max=100": 5 * time.Second, "max=100,timeout=15": 15 * time.Second,
		"Timeout = 5": 5 * time.Second, "TIMEOUT=5": 5 * time.Second, "timeout=0": 0, "timeout": 0, "timeout=": 0, "timeout=x": 0,
		"timeout=-5": 0, "timeout=5.5": 0, "timeout=\"5\"": 0, "xtimeout=5": 0, "max=100": 0, "": 0, "timeout=99999999999999999": 0,
	} {
		if got := keepAliveTimeout([]byte(value)); got != want {
			t.Errorf("keepAliveTimeout(%q) is %v, want %v", value, got, want)
		}
	}
}
