package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"whyreset/capture"
)

// The flow language writes a capture as text: a line per segment, in the order
// in which the capture saw them.
//
//	at client rtt=100ms            # where the capture was made, and the path's delay
//	snaplen 96                     # bytes captured of each packet
//	conn 10.0.0.1:40000 10.0.0.2:80 isn=1000,5000   # the connection, if not this default
//	conn b 10.0.0.3:40001 10.0.0.2:80               # a second one, whose lines have b> and b<
//	conn c 10.0.0.4:40001 10.0.0.2:80 midstream     # one that began before the capture
//
//	0s     > HANDSHAKE             # three segments, timed as this vantage point sees them
//	+0s    > GET /a                # + counts from the line above
//	+100ms < 200 "ok"
//	5.100s > POST /b "body"
//	5.150s < FIN CROSS             # does not acknowledge /b, which had not arrived
//	5.150s > ACK
//	5.200s < RST-REPLY             # answers /b, the latest segment that had arrived
//
// A segment goes from > the client or < the server. Its words are flags (SYN,
// FIN, ACK, PSH, URG) and payload, both optional: METHOD TARGET ["body"] and
// STATUS ["body"] stand for messages with the right Content-Length; other bytes
// are "quoted as in Go", and len=N appends N of them. More bytes than fit a
// packet become several. Further words:
//
//	EXCHANGES n gap=50ms   n answered requests for /1, /2, ..., each that long
//	                       after the client had the response before
//	RST-ACTIVE   a socket was aborted: R+A, seq and ack as for any segment
//	RST-REPLY    no socket: R, no ack, window, options or IP ID; seq is the ack
//	             of the peer's latest segment that had arrived
//	RST-REFUSE   nobody listens: R+A, seq 0, ack of the SYN, no window or options
//	AGAIN        the sender's last segment that had payload, SYN or FIN, once more
//	LOST         captured, and lost on the rest of its way
//	UNSEEN       sent and received, but missed by the capture
//	seq= ack= win= ttl= ipid= snap= ts=no opts=no   override; seq and ack are
//	             relative, 1 being the first byte; snap counts payload bytes
//
// What a segment acknowledges is filled in with what had arrived at its sender,
// and that is where such a language lies: a race written without care is not one.
// So the renderer knows the delay of the path and where the capture sits on it,
// and refuses a line that would acknowledge something above it that cannot have
// arrived yet. CROSS says that the segment is meant to cross it, and then only
// what had arrived is acknowledged; ack= says anything.
type flow struct {
	at    string // client, server, middle, local
	rtt   time.Duration
	snap  int
	conns map[string]*flowConn
	now   time.Duration
	line  int
	segs  []capture.Segment

	facts    []flowFact // see flow_kernel_test.go
	complete bool       // and none was missed
}

// flowEpoch is the time of 0s.
var flowEpoch = capture.Time(time.Date(2026, 11, 2, 14, 2, 5, 0, time.UTC).UnixNano())

// flowMaxPayload is the most that a rendered packet carries.
const flowMaxPayload = 32000

type flowConn struct {
	ends      [2]flowEnd // the client, the server
	midstream bool
}

// A flowEnd is one end of a connection. Sequence numbers are relative.
type flowEnd struct {
	addr capture.Endpoint
	isn  uint32
	nxt  uint32 // next to send
	ipid uint16
	sent []flowSent
}

type flowSent struct {
	at       time.Duration
	seq, end uint32
	ack      uint32
	lost     bool
	flags    capture.Flags
	payload  []byte
}

// parseFlow renders the text of a flow.
func parseFlow(text string) ([]capture.Segment, error) {
	f, err := parseWholeFlow(text)
	if err != nil {
		return nil, err
	}
	return f.segs, nil
}

func parseWholeFlow(text string) (*flow, error) {
	f := &flow{at: "local", conns: map[string]*flowConn{}}
	if err := f.addConn([]string{"10.0.0.1:40000", "10.0.0.2:80"}); err != nil {
		return nil, err
	}
	for i, line := range strings.Split(text, "\n") {
		f.line = i + 1
		words, err := flowWords(line)
		if err == nil && len(words) > 0 {
			err = f.addLine(words)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w: %s", f.line, err, strings.TrimSpace(line))
		}
	}
	for i := range f.segs {
		f.segs[i].Frame = uint64(i + 1)
	}
	return f, nil
}

