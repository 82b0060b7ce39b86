package correlate

import (
	cryptotls "crypto/tls"
	"strings"
)

// What the lengths of records tell, which encryption does not hide.

// alertRecord is the length of a record of TLS 1.3 that holds an alert: two bytes,
// the type, and the cipher's tag.
func (x *tlsConn) alertRecord() int {
	if x.choice.suite == 0x1305 { // TLS_AES_128_CCM_8_SHA256
		return 2 + 1 + 8
	}
	return 2 + 1 + 16
}

// finishedRecord is the same of a Finished: a header, a hash, the type, the tag.
func (x *tlsConn) finishedRecord() int {
	n := 4 + 32 + 1 + 16
	if x.choice.suite == 0x1302 { // TLS_AES_256_GCM_SHA384
		n += 16
	}
	return n
}

// minHead is the length of the shortest head of a message: "HTTP/1.1 200" and two
// ends of lines, as some servers leave out the space behind it. The shortest request
// is a little longer.
const minHead = 16

// plain returns how many bytes of content a record of n bytes has at most, or 1: what is
// left without the nonce, the tag or the hash, and the least padding (RFC 5246,
// section 6.2.3; RFC 5288, section 3; RFC 7905, section 2; RFC 8446, section 5.2).
func (x *tlsConn) plain(n int) int {
	over := 16
	switch name := cryptotls.CipherSuiteName(x.choice.suite); {
	case x.choice.version == version13:
		over = x.alertRecord() - 2
	case strings.Contains(name, "_GCM_"):
		over = 24
	case strings.Contains(name, "_CBC_") && x.choice.version > 0x0301: // later ones tell the initialisation vector
		over = 16 + 20 + 1
		if strings.Contains(name, "_3DES_") {
			over = 8 + 20 + 1
		}
	}
	return max(1, n-over)
}

// tooShort reports whether what the server sent last is too short for a response.
func (x *tlsConn) tooShort() bool { return x.answer > 0 && x.answer < minHead }

// A scrap is a run of records that is too short for a request: an empty line behind
// the last one (RFC 9112, section 2.2), the rest of its content, the frames of
// another protocol, or the beginning of a request.
type scrap struct {
	n   int // records
	len int // how long they may be together
	off int64
	at  stamp
}

// makesRequest reports whether the client's record that begins behind a response is,
// with those that it sent since, long enough for a request.
func (x *tlsConn) makesRequest(th *tlsHalf) bool {
	s := &x.scrap
	if s.n == 0 {
		*s = scrap{off: th.off, at: th.at}
	}
	s.n++
	s.len += x.plain(th.length)
	return s.len >= minHead || th.torn
}
