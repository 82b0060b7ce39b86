package correlate

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
)

// A ClientHello for www.example.com with ALPN http/1.1, and a ServerHello of TLS
// 1.3 that resumes, as records.
var (
	aClientHello = aHello(1, "\x00\x02\x13\x01"+"\x01\x00", "\x00\x00\x00\x14\x00\x12\x00\x00\x0fwww.example.com"+"\x00\x10\x00\x0b\x00\x09\x08http/1.1")
	aServerHello = aHello(2, "\x13\x01"+"\x00", "\x00\x2b\x00\x02\x03\x04"+"\x00\x29\x00\x02\x00\x00")
)

// aHello returns the record of a hello whose session is empty.
func aHello(kind byte, suites, extensions string) []byte {
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + suites + string(rune(0)) + string(rune(len(extensions))) + extensions
	n := len(body)
	return append([]byte{22, 3, 1, 0, byte(n + 4), kind, 0, 0, byte(n)}, body...)
}

func aRecord(kind byte, n int) []byte {
	return append([]byte{kind, 3, 3, byte(n >> 8), byte(n)}, make([]byte, n)...)
}

func join(records ...[]byte) []byte { return bytes.Join(records, nil) }

// secure makes a connection and its handshake of TLS 1.3.
func secure(tr *Tracker, w *wire, n int) *talk {
	k := newTalk(tr, w, n)
	k.handshake()
	k.send(cli, psh, aClientHello)
	k.send(srv, psh, join(aServerHello, aRecord(20, 1), aRecord(23, 900), aRecord(23, 53)))
	k.send(cli, psh, join(aRecord(20, 1), aRecord(23, 53)))
	return k
}

// Records are followed at whatever places segments cut them.
func TestRecordsInPieces(t *testing.T) {
	for _, size := range []int{1, 2, 5, 7, 100, 1 << 15} {
		var found []*Finding
		tr := New(Config{}, func(f *Finding) { found = append(found, f) })
		k := newTalk(tr, newWire(), 1)
		k.handshake()
		k.sendCut(cli, aClientHello, size)
		k.sendCut(srv, join(aServerHello, aRecord(20, 1), aRecord(23, 900), aRecord(23, 53)), size)
		k.sendCut(cli, join(aRecord(20, 1), aRecord(23, 53), aRecord(23, 100)), size)
		k.sendCut(srv, join(aRecord(23, 400), aRecord(23, 300)), size)
		k.send(cli, ack, nil)
		k.wire.now = k.wire.now.Add(time.Second)
		k.sendCut(cli, aRecord(23, 120), size)
		k.send(srv, rst|ack, nil)
		tr.Finish()
		if len(found) != 1 || !found[0].Lost || found[0].Request.Number != 2 {
			t.Fatalf("segments of %d bytes: %s", size, describeAll(found))
		}
		if c := found[0].Connection; c.Requests != 2 || c.Responses != 1 || c.TLS.Version != "TLS 1.3" {
			t.Errorf("segments of %d bytes: %d requests, %d responses, %+v", size, c.Requests, c.Responses, c.TLS)
		}
	}
}

// Records that lie about their length, or that are none, accuse nobody.
func TestRecordsThatLie(t *testing.T) {
	long := aRecord(23, 100)
	long[3], long[4] = 0xff, 0xff
	promising := aRecord(23, 100)
	promising[3] = 0x40 // 16 KB that never come
	endless := append([]byte{22, 3, 3, 0x40, 0, 1, 0xff, 0xff, 0xff}, make([]byte, 16000)...)
	for name, bad := range map[string][]byte{
		"too long": long, "no record": []byte("GET / HTTP/1.1\r\n\r\n"), "type 0": aRecord(0, 10), "type 99": aRecord(99, 10),
		"empty": bytes.Repeat(aRecord(23, 0), 1000), "an endless handshake message": endless,
		"a version of its own": {23, 9, 9, 0, 5, 1, 2, 3, 4, 5},
	} {
		for _, d := range []int{cli, srv} {
			tr := New(Config{}, func(f *Finding) {
				if f.Verdict.Family() != "clean" && f.Verdict.Family() != "unknown" {
					t.Errorf("%s: %s: %+v", name, f.Verdict, f.Evidence)
				}
			})
			k := secure(tr, newWire(), 1)
			k.exchange(aRecord(23, 100), aRecord(23, 200))
			k.send(d, psh, bad)
			if d == cli {
				k.send(srv, psh, aRecord(23, 50))
			}
			k.bye()
			tr.Finish()
		}
	}
	// A record that was promised and cut short is no whole request.
	var found []*Finding
	tr := New(Config{}, func(f *Finding) { found = append(found, f) })
	k := secure(tr, newWire(), 1)
	k.send(cli, psh, promising)
	k.send(cli, fin, nil)
	k.send(srv, rst|ack, nil)
	tr.Finish()
	if len(found) != 1 || found[0].Verdict != ClientAbortMidUpload {
		t.Errorf("a cut record: %s", describeAll(found))
	}
}