// flowWords splits a line into words. A quoted string is a word that keeps its
// opening quote and is unquoted otherwise.
func flowWords(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t")
		switch {
		case line == "" || line[0] == '#':
			return words, nil
		case line[0] == '"':
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("bad string")
			}
			s, err := strconv.Unquote(q)
			if err != nil {
				return nil, fmt.Errorf("bad string %s", q)
			}
			words, line = append(words, `"`+s), line[len(q):]
		default:
			n := strings.IndexAny(line, " \t")
			if n < 0 {
				n = len(line)
			}
			words, line = append(words, line[:n]), line[n:]
		}
	}
}

func (f *flow) addLine(words []string) error {
	switch words[0] {
	case "at":
		if len(words) != 3 || !slices.Contains([]string{"client", "server", "middle", "local"}, words[1]) {
			return fmt.Errorf("want: at client|server|middle|local rtt=DURATION")
		}
		f.at = words[1]
		var err error
		f.rtt, err = time.ParseDuration(strings.TrimPrefix(words[2], "rtt="))
		return err
	case "snaplen":
		var err error
		f.snap, err = strconv.Atoi(words[1])
		return err
	case "conn":
		return f.addConn(words[1:])
	case "facts":
		f.complete = true
		return nil
	}
	d, err := time.ParseDuration(strings.TrimPrefix(words[0], "+"))
	if err != nil {
		return err
	}
	if words[0][0] == '+' {
		d += f.now
	}
	if d < f.now {
		return fmt.Errorf("time runs backwards")
	}
	f.now = d
	if len(words) < 2 {
		return fmt.Errorf("no direction")
	}
	if words[1] == "KERNEL" {
		return f.addFact(words[2:])
	}
	name, from := words[1][:len(words[1])-1], strings.IndexByte("><", words[1][len(words[1])-1])
	c := f.conns[name]
	if c == nil || from < 0 {
		return fmt.Errorf("no such connection or direction %q", words[1])
	}
	switch {
	case len(words) > 2 && words[2] == "HANDSHAKE":
		return f.addHandshake(c)
	case len(words) > 2 && words[2] == "EXCHANGES":
		return f.addExchanges(c, words[3:])
	}
	return f.addSegment(c, from, words[2:])
}

func (f *flow) addConn(words []string) error {
	name := ""
	if len(words) > 0 && !strings.Contains(words[0], ":") {
		name, words = words[0], words[1:]
	}
	if len(words) < 2 {
		return fmt.Errorf("want: conn [NAME] CLIENT SERVER [isn=C,S] [midstream]")
	}
	c := &flowConn{}
	for i := range c.ends {
		ap, err := netip.ParseAddrPort(words[i])
		if err != nil {
			return err
		}
		c.ends[i] = flowEnd{addr: capture.EndpointFrom(ap), isn: []uint32{1000, 5000}[i], ipid: []uint16{100, 700}[i]}
	}
	for _, w := range words[2:] {
		if w == "midstream" {
			c.midstream = true
			c.ends[0].nxt, c.ends[1].nxt = 1, 1
		} else if _, err := fmt.Sscanf(w, "isn=%d,%d", &c.ends[0].isn, &c.ends[1].isn); err != nil {
			return fmt.Errorf("bad word %q", w)
		}
	}
	f.conns[name] = c
	return nil
}

// delays returns how long a packet is on its way from the capture to the client
// and back, and from the capture to the server and back.
func (f *flow) delays() [2]time.Duration {
	switch f.at {
	case "client":
		return [2]time.Duration{0, f.rtt}
	case "server":
		return [2]time.Duration{f.rtt, 0}
	case "middle":
		return [2]time.Duration{f.rtt / 2, f.rtt / 2}
	}
	return [2]time.Duration{}
}

func (f *flow) addHandshake(c *flowConn) error {
	d := f.delays()
	if err := f.addSegment(c, 0, []string{"SYN"}); err != nil {
		return err
	}
	f.now += d[1]
	if err := f.addSegment(c, 1, []string{"SYN"}); err != nil {
		return err
	}
	f.now += d[0]
	return f.addSegment(c, 0, []string{"ACK"})
}

func (f *flow) addExchanges(c *flowConn, words []string) error {
	if len(words) != 2 {
		return fmt.Errorf("want: EXCHANGES N gap=DURATION")
	}
	n, err := strconv.Atoi(words[0])
	if err != nil {
		return err
	}
	gap, err := time.ParseDuration(strings.TrimPrefix(words[1], "gap="))
	if err != nil {
		return err
	}
	d := f.delays()
	for i := range n {
		if i > 0 {
			f.now += d[0] + gap
		}
		if err := f.addSegment(c, 0, []string{"GET", "/" + strconv.Itoa(i+1)}); err != nil {
			return err
		}
		f.now += d[1]
		if err := f.addSegment(c, 1, []string{"200", `"ok`}); err != nil {
			return err
		}
	}
	return nil
}

