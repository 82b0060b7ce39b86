package correlate

import (
	"testing"
)

// BenchmarkTracker measures Add on three shapes of traffic.
func BenchmarkTracker(b *testing.B) {
	perPacket := func(b *testing.B, run func(k *talk)) {
		b.ReportAllocs()
		w := newWire()
		tr := New(Config{Brief: true}, func(*Finding) {})
		k := newTalk(tr, w, 1)
		k.handshake()
		w.frames = 0
		for b.Loop() {
			run(k)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(w.frames), "ns/packet")
	}
	b.Run("small responses", func(b *testing.B) {
		perPacket(b, func(k *talk) { k.exchange(get, ok) })
	})
	large := body(1 << 20)
	b.Run("large responses", func(b *testing.B) {
		b.SetBytes(int64(len(large)))
		perPacket(b, func(k *talk) {
			k.send(cli, psh, get)
			for from := 0; from < len(large); from += 2896 {
				k.send(srv, psh, large[from:min(from+1448, len(large))])
				k.send(srv, psh, large[min(from+1448, len(large)):min(from+2896, len(large))])
				k.send(cli, ack, nil)
			}
		})
	})
	b.Run("short connections", func(b *testing.B) {
		n := 1
		perPacket(b, func(k *talk) {
			n++
			k.begin(n)
			k.handshake()
			k.exchange(get, ok)
			k.bye()
		})
	})
	// Neighbours in a capture are seldom of the same connection.
	b.Run("10000 connections in turn", func(b *testing.B) {
		b.ReportAllocs()
		w := newWire()
		tr := New(Config{Brief: true}, func(*Finding) {})
		talks := make([]*talk, 10000)
		for i := range talks {
			talks[i] = newTalk(tr, w, i+1)
			talks[i].handshake()
		}
		w.frames = 0
		step := 0
		for b.Loop() {
			switch i := step % len(talks); step / len(talks) % 3 {
			case 0:
				talks[i].send(cli, psh, get)
			case 1:
				talks[i].send(srv, psh, ok)
			case 2:
				talks[i].send(cli, ack, nil)
			}
			step++
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(w.frames), "ns/packet")
	})
}
