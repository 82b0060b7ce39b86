package correlate

import (
	"bytes"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// maxHello bounds what is kept of a hello. Clients with post-quantum keys send
// some two kilobytes.
const maxHello = 16 << 10

// A hello is what a ClientHello or a ServerHello says (RFC 8446, section 4.1).
type hello struct {
	version    uint16 // chosen by the server; 0 while that is not known
	suite      uint16 // the same
	serverName string // of the client's
	protocol   string // chosen by the server, where it says so in clear (not in TLS 1.3)
	offers1    bool   // the client would speak HTTP/1.1
	offers2    bool   // the client would speak HTTP/2
	noTickets  bool   // the client has no use for session tickets (TLS 1.3)
	resumed    bool   // the server took up an earlier session (TLS 1.3)
	retry      bool   // a HelloRetryRequest: the real one follows
}

// The messages and extensions that are read (RFC 8446, sections 4 and 4.2).
const (
	messageClientHello = 1
	messageServerHello = 2

	extensionServerName        = 0
	extensionALPN              = 16
	extensionPreSharedKey      = 41
	extensionSupportedVersions = 43
	extensionExchangeModes     = 45 // psk_key_exchange_modes
)

// retryRandom is the random of a HelloRetryRequest (RFC 8446, section 4.1.3).
var retryRandom = []byte("\xCF\x21\xAD\x74\xE5\x9A\x61\x11\xBE\x1D\x8C\x02\x1E\x65\xB8\x91\xC2\xA2\x11\x16\x7A\xBB\x8C\x5E\x07\x9E\x09\xE2\xC8\xA8\x33\x9C")

// readHello reads the hello of direction d, once all of it is there.
func (c *conn) readHello(t *Tracker, d int) {
	th := &c.tls.half[d]
	if th.read {
		return
	}
	m := cryptobyte.String(th.message)
	var kind uint8
	var body cryptobyte.String
	if !m.ReadUint8(&kind) || !m.ReadUint24LengthPrefixed(&body) {
		return // more of it is to come
	}
	defer th.drop(t)
	if d == int(c.client) {
		th.read = true
		if kind == messageClientHello {
			c.tls.hello.readClient(body)
		}
		return
	}
	if kind == messageServerHello {
		h := hello{}
		h.readServer(body)
		if h.retry {
			return
		}
		c.tls.choice = h
		if h.protocol == "h2" {
			c.isHTTP2()
		}
		if h.version == version13 && c.tls.hello.offers2 && !c.tls.hello.offers1 {
			c.isHTTP2()
		}
	}
	th.read = true
}

func (h *hello) readClient(s cryptobyte.String) {
	var session, suites, compression, extensions cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16LengthPrefixed(&suites) ||
		!s.ReadUint8LengthPrefixed(&compression) || !s.ReadUint16LengthPrefixed(&extensions) {
		return
	}
	h.noTickets = true // without that extension none are sent (RFC 8446, section 4.2.9)
	eachExtension(extensions, func(kind uint16, data cryptobyte.String) {
		var list, name cryptobyte.String
		switch kind {
		case extensionExchangeModes:
			h.noTickets = false
		case extensionServerName:
			var form uint8
			if data.ReadUint16LengthPrefixed(&list) && list.ReadUint8(&form) && form == 0 && list.ReadUint16LengthPrefixed(&name) {
				h.serverName = string(name[:min(len(name), 255)])
			}
		case extensionALPN:
			for data.ReadUint16LengthPrefixed(&list); list.ReadUint8LengthPrefixed(&name); {
				h.offers1 = h.offers1 || string(name) == "http/1.1"
				h.offers2 = h.offers2 || string(name) == "h2"
			}
		}
	})
}

func (h *hello) readServer(s cryptobyte.String) {
	var random []byte
	var session, extensions cryptobyte.String
	if !s.ReadUint16(&h.version) || !s.ReadBytes(&random, 32) || !s.ReadUint8LengthPrefixed(&session) ||
		!s.ReadUint16(&h.suite) || !s.Skip(1) {
		h.version = 0
		return
	}
	h.retry = bytes.Equal(random, retryRandom)
	if !s.ReadUint16LengthPrefixed(&extensions) {
		return // has none
	}
	eachExtension(extensions, func(kind uint16, data cryptobyte.String) {
		var list, name cryptobyte.String
		switch kind {
		case extensionSupportedVersions:
			data.ReadUint16(&h.version)
		case extensionPreSharedKey:
			h.resumed = true
		case extensionALPN:
			if data.ReadUint16LengthPrefixed(&list) && list.ReadUint8LengthPrefixed(&name) {
				h.protocol = string(name[:min(len(name), 32)])
			}
		}
	})
}

func eachExtension(s cryptobyte.String, f func(kind uint16, data cryptobyte.String)) {
	var kind uint16
	var data cryptobyte.String
	for s.ReadUint16(&kind) && s.ReadUint16LengthPrefixed(&data) {
		f(kind, data)
	}
}

// versionName returns what people call a version of TLS; "" if it is not known.
func versionName(v uint16) string {
	switch {
	case v == 0:
		return ""
	case v == 0x0300:
		return "SSL 3.0"
	case v >= 0x0301 && v <= version13:
		return fmt.Sprintf("TLS 1.%d", v-0x0301)
	}
	return fmt.Sprintf("TLS %#04x", v)
}

const (
	alertWarning     = 1
	alertCloseNotify = 0
)

// alertNames are the descriptions of alerts in IANA's registry of TLS parameters.
var alertNames = map[uint8]string{
	10: "unexpected_message", 20: "bad_record_mac", 21: "decryption_failed", 22: "record_overflow", 30: "decompression_failure",
	40: "handshake_failure", 41: "no_certificate", 42: "bad_certificate", 43: "unsupported_certificate", 44: "certificate_revoked",
	45: "certificate_expired", 46: "certificate_unknown", 47: "illegal_parameter", 48: "unknown_ca", 49: "access_denied",
	50: "decode_error", 51: "decrypt_error", 52: "too_many_cids_requested", 60: "export_restriction", 70: "protocol_version", 71: "insufficient_security",
	80: "internal_error", 86: "inappropriate_fallback", 90: "user_canceled", 100: "no_renegotiation", 109: "missing_extension",
	110: "unsupported_extension", 111: "certificate_unobtainable", 112: "unrecognized_name", 113: "bad_certificate_status_response",
	114: "bad_certificate_hash_value", 115: "unknown_psk_identity", 116: "certificate_required", 120: "no_application_protocol",
}

func alertName(n uint8) string {
	if s, ok := alertNames[n]; ok {
		return fmt.Sprintf("%s (%d)", s, n)
	}
	return fmt.Sprintf("alert %d", n)
}
