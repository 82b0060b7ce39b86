package correlate

import (
	"bytes"
	"time"
)

// maxHead bounds the header section of one message. Servers refuse requests far
// below it; a longer one is not framed any further.
const maxHead = 256 << 10

// A head is what framing needs to know of a message's start line and header
// fields (RFC 9112). Its slices point into the bytes that were parsed.
type head struct {
	method, target, host []byte        // of a request
	server               []byte        // of a response
	who                  *who          // where fields go that name programs; nil, as a rule, if they do not matter
	upgradeTo            []byte        // of a response: the first protocol in its Upgrade field
	status               int           // of a response
	http1                bool          // the start line is one of HTTP/1
	minor                byte          // 1 in HTTP/1.1
	length               int64         // Content-Length; -1 if there is none
	chunked              bool          // the last transfer coding is chunked
	coded                bool          // there is a transfer coding, and it is not chunked at the end
	close                bool          // Connection: close
	keepAlive            bool          // Connection: keep-alive
	upgrade              bool          // Connection: upgrade
	expect               bool          // Expect: 100-continue
	timeout              time.Duration // Keep-Alive: timeout=
	invalid              bool          // the framing fields contradict one another: a proxy in between may have framed it differently
}

// persistent reports whether the connection may be used again after a message
// with this head (RFC 9112, section 9.3).
func (h *head) persistent() bool {
	if h.close {
		return false
	}
	return h.minor >= 1 || h.keepAlive
}

// isTChar marks the characters of a token (RFC 9110, section 5.6.2).
var isTChar = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// A likeness says whether bytes are the beginning of a message.
type likeness uint8

const (
	no    likeness = iota
	maybe          // nothing speaks against it yet
	yes
)

// likeRequest says whether b begins like a request line with an HTTP/1 version.
// cut means that b ends where the packet was cut off when it was captured.
func likeRequest(b []byte, cut bool) likeness {
	n := 0
	for n < len(b) && isTChar[b[n]] {
		n++
	}
	if n > 32 || (n < len(b) && (n == 0 || b[n] != ' ')) {
		return no
	}
	if n == len(b) {
		return maybe
	}
	rest := b[n+1:]
	end := bytes.IndexByte(rest, '\n')
	if end < 0 {
		for _, c := range rest[:min(len(rest), 64)] {
			if c < ' ' && c != '\r' {
				return no
			}
		}
		if len(rest) > maxHead {
			return no
		}
		if cut {
			return likeCutRequest(b[:n], rest)
		}
		return maybe
	}
	if versionAt(trimCR(rest[:end])) > 0 {
		return yes
	}
	return no
}

// likelyRequest reports whether the request line at the beginning of b has a
// method that is in use and a target of a usual form.
func likelyRequest(b []byte) bool {
	method, rest, _ := bytes.Cut(b, []byte(" "))
	return likeCutRequest(method, rest) == yes
}

// likeCutRequest judges a request line whose end was not captured: there only
// the method and the form of the target speak for HTTP.
func likeCutRequest(method, target []byte) likeness {
	switch string(method) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "REPORT", "MKCOL", "MOVE", "COPY", "LOCK", "UNLOCK", "PURGE":
		if len(target) > 0 && (target[0] == '/' || target[0] == '*' || bytes.HasPrefix(target, []byte("http"))) {
			return yes
		}
	case "CONNECT":
		return yes
	}
	return no
}

// likeResponse says whether b begins like a status line.
func likeResponse(b []byte) likeness {
	const version = "HTTP/1."
	n := min(len(b), len(version))
	if string(b[:n]) != version[:n] {
		return no
	}
	if len(b) < len("HTTP/1.1 200") {
		return maybe
	}
	if b[8] != ' ' || b[7] < '0' || b[7] > '9' || b[9] < '1' || b[9] > '9' || !isDigit(b[10]) || !isDigit(b[11]) {
		return no
	}
	return yes
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// endOfHead returns the length of the header section at the start of b, the
// empty line included; 0 if b does not hold its end. Bare line feeds are
// accepted, as RFC 9112, section 2.2 allows.
func endOfHead(b []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
}

// parseHead reads the header section at the start of b, of a request or of a
// response, and returns its length, the empty line included; 0 if its end is not
// in b, but then h still holds what was. Bare line feeds are accepted, as RFC
// 9112, section 2.2 allows. Only who is kept of what h was. It allocates nothing
// and reads b once.
func parseHead(b []byte, request bool, h *head) int {
	who := h.who
	*h = head{}
	h.length, h.who = -1, who
	pos := bytes.IndexByte(b, '\n') + 1
	if pos == 0 {
		h.startLine(b, request)
		return 0
	}
	h.startLine(trimCR(b[:pos-1]), request)
	framing := false // the field before this line frames the message
	for {
		n := bytes.IndexByte(b[pos:], '\n')
		if n < 0 {
			return 0
		}
		line := trimCR(b[pos : pos+n])
		pos += n + 1
		if len(line) == 0 {
			break
		}
		switch {
		case line[0] == ' ' || line[0] == '\t':
			// A folded line (RFC 9112, section 5.2). Whether it belongs to a field
			// that frames the message is a matter of opinion between programs.
			h.invalid = h.invalid || framing
		case len(line) >= 4:
			framing = h.field(line, request)
		}
	}
	if (h.chunked || h.coded) && h.length >= 0 {
		// RFC 9112, section 6.3: the coding wins, but not everybody agrees, and where
		// they do not, what follows is a request to one and content to another.
		h.length, h.invalid = -1, true
	}
	return pos
}

func trimCR(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1]
	}
	return line
}

