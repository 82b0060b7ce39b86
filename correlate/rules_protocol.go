package correlate

import "bytes"

// Rules for ends that do not speak the same protocol.

// A mismatch is an answer in another protocol than the client's.
type mismatch struct {
	what  string // a clause about it; "" if it was none after all
	weak  bool   // something else may be the reason
	frame uint64
	file  int32
	text  []byte // of a 400 that may say so
}

// maxAnswer bounds what is read of a 400.
const maxAnswer = 512

// speaks are the protocols that a server was seen to speak, as a set.
type speaks uint8

const (
	speaksHTTP speaks = 1 << iota
	speaksTLS
)

func (c *conn) mismatched(at *stamp, what string) {
	c.mismatch = &mismatch{what: what, frame: at.frame, file: at.file}
}

// answeredInClear looks at the first bytes with which the server answered a
// ClientHello, and reports whether they tell what it speaks instead.
func (c *conn) answeredInClear(first []byte, at *stamp) bool {
	what, _ := spoken(first)
	if what == "" {
		return false
	}
	c.mismatched(at, "the client began TLS, and the server answered with "+what)
	c.pass()
	return true
}

// answeredOtherwise does the same for the answer to a request of HTTP/1. It
// reports whether more of the answer is needed to tell.
func (c *conn) answeredOtherwise(first []byte, at *stamp) bool {
	if c.requests == 0 {
		return false
	}
	what, more := spoken(first)
	if what != "" && what != "HTTP/1" {
		c.mismatched(at, "the client sent HTTP/1, and the server answered with "+what)
	}
	return more
}

// answeredPreface does the same for the answer to the preface of HTTP/2.
func (c *conn) answeredPreface(t *Tracker, d int, pc *piece) {
	h := &c.half[d]
	if d == int(c.client) || pc.off-int64(len(h.buf)) != 1 {
		h.state = passing
		return
	}
	if len(h.buf) == 0 {
		h.bufAt = pc.at
	}
	t.store(h, pc.payload[:min(len(pc.payload), maxAnswer)])
	what, more := spoken(h.buf)
	if more {
		return
	}
	h.state = passing
	if what != "" && what != "HTTP/2" {
		c.mismatched(&h.bufAt, "the client began HTTP/2, and the server answered with "+what)
	}
}

// greetings are how servers begin that are mistaken for ones of HTTP.
var greetings = []struct{ begin, name string }{
	{"HTTP/", "HTTP/1"},
	{"SSH-", "SSH"},
	{"220 ", "the greeting of SMTP or FTP"},
	{"220-", "the greeting of SMTP or FTP"},
	{"\x15\x03\x00\x00\x02", ""}, {"\x15\x03\x01\x00\x02", ""}, {"\x15\x03\x02\x00\x02", ""}, {"\x15\x03\x03\x00\x02", ""},
}

// spoken names the protocol that first, the first bytes of a server, belong to; ""
// if it is not one of those that servers are mistaken for. more says that further
// bytes may tell.
func spoken(first []byte) (what string, more bool) {
	for _, g := range greetings {
		n := min(len(g.begin), len(first))
		if string(first[:n]) != g.begin[:n] {
			continue
		}
		switch {
		case n < len(g.begin), g.name == "" && len(first) < recordHeader+2:
			return "", true
		case g.name == "":
			return "the TLS alert " + alertName(first[recordHeader+1]), false
		}
		return g.name, false
	}
	// The first frame of HTTP/2 is SETTINGS (RFC 9113, section 3.4).
	settings := []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}
	for i := range min(len(first), len(settings)) {
		if i != 2 && first[i] != settings[i] {
			return "", false
		}
	}
	if len(first) < len(settings) {
		return "", true
	}
	return "HTTP/2", false
}

// wantsTLS are what servers write to a client that sends HTTP to a port of TLS.
var wantsTLS = [][]byte{
	[]byte("HTTP request to an HTTPS server"),           // Go
	[]byte("plain HTTP request was sent to HTTPS"),      // nginx
	[]byte("speaking plain HTTP to an SSL-enabled"),     // Apache
	[]byte("combination of host and port requires TLS"), // Tomcat
}

// refused begins to look at a 400 to the first request of a connection.
func (c *conn) refused(at *stamp) {
	c.mismatch = &mismatch{frame: at.frame, file: at.file}
	if c.preface > 0 {
		c.mismatch.weak = true
		c.mismatch.what = "the client began with a header of the PROXY protocol, and the server's first response is 400"
	}
}

// watchAnswer looks for what a 400 says in the next n bytes of content.
func (c *conn) watchAnswer(d int, pc *piece, n int) {
	m := c.mismatch
	if m == nil || m.what != "" || d == int(c.client) || len(m.text) >= maxAnswer {
		return
	}
	m.text = append(m.text, pc.payload[:min(n, len(pc.payload), maxAnswer-len(m.text))]...)
	for _, w := range wantsTLS {
		if bytes.Contains(m.text, w) {
			m.what, m.text = "the server's response says that it expects TLS on this port", nil
			return
		}
	}
}

// wrongProtocol: the ends do not speak the same protocol on this port.
func wrongProtocol(f *facts) *ruling {
	lost := f.hasRequest && f.q.resp.status == 0
	if m := f.mismatch; m != nil {
		if f.hasRequest && f.q.number > 1 {
			return nil
		}
		x := &ruling{verdict: ProtocolMismatch, confidence: Proven, lost: lost, by: f.first, close: f.serverClose()}
		if m.weak {
			x.confidence = Weak
		}
		if lost {
			x.retry, x.refused = RetrySafe, true // it was not understood
		}
		x.note(m.frame, m.file, "%s (frame %d)", m.what, m.frame)
		return x
	}
	closed := f.K.seen() || f.serverReset()
	if !closed || f.first == Client || f.serverEnd > 1 || f.missing != 0 || f.clientUnseen() || f.serverTop() > f.serverEnd || f.serverUnseen() || f.clientEnd <= 1 {
		return nil
	}
	// The server closed without a word. What it speaks elsewhere tells why.
	var sent, instead string
	switch f.conn.Protocol {
	case http1.String():
		sent, instead = "HTTP/1 in clear", "TLS"
		if f.server.speaks != speaksTLS {
			return nil
		}
	case tls.String(), h2c.String():
		sent, instead = "TLS", "HTTP/1 in clear"
		if f.conn.Protocol == h2c.String() {
			sent = "HTTP/2"
		}
		if f.server.speaks != speaksHTTP {
			return nil
		}
	default:
		return nil
	}
	k := f.serverClose()
	x := &ruling{verdict: ProtocolMismatch, confidence: Strong, lost: lost, by: Server, close: k}
	if lost {
		x.retry = RetryAmbiguous
	}
	x.note(k.frame, k.file, "the client sent %s, the server closed without a byte (frame %d), and on its other connections it speaks %s", sent, k.frame, instead)
	return x
}
