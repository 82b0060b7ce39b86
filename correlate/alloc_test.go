package correlate

import (
	"bytes"
	"testing"
)

// Nothing is allocated per packet on a connection that is kept alive.
func TestSteadyPathAllocatesNothing(t *testing.T) {
	upload := append([]byte("PUT /big HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100000\r\n\r\n"), make([]byte, 100000)...)
	download := body(200000)
	var long bytes.Buffer // many chunks, in segments that cut their lines
	long.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	for range 200 {
		long.WriteString("3e8\r\n")
		long.Write(make([]byte, 1000))
		long.WriteString("\r\n")
	}
	long.WriteString("0\r\n\r\n")

	tests := []struct {
		name     string
		requests int // per run
		run      func(k *talk)
	}{
		{"content length", 1, func(k *talk) { k.exchange(get, ok) }},
		{"request with content", 1, func(k *talk) { k.exchange(post, ok) }},
		{"no content", 1, func(k *talk) { k.exchange(get, nothing) }},
		{"chunked both ways", 1, func(k *talk) { k.exchange(chunky, chunked) }},
		{"upload in many segments", 1, func(k *talk) {
			k.sendCut(cli, upload, 1448)
			k.send(srv, psh, ok)
		}},
		{"download in many segments", 1, func(k *talk) {
			k.send(cli, psh, get)
			for from := 0; from < len(download); from += 1448 {
				k.send(srv, psh, download[from:min(from+1448, len(download))])
				k.send(cli, ack, nil)
			}
		}},
		{"chunks cut anywhere", 1, func(k *talk) {
			k.send(cli, psh, get)
			k.sendCut(srv, long.Bytes(), 997)
		}},
		{"acknowledgements alone", 1, func(k *talk) {
			k.send(cli, psh, get)
			k.send(srv, ack, nil)
			k.send(srv, psh, ok)
			for range 4 {
				k.send(cli, ack, nil)
				k.send(srv, ack, nil)
			}
		}},
		{"pipelined pairs", 2, func(k *talk) {
			k.send(cli, psh, get)
			k.send(cli, psh, post)
			k.send(srv, psh, ok)
			k.send(srv, psh, chunked)
			k.send(cli, ack, nil)
		}},
		{"retransmissions", 1, func(k *talk) {
			k.send(cli, psh, get)
			seg := k.seg
			k.make(cli, psh, get)
			k.seg.Seq = seg.Seq
			k.add()
			k.send(srv, psh, ok)
			k.make(srv, psh, ok)
			k.seg.Seq -= uint32(len(ok))
			k.add()
		}},
		{"head in two segments", 1, func(k *talk) {
			k.send(cli, psh, get[:30])
			k.send(cli, psh, get[30:])
			k.send(srv, psh, ok[:20])
			k.send(srv, psh, ok[20:])
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := track(t, Config{})
			k := newTalk(tr, newWire(), 1)
			k.handshake()
			warm := 300 // beyond maxSamples, which are kept of idle times
			for range warm {
				tt.run(k)
			}
			const runs = 50
			n := testing.AllocsPerRun(runs, func() { tt.run(k) })
			framedWhole(t, tr, tt.requests*(warm+runs+1))
			if n != 0 {
				t.Errorf("%v allocations per run of %d packets", n, k.wire.frames/(warm+runs+1))
			}
		})
	}
}

// Connections are used again, and so is what they hold: one that ends with
// nothing lost allocates nothing.
func TestEndedConnectionsAllocateLittle(t *testing.T) {
	const most = 0
	tr := track(t, Config{Brief: true})
	k := newTalk(tr, newWire(), 1)
	n := 0
	run := func() {
		n++
		k.begin(n)
		k.handshake()
		k.exchange(get, ok)
		k.exchange(post, chunked)
		k.bye()
	}
	for range 2 * maxGone {
		run()
	}
	held := len(tr.all)
	perConn := testing.AllocsPerRun(2000, run)
	t.Logf("%v allocations per connection", perConn)
	if perConn > most {
		t.Errorf("%v allocations per connection, want at most %d", perConn, most)
	}
	if len(tr.all) > held+1 {
		t.Errorf("%d connections held, %d before", len(tr.all), held)
	}
	tr.Finish()
	if s := tr.Summary(); s.Connections != uint64(n) || s.Requests != uint64(2*n) || s.Lost != 0 || s.StillOpen != 0 {
		t.Errorf("summary %+v after %d connections", s, n)
	}
}