func (h *head) startLine(line []byte, request bool) {
	if !request {
		if likeResponse(line) == yes {
			h.http1 = true
			h.minor = line[7] - '0'
			h.status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
		}
		return
	}
	i := 0
	for i < len(line) && isTChar[line[i]] {
		i++
	}
	if i == 0 || i > 32 || i == len(line) || line[i] != ' ' {
		return
	}
	h.method, h.target = line[:i], line[i+1:]
	if k := versionAt(h.target); k >= 0 {
		h.http1 = k > 0
		h.minor = h.target[k+8] - '0'
		h.target = h.target[:k]
	}
}

// versionAt returns where " HTTP/1." and a digit begin in a request line; -1 if
// they do not.
func versionAt(line []byte) int {
	const version = " HTTP/1."
	if k := len(line) - len(version) - 1; k >= 0 && string(line[k:k+len(version)]) == version && isDigit(line[k+len(version)]) {
		return k
	}
	k := bytes.LastIndex(line, []byte(version)) // something follows it
	if k >= 0 && k+len(version) < len(line) && isDigit(line[k+len(version)]) {
		return k
	}
	return -1
}

// field takes in one header field. Only a few names matter, and their first
// letters rule out most others before a name is compared. It reports whether the
// field frames the message.
func (h *head) field(line []byte, request bool) bool {
	switch line[0] | 0x20 {
	case 'h':
		if v, ok := field(line, "host"); ok && request {
			h.host = v
		}
	case 'e':
		if v, ok := field(line, "expect"); ok && equalFold(v, "100-continue") {
			h.expect = true
		}
	case 'k':
		if v, ok := field(line, "keep-alive"); ok {
			h.timeout = keepAliveTimeout(v)
		}
	case 's':
		if v, ok := field(line, "server"); ok && !request {
			h.server = v
		}
	case 'u', 'v', 'f', 'x':
		if h.who != nil {
			h.who.field(line)
		}
		if request {
			break
		}
		if v, ok := field(line, "upgrade"); ok {
			h.upgradeTo, _, _ = bytes.Cut(v, []byte(","))
		}
	case 't':
		if v, ok := field(line, "transfer-encoding"); ok {
			h.transferEncoding(v)
			return true
		}
	case 'c':
		if v, ok := field(line, "content-length"); ok {
			h.contentLength(v)
			return true
		} else if v, ok := field(line, "connection"); ok {
			h.connection(v)
		}
	}
	return false
}

// field returns the value of a header field line, without the white space around
// it, if its name is name (in lower case).
func field(line []byte, name string) ([]byte, bool) {
	if len(line) <= len(name) || !equalFold(line[:len(name)], name) {
		return nil, false
	}
	rest := line[len(name):]
	if rest[0] != ':' { // white space before the colon: wrong, and accepted by some
		if rest = trim(rest); len(rest) == 0 || rest[0] != ':' {
			return nil, false
		}
	}
	return trim(rest[1:]), true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold reports whether b is s, which is in lower case, whatever b's case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// eachToken calls f with every element of a comma-separated list.
func eachToken(v []byte, f func(tok []byte)) {
	for len(v) > 0 {
		i := bytes.IndexByte(v, ',')
		if i < 0 {
			f(trim(v))
			return
		}
		f(trim(v[:i]))
		v = v[i+1:]
	}
}

func (h *head) connection(v []byte) {
	eachToken(v, func(tok []byte) {
		switch {
		case equalFold(tok, "close"):
			h.close = true
		case equalFold(tok, "keep-alive"):
			h.keepAlive = true
		case equalFold(tok, "upgrade"):
			h.upgrade = true
		}
	})
}

func (h *head) transferEncoding(v []byte) {
	eachToken(v, func(tok []byte) {
		h.chunked = equalFold(tok, "chunked")
		h.coded = !h.chunked
	})
}

func (h *head) contentLength(v []byte) {
	eachToken(v, func(tok []byte) {
		n, ok := parseDecimal(tok)
		if !ok || (h.length >= 0 && h.length != n) {
			h.invalid = true
			return
		}
		h.length = n
	})
}

func parseDecimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// keepAliveTimeout reads the timeout parameter of a Keep-Alive field.
func keepAliveTimeout(v []byte) (d time.Duration) {
	eachToken(v, func(tok []byte) {
		name, value, ok := bytes.Cut(tok, []byte("="))
		if !ok || !equalFold(trim(name), "timeout") {
			return
		}
		if n, ok := parseDecimal(trim(value)); ok && n < 1<<20 {
			d = time.Duration(n) * time.Second
		}
	})
	return d
}
