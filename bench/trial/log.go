// Package trial runs an HTTP client against a server whose idle timeout it
// keeps meeting, and keeps a log of what both applications saw.
//
// The log is the truth that verdicts are held against, so it is made from what
// applications can know (what they asked the kernel for, and what it said) and
// from what was provoked on purpose; never from packets.
package trial

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An Event is one thing that the client or the server did or saw.
type Event struct {
	Time time.Time `json:"time"`
	Who  string    `json:"who"`  // "client" or "server"
	What string    `json:"what"` // see the constants

	ID     int    `json:"id,omitempty"`     // of the request
	Local  string `json:"local,omitempty"`  // address of this end of the connection
	Remote string `json:"remote,omitempty"` // address of the other end

	Method      string  `json:"method,omitempty"`
	Target      string  `json:"target,omitempty"`
	Reused      bool    `json:"reused,omitempty"`        // got-conn: has carried a request before
	IdleSeconds float64 `json:"idle_seconds,omitempty"`  // got-conn: for how long it was in the pool
	Pause       float64 `json:"pause_seconds,omitempty"` // start: what the client meant to wait before this request
	Bytes       int     `json:"bytes,omitempty"`         // write, read: how many
	State       string  `json:"state,omitempty"`         // state: http.ConnState
	Status      int     `json:"status,omitempty"`
	Error       string  `json:"error,omitempty"` // verbatim
	Provoked    string  `json:"provoked,omitempty"`
	OK          bool    `json:"ok,omitempty"` // result: a whole response was read
}

// What an Event tells.
const (
	Start       = "start"        // the client begins a request
	GotConn     = "got-conn"     // the client has a connection for it: one per attempt
	WroteHeader = "wrote-header" // net/http handed the request's header to its write buffer
	WroteAll    = "wrote-all"    // net/http is done writing the request
	Write       = "write"        // the kernel took bytes, or refused them
	Read        = "read"         // the application was given bytes
	ReadEnd     = "read-end"     // the application was given the end of the stream, or an error
	Close       = "close"        // the application is about to close the socket
	Handler     = "handler"      // the server's handler has the request
	Provoke     = "provoke"      // a fault is made on purpose
	State       = "state"        // http.Server.ConnState
	Result      = "result"       // what the client made of the request
)

// A Log collects events, from several goroutines.
type Log struct {
	// writing is held for reading by a write until it is logged: the peer may
	// act on the bytes before the writer is scheduled again.
	writing sync.RWMutex

	mu     sync.Mutex
	events []Event
	out    *json.Encoder
	err    error
}

// NewLog returns a log that also writes each event to w as a line of JSON. w may
// be nil.
func NewLog(w io.Writer) *Log {
	l := &Log{}
	if w != nil {
		l.out = json.NewEncoder(w)
	}
	return l
}

func (l *Log) add(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	if l.out != nil && l.err == nil {
		l.err = l.out.Encode(e)
	}
}

// Events returns what has been logged so far. Of bytes that have arrived, the
// write is in it.
func (l *Log) Events() []Event {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Event(nil), l.events...)
}

// Err returns the first error in writing the log.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// requestID finds the id in the first line of a request: POST /test?id=17 HTTP/1.1.
// It returns 0 if b does not begin with such a line.
func requestID(b []byte) int {
	line, _, _ := strings.Cut(string(b[:min(len(b), 200)]), "\r\n")
	_, q, ok := strings.Cut(line, "?id=")
	if !ok || !strings.Contains(line, " HTTP/1.") {
		return 0
	}
	end := strings.IndexFunc(q, func(r rune) bool { return r < '0' || r > '9' })
	id, err := strconv.Atoi(q[:max(end, 0)])
	if err != nil {
		return 0
	}
	return id
}
