//go:build linux

package main

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// An op is one thing that a raw client does with its socket. The fields are
// acted upon in their order.
type op struct {
	Pause float64 `json:"pause,omitempty"` // seconds
	Send  string  `json:"send,omitempty"`
	// IDs of the requests that Send holds, or begins.
	IDs    []string `json:"ids,omitempty"`
	Read   float64  `json:"read,omitempty"`   // read for so long, or to the end of the stream
	Want   int      `json:"want,omitempty"`   // but hardly longer than to the so-manieth response since the connection began
	Half   bool     `json:"half,omitempty"`   // shut down the sending side
	Finish string   `json:"finish,omitempty"` // "fin" or "rst"
}

// speak does the ops on one connection, and logs what became of each request:
// the first response answers the first one, and so on.
func (s *script) speak(ops []op, log *eventLog) {
	type sent struct {
		id    string
		start time.Time
	}
	var requests []sent
	var got bytes.Buffer
	var came []time.Time // when each response did
	why := "not answered when the client ended"
	c, err := net.DialTimeout("tcp", s.Host, 5*time.Second)
	if err != nil {
		for _, o := range ops {
			for _, id := range o.IDs {
				log.add(event{Who: "client", Client: "raw", ID: id, Start: epoch(time.Now()), End: epoch(time.Now()), Error: err.Error()})
			}
		}
		return
	}
	defer c.Close()
	t := c.(*net.TCPConn)
	port := t.LocalAddr().(*net.TCPAddr).Port
	for _, o := range ops {
		sleep(o.Pause)
		for _, id := range o.IDs {
			requests = append(requests, sent{id, time.Now()})
		}
		if o.Send != "" {
			if _, err := io.WriteString(t, o.Send); err != nil {
				why = err.Error()
			}
		}
		if o.Half {
			t.CloseWrite()
		}
		if o.Read > 0 {
			t.SetReadDeadline(time.Now().Add(time.Duration(o.Read * 1e9)))
			more := false // the body may come after its header
			for {
				if !more && o.Want > 0 && responses(got.Bytes()) >= o.Want {
					more = true
					t.SetReadDeadline(time.Now().Add(60 * time.Millisecond))
				}
				b := make([]byte, 64<<10)
				n, err := t.Read(b)
				got.Write(b[:n])
				for len(came) < responses(got.Bytes()) {
					came = append(came, time.Now())
				}
				if err != nil {
					why = err.Error()
					break
				}
			}
		}
		switch o.Finish {
		case "fin":
			t.Close()
		case "rst":
			t.SetLinger(0)
			t.Close()
		}
	}
	statuses := statusesOf(got.Bytes())
	for i, q := range requests {
		e := event{Who: "client", Client: "raw", ID: q.id, Start: epoch(q.start), End: epoch(time.Now()), Ports: []int{port}}
		if i < len(statuses) {
			e.End = epoch(came[i])
			e.Status, e.OK, e.Bytes = statuses[i], i+1 < len(statuses) || whole(got.Bytes()), int64(got.Len())
			if !e.OK {
				e.Error = why
			}
		} else {
			e.Error = why
		}
		log.add(e)
	}
}

// statusesOf returns the status codes of the responses in a stream whose bodies
// never look like a status line. Interim responses are left out, but for 101.
func statusesOf(b []byte) []int {
	var all []int
	for {
		_, rest, ok := bytes.Cut(b, []byte("HTTP/1."))
		if !ok || len(rest) < 5 {
			return all
		}
		code := 0
		for _, d := range strings.TrimSpace(string(rest[2:5])) {
			code = code*10 + int(d-'0')
		}
		if code >= 200 || code == 101 {
			all = append(all, code)
		}
		b = rest
	}
}

// whole reports whether the last response of a stream has all of the content that its
// length promises.
func whole(b []byte) bool {
	b = b[bytes.LastIndex(b, []byte("HTTP/1.")):]
	head, body, ended := bytes.Cut(b, []byte("\r\n\r\n"))
	_, n, found := bytes.Cut(bytes.ToLower(head), []byte("content-length:"))
	line, _, _ := bytes.Cut(n, []byte("\r"))
	length, err := strconv.Atoi(strings.TrimSpace(string(line)))
	return ended && (!found || err == nil && len(body) >= length)
}

func responses(b []byte) int { return len(statusesOf(b)) }
