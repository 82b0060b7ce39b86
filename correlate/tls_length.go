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

// jssePad is how many zeros Java's JSSE puts into each encrypted record of TLS 1.3
// (RFC 8446, section 5.4; zeros in sun.security.ssl.OutputRecord).
const jssePad = 16

// finished reports whether a record of n bytes of th's is as long as a Finished, padded
// or not, and notes which. Where that comes in one record with what goes before it,
// that is not known.
func (x *tlsConn) finished(th *tlsHalf, n int) bool {
	pad := n - x.finishedRecord()
	if pad != 0 && pad != jssePad {
		return false
	}
	th.pad, th.padKnown = pad, true
	return true
}

// alertLike reports whether the record at hand is as long as an alert, padded or not.
func (x *tlsConn) alertLike(th *tlsHalf) bool {
	n := th.length - x.alertRecord()
	return n == th.pad || n == jssePad && !th.padKnown
}

// canceled reports whether a close_notify is at hand that belongs to the record before:
// JSSE says user_canceled at once before it (RFC 8446, section 6.1).
func (x *tlsConn) canceled(th *tlsHalf) bool {
	return th.notify.seen() && th.at.time.Sub(th.notify.time) <= moment &&
		th.length == x.alertRecord()+jssePad && th.off == th.notify.off+int64(recordHeader+th.length)
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

// A scrap is a record of the client's behind a response that is too short for a
// request: the rest of the last one's content, an empty line behind it (RFC 9112,
// section 2.2), a frame of another protocol, or the one byte that clients of TLS 1.0
// send by itself, with the rest in the same segment.
type scrap struct {
	seen bool
	off  int64
	at   stamp
}

// goesOn takes in that the server sends data, and had what the client sent up to ack:
// if that was no request, they do not speak HTTP/1.
func (x *tlsConn) goesOn(ack int64) {
	x.foreign = x.foreign || x.scrap.seen && ack > x.scrap.off
}

// makesRequest reports whether the client's record that begins behind a response is
// long enough for a request, and notes it if not.
func (x *tlsConn) makesRequest(th *tlsHalf) bool {
	if x.plain(th.length-th.pad) >= minHead || th.torn {
		return true
	}
	if s := &x.scrap; !s.seen || s.at.frame != th.at.frame {
		*s = scrap{true, th.off, th.at}
	}
	return false
}