// Hellos that never end do not fill the memory.
func TestHellosAreBounded(t *testing.T) {
	tr := track(t, Config{})
	w := newWire()
	half := append([]byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb}, make([]byte, 12000)...)
	for n := range 3000 {
		k := newTalk(tr, w, n+1)
		k.handshake()
		k.send(cli, psh, half)
		if tr.stored > maxStored+1<<15 {
			t.Fatalf("%d bytes are stored of %d hellos", tr.stored, n+1)
		}
	}
	tr.Finish()
	if tr.stored != 0 {
		t.Errorf("%d bytes are stored after the end", tr.stored)
	}
}

func TestHelloSays(t *testing.T) {
	tr := New(Config{}, ignore)
	k := secure(tr, newWire(), 1)
	k.exchange(aRecord(23, 100), aRecord(23, 200))
	c := tr.last
	if h := c.tls.hello; h.serverName != "www.example.com" || !h.offers1 || h.offers2 {
		t.Errorf("the client's hello is read as %+v", h)
	}
	if h := c.tls.choice; h.version != version13 || h.suite != 0x1301 || !h.resumed {
		t.Errorf("the server's hello is read as %+v", h)
	}
}

// FuzzRecords gives both ends bytes of the fuzzer's in place of records, behind a
// handshake or from the first byte on.
func FuzzRecords(f *testing.F) {
	f.Add(join(aRecord(23, 100), aRecord(23, 19)), join(aRecord(23, 200), aRecord(23, 19)), byte(40), true)
	f.Add(join(aRecord(20, 1), aRecord(23, 53), aRecord(23, 80)), join(aRecord(23, 250), aRecord(23, 250)), byte(255), true)
	f.Add(aClientHello, aServerHello, byte(3), false)
	f.Add(aClientHello, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), byte(1), false)
	f.Add(aClientHello, []byte{21, 3, 3, 0, 2, 2, 40}, byte(1), false)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), []byte{21, 3, 3, 0, 2, 2, 40}, byte(1), false)
	f.Fuzz(func(t *testing.T, client, server []byte, cut byte, established bool) {
		if len(client)+len(server) > 1<<15 {
			return
		}
		size := int(cut) + 1
		var segs []capture.Segment
		w := newWire()
		k := newTalk(New(Config{}, ignore), w, 1)
		say := func(d int, flags capture.Flags, b []byte) {
			segs = append(segs, *k.make(d, flags, bytes.Clone(b)))
			k.add()
		}
		say(cli, syn, nil)
		say(srv, syn|ack, nil)
		say(cli, ack, nil)
		if established {
			say(cli, psh, aClientHello)
			say(srv, psh, join(aServerHello, aRecord(20, 1), aRecord(23, 900), aRecord(23, 53)))
			say(cli, psh, join(aRecord(20, 1), aRecord(23, 53)))
		}
		for len(client)+len(server) > 0 {
			n := min(size, len(client))
			if n > 0 {
				say(cli, psh, client[:n])
			}
			client = client[n:]
			if n = min(size, len(server)); n > 0 {
				say(srv, psh, server[:n])
			}
			server = server[n:]
		}
		switch cut % 4 {
		case 0:
			say(srv, fin, nil)
		case 1:
			say(srv, rst|ack, nil)
		case 2:
			say(cli, fin, nil)
		}
		found, s := runFuzz(t, segs, Config{})
		checkSummary(t, found, s)
	})
}