// arrived returns the next byte that the given end expects: what it has of the
// other's segments without a hole. With everything set, segments count that are
// still on their way.
func (f *flow) arrived(c *flowConn, end int, everything bool) uint32 {
	var next uint32
	if c.midstream {
		next = 1
	}
	d := f.delays()[end]
	for again := true; again; {
		again = false
		for _, s := range c.ends[1-end].sent {
			if !s.lost && (everything || s.at+d <= f.now) && s.seq <= next && s.end > next {
				next, again = s.end, true
			}
		}
	}
	return next
}

// addSegment adds the segment that words describe.
func (f *flow) addSegment(c *flowConn, from int, words []string) error {
	end, peer := &c.ends[from], &c.ends[1-from]
	w, err := parseSegment(words)
	if err != nil {
		return err
	}
	if w.again {
		i := len(end.sent) - 1
		for i >= 0 && end.sent[i].end == end.sent[i].seq {
			i--
		}
		if i < 0 {
			return fmt.Errorf("nothing to send again")
		}
		w.flags, w.payload, w.seq = end.sent[i].flags, end.sent[i].payload, new(end.sent[i].seq)
	}
	s := capture.Segment{
		Time: flowEpoch.Add(f.now), Src: end.addr, Dst: peer.addr,
		TTL: f.ttl(from), Window: 502, WScale: -1, HasTS: true, HasOpts: true,
	}
	seq, ack := end.nxt, f.arrived(c, from, false)
	all := f.arrived(c, from, true)
	flags := w.flags
	switch w.reset {
	case "RST-REPLY":
		flags, ack, s.Window, s.HasTS, s.HasOpts = capture.RST, 0, 0, false, false
		provoked := f.latest(c, from)
		if provoked == nil && w.seq == nil {
			return fmt.Errorf("no segment has arrived that this could answer")
		}
		if provoked != nil {
			seq = provoked.ack
		}
	case "RST-REFUSE":
		flags, seq, s.Window, s.HasTS, s.HasOpts = capture.RST|capture.ACK, -end.isn, 0, false, false
	case "RST-ACTIVE":
		flags = capture.RST | capture.ACK
	default:
		if !w.flags.Has(capture.SYN) || all > 0 {
			flags |= capture.ACK
		}
		if len(w.payload) > 0 {
			flags |= capture.PSH
		}
	}
	if flags.Has(capture.SYN) {
		s.WScale, s.Window = 7, 64240
	}
	if flags.Has(capture.ACK) && w.ack == nil && w.reset != "RST-REFUSE" {
		if crosses := all > ack; crosses && !w.cross {
			return fmt.Errorf("would acknowledge up to %d, but only %d can have arrived: say CROSS or ack=", all, ack)
		} else if !crosses && w.cross {
			return fmt.Errorf("nothing is on its way that it could cross")
		}
	}
	if w.seq != nil {
		seq = *w.seq
	}
	if w.ack != nil {
		ack = *w.ack
	}
	s.Window, s.TTL = override(s.Window, w.win), override(s.TTL, w.ttl)
	if w.noTS || w.noOpts {
		s.HasTS = false
		s.HasOpts = !w.noOpts && flags.Has(capture.SYN)
	}
	for rest := w.payload; ; {
		p := rest[:min(len(rest), flowMaxPayload)]
		rest = rest[len(p):]
		s.Seq, s.Len, s.Payload = end.isn+seq, len(p), p
		s.Flags = flags
		if len(rest) > 0 {
			s.Flags &^= capture.FIN | capture.PSH
		}
		s.Ack = 0
		if flags.Has(capture.ACK) {
			s.Ack = peer.isn + ack
		}
		if s.IPID = 0; w.reset == "" || w.reset == "RST-ACTIVE" {
			end.ipid++
			s.IPID = end.ipid
		}
		s.IPID = override(s.IPID, w.ipid)
		if s.Src.AddrPort().Addr().Is6() {
			s.IPID = 0
		}
		f.cut(&s, w.snap)
		next := seq + uint32(len(p))
		for _, b := range []capture.Flags{capture.SYN, capture.FIN} {
			if s.Flags.Has(b) {
				next++
			}
		}
		if !flags.Has(capture.RST) {
			end.nxt = max(end.nxt, next)
			end.sent = append(end.sent, flowSent{f.now, seq, next, ack, w.lost, w.flags, p})
		}
		if !w.unseen {
			f.segs = append(f.segs, s)
		}
		if seq = next; len(rest) == 0 {
			return nil
		}
	}
}

