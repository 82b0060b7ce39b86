package main

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// The words of the flow language for TLS. Each appends one record to the payload
// of its segment; several may stand on a line.
//
//	CLIENT-HELLO=NAME[,PROTOCOL...][,once] names a server, offers protocols (ALPN);
//	                                       once: it has no use for session tickets
//	SERVER-HELLO=1.2|1.3[,PROTOCOL][,resumed]
//	ALERT=n       a fatal alert in clear, by its number
//	RECORD=t:n    a record of type t with n bytes of ciphertext
//	DATA=n        n bytes of application data under TLS 1.3
//	FINISHED      the Finished of TLS 1.3 with a cipher of SHA-256
//	NOTIFY        the close_notify of TLS 1.3
var tlsWords = map[string]func(value string) ([]byte, error){
	"CLIENT-HELLO": clientHello,
	"SERVER-HELLO": serverHello,
	"ALERT": func(v string) ([]byte, error) {
		n, err := strconv.ParseUint(v, 10, 8)
		return tlsRecord(21, []byte{2, byte(n)}), err
	},
	"RECORD": func(v string) ([]byte, error) {
		var kind, n int
		_, err := fmt.Sscanf(v, "%d:%d", &kind, &n)
		return tlsRecord(byte(kind), make([]byte, n)), err
	},
	"DATA": func(v string) ([]byte, error) {
		n, err := strconv.Atoi(v)
		return tlsRecord(23, make([]byte, n+1+16)), err
	},
	"FINISHED": func(string) ([]byte, error) { return tlsRecord(23, make([]byte, 4+32+1+16)), nil },
	"NOTIFY":   func(string) ([]byte, error) { return tlsRecord(23, make([]byte, 2+1+16)), nil },
}

func tlsRecord(kind byte, content []byte) []byte {
	var b []byte
	for first := true; first || len(content) > 0; first = false {
		n := min(len(content), 1<<14+256)
		b = append(b, kind, 3, 3, byte(n>>8), byte(n))
		b = append(b, content[:n]...)
		content = content[n:]
	}
	return b
}

func clientHello(v string) ([]byte, error) {
	name, offers, _ := strings.Cut(v, ",")
	return handshake(1, func(b *cryptobyte.Builder) {
		b.AddUint16(0x0303)
		b.AddBytes(make([]byte, 32))
		b.AddUint8LengthPrefixed(func(*cryptobyte.Builder) {})
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(0x1301) })
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(0) // server_name
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
					b.AddUint8(0)
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
				})
			})
			offered := strings.Split(offers, ",")
			if once := len(offered) - 1; offered[once] == "once" {
				offered = offered[:once]
			} else {
				b.AddUint16(45) // psk_key_exchange_modes
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
					b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(1) })
				})
			}
			if offers != "" {
				addALPN(b, offered...)
			}
		})
	})
}

func serverHello(v string) ([]byte, error) {
	words := strings.Split(v, ",")
	version, ok := map[string]uint16{"1.2": 0x0303, "1.3": 0x0304}[words[0]]
	if !ok {
		return nil, fmt.Errorf("no version of TLS: %q", words[0])
	}
	return handshake(2, func(b *cryptobyte.Builder) {
		b.AddUint16(0x0303)
		b.AddBytes(make([]byte, 32))
		b.AddUint8LengthPrefixed(func(*cryptobyte.Builder) {})
		b.AddUint16(0x1301)
		b.AddUint8(0)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			if version == 0x0304 {
				b.AddUint16(43) // supported_versions
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(version) })
			}
			for _, w := range words[1:] {
				if w == "resumed" {
					b.AddUint16(41) // pre_shared_key
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(0) })
				} else {
					addALPN(b, w)
				}
			}
		})
	})
}

func addALPN(b *cryptobyte.Builder, protocols ...string) {
	b.AddUint16(16)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, p := range protocols {
				b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(p)) })
			}
		})
	})
}

func handshake(kind byte, body func(*cryptobyte.Builder)) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint8(kind)
	b.AddUint24LengthPrefixed(body)
	m, err := b.Bytes()
	return tlsRecord(22, m), err
}
