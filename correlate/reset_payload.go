package correlate

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// resetCauses are the TCP failure causes of draft-ietf-tcpm-rst-diagnostic-payload,
// by number; 0 is reserved.
var resetCauses = [...]string{
	1:  "illegal option length",
	2:  "desynchronized state",
	3:  "new data received after CLOSE was called",
	4:  "ABORT process",
	5:  "unexpected ACK on a connection that is not synchronized",
	6:  "unexpected SYN in the window",
	7:  "unexpected security compartment",
	8:  "malformed message",
	9:  "not authorized",
	10: "resource exceeded",
	11: "network failure",
	12: "reset received from the peer",
	13: "destination unreachable",
	14: "connection timeout",
	15: "too much outstanding data",
	16: "unacceptable performance",
	17: "middlebox interference",
}

// describePayload says what a RST's payload of n bytes, of which b were kept,
// means: a reason code of that draft, or text as RFC 9293, section 3.5.3, has it in
// mind, or only bytes.
func describePayload(b []byte, n int) string {
	if n == 8 && len(b) == 8 && b[0] == 0x33 && b[1] == 0xaa {
		code, pen := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[4:])
		switch {
		case pen != 0:
			return fmt.Sprintf("reason %d of enterprise %d", code, pen)
		case int(code) < len(resetCauses) && resetCauses[code] != "":
			return fmt.Sprintf("reason %d, %s", code, resetCauses[code])
		}
		return fmt.Sprintf("reason %d, which has no name", code)
	}
	if len(b) == 0 {
		return "not captured"
	}
	more := ""
	if n > len(b) {
		more = fmt.Sprintf(" and %d bytes more", n-len(b))
	}
	if text := strings.TrimRight(string(b), "\x00\r\n"); text != "" && strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) < 0 {
		return fmt.Sprintf("%q%s", text, more)
	}
	b = b[:min(len(b), 16)]
	if n > len(b) {
		more = fmt.Sprintf(" and %d bytes more", n-len(b))
	}
	return fmt.Sprintf("% x%s", b, more)
}

// notePayload tells what the RSTs of the connection carried. RFC 9293, section
// 3.5.3, allows it, so it is no sign of a forgery.
func (f *facts) notePayload(x *ruling) {
	for i, p := range []Party{Client, Server} {
		if r := f.resets[i]; r != nil && r.length > 0 {
			x.note(r.frame, r.file, "the reset in the %s name (frame %d) carries %d bytes: %s", p.possessive(), r.frame, r.length, describePayload(r.kept(), r.length))
		}
	}
}

// kept returns what was captured of the payload, as far as it was kept.
func (r *resetTrace) kept() []byte { return r.payload[:min(r.captured, len(r.payload))] }