// latest returns the latest segment of the other end that has arrived at this one.
func (f *flow) latest(c *flowConn, end int) *flowSent {
	sent := c.ends[1-end].sent
	for i := len(sent) - 1; i >= 0; i-- {
		if !sent[i].lost && sent[i].at+f.delays()[end] <= f.now {
			return &sent[i]
		}
	}
	return nil
}

// ttl returns the time to live that a segment of the given end has left.
func (f *flow) ttl(from int) uint8 {
	switch {
	case f.at == "middle":
		return 60
	case f.at == "client" && from == 1, f.at == "server" && from == 0:
		return 57
	}
	return 64
}

// cut applies the snap length of the capture, or the segment's own.
func (f *flow) cut(s *capture.Segment, own *int) {
	if f.snap > 0 {
		s.Payload = s.Payload[:min(len(s.Payload), max(0, f.snap-len(renderFrame(s))+s.Len))]
	}
	if own != nil {
		s.Payload = s.Payload[:min(len(s.Payload), *own)]
	}
}

func override[T any](v T, p *T) T {
	if p != nil {
		return *p
	}
	return v
}

// A flowSegment is what the words of a segment's line say.
type flowSegment struct {
	flags                      capture.Flags
	reset                      string
	payload                    []byte
	cross, lost, unseen, again bool
	noTS, noOpts               bool
	seq, ack                   *uint32
	win, ipid                  *uint16
	ttl                        *uint8
	snap                       *int
}

func parseSegment(words []string) (w flowSegment, err error) {
	for i := 0; i < len(words) && err == nil; i++ {
		word := words[i]
		// body takes the quoted string that follows, if there is one.
		body := func() (string, bool) {
			if i+1 < len(words) && words[i+1][0] == '"' {
				i++
				return words[i][1:], true
			}
			return "", false
		}
		key, value, isPair := strings.Cut(word, "=")
		switch {
		case word[0] == '"':
			w.payload = append(w.payload, word[1:]...)
		case slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "DELETE"}, word):
			if i++; i == len(words) {
				return w, fmt.Errorf("%s without a target", word)
			}
			head := word + " " + words[i] + " HTTP/1.1\r\nHost: h\r\n"
			if b, ok := body(); ok {
				head += "Content-Length: " + strconv.Itoa(len(b)) + "\r\n\r\n" + b
			} else {
				head += "\r\n"
			}
			w.payload = append(w.payload, head...)
		case len(word) == 3 && word[0] >= '1' && word[0] <= '5':
			b, _ := body()
			w.payload = fmt.Appendf(w.payload, "HTTP/1.1 %s Status\r\nContent-Length: %d\r\n\r\n%s", word, len(b), b)
		case tlsWords[key] != nil:
			var b []byte
			b, err = tlsWords[key](value)
			w.payload = append(w.payload, b...)
		case isPair:
			err = w.set(key, value)
		default:
			err = w.setWord(word)
		}
	}
	return w, err
}

func (w *flowSegment) setWord(word string) error {
	switch word {
	case "SYN":
		w.flags |= capture.SYN
	case "FIN":
		w.flags |= capture.FIN
	case "ACK":
		w.flags |= capture.ACK
	case "PSH":
		w.flags |= capture.PSH
	case "URG":
		w.flags |= capture.URG
	case "RST-ACTIVE", "RST-REPLY", "RST-REFUSE":
		w.reset = word
	case "CROSS":
		w.cross = true
	case "LOST":
		w.lost = true
	case "UNSEEN":
		w.unseen = true
	case "AGAIN":
		w.again = true
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}

func (w *flowSegment) set(key, value string) error {
	if value == "no" && (key == "ts" || key == "opts") {
		w.noTS, w.noOpts = w.noTS || key == "ts", w.noOpts || key == "opts"
		return nil
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return err
	}
	switch key {
	case "len":
		w.payload = append(w.payload, strings.Repeat("x", int(n))...)
	case "seq":
		w.seq = new(uint32(n))
	case "ack":
		w.ack = new(uint32(n))
	case "win":
		w.win = new(uint16(n))
	case "ipid":
		w.ipid = new(uint16(n))
	case "ttl":
		w.ttl = new(uint8(n))
	case "snap":
		w.snap = new(int(n))
	default:
		return fmt.Errorf("unknown word %q", key)
	}
	return nil
}
