package trial

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// A Truth is what both applications know of one attempt at a request. net/http
// may make several for one request, on different connections.
type Truth struct {
	ID       int       `json:"id"`
	Attempt  int       `json:"attempt"`  // from 1
	Attempts int       `json:"attempts"` // in all
	Time     time.Time `json:"time"`     // when the attempt had its connection
	Method   string    `json:"method"`
	Target   string    `json:"target"`
	Local    string    `json:"local_addr"`  // the client's
	Remote   string    `json:"remote_addr"` // the server's
	Reused   bool      `json:"reused"`      // the connection had carried a request before

	PauseSeconds float64 `json:"pause_seconds,omitempty"` // what the client meant to wait before the request
	IdleSeconds  float64 `json:"idle_seconds,omitempty"`  // how long the connection was in the client's pool

	Wrote      bool   `json:"wrote"` // the client's kernel took bytes of it
	WroteBytes int    `json:"wrote_bytes,omitempty"`
	WriteError string `json:"write_error,omitempty"` // what the kernel said to the first write that failed
	ReadError  string `json:"read_error,omitempty"`  // of a lost attempt: how the connection ended for the client

	ServerSaw   bool `json:"server_saw"`                   // the server's handler ran for it
	ServerRead  int  `json:"server_read_bytes,omitempty"`  // bytes of it that the server's application was given
	ServerWrote int  `json:"server_wrote_bytes,omitempty"` // bytes of the response that the server's kernel took
	// ServerClosed is when the server's application closed the connection,
	// relative to the client's first write of a lost attempt. Absent if it was
	// never closed, or the attempt was not lost.
	ServerClosed *float64 `json:"server_closed_seconds,omitempty"`

	Status   int    `json:"status"`       // of the response, 0 if there was none
	Complete bool   `json:"complete"`     // the client read all of the response
	Error    string `json:"client_error"` // verbatim; "" if there was none, or if the attempt was retried
	Retried  bool   `json:"retried"`      // net/http silently made another attempt
	// Lost says that bytes of the request were sent, and no complete answer was read.
	Lost     bool   `json:"lost"`
	Provoked string `json:"provoked"` // the fault that was committed on purpose, "" if none was
	// DelaySeconds is the one-way delay that the wire was told to make, 0 on
	// loopback. Merge leaves it alone: the applications do not know it.
	DelaySeconds float64 `json:"delay_seconds,omitempty"`
}

// Merge makes the truth from the logs of client and server, in the order of
// attempts in time.
func Merge(events []Event) []Truth {
	byID := map[int][]Event{}
	closes := map[string][]Event{}   // the server's, by the client's address
	readEnds := map[string][]Event{} // the client's, by its own address
	var ids []int
	for _, e := range events {
		switch {
		case e.Who == "server" && e.What == Close:
			closes[e.Remote] = append(closes[e.Remote], e)
		case e.Who == "client" && e.What == ReadEnd:
			readEnds[e.Local] = append(readEnds[e.Local], e)
		}
		if e.ID != 0 {
			if byID[e.ID] == nil {
				ids = append(ids, e.ID)
			}
			byID[e.ID] = append(byID[e.ID], e)
		}
	}
	var truths []Truth
	for _, id := range ids {
		truths = append(truths, attempts(byID[id], closes, readEnds)...)
	}
	slices.SortStableFunc(truths, func(a, b Truth) int { return a.Time.Compare(b.Time) })
	return truths
}

// attempts makes the truths of one request from its events.
func attempts(events []Event, closes, readEnds map[string][]Event) []Truth {
	var start, result Event
	var list []Truth
	for _, e := range events {
		switch e.What {
		case Start:
			start = e
		case Result:
			result = e
		case GotConn:
			list = append(list, Truth{ID: e.ID, Attempt: len(list) + 1, Time: e.Time, Method: start.Method, Target: start.Target,
				Local: e.Local, Remote: e.Remote, Reused: e.Reused, PauseSeconds: start.Pause, IdleSeconds: e.IdleSeconds})
		}
	}
	for i := range list {
		t := &list[i]
		t.Attempts = len(list)
		wrote := t.fill(events)
		if i == len(list)-1 {
			t.Status, t.Complete, t.Error = result.Status, result.OK, result.Error
			if result.Provoked != "" && t.Wrote {
				t.Provoked = result.Provoked
			}
		} else {
			t.Retried = true
		}
		t.Lost = t.Wrote && !t.Complete
		if !t.Lost {
			continue
		}
		// The same port may have had an earlier connection, and, on a connection
		// that is not reused, the read that ends it may begin before the write.
		for _, e := range readEnds[t.Local] {
			if e.Time.After(start.Time) {
				t.ReadError = e.Error
				break
			}
		}
		for _, e := range closes[t.Local] {
			if e.Time.After(wrote.Add(-time.Second)) {
				s := e.Time.Sub(wrote).Seconds()
				t.ServerClosed = &s
				break
			}
		}
	}
	return list
}

// fill adds up what was written and read for the attempt, and returns when its
// first byte was written.
func (t *Truth) fill(events []Event) (wrote time.Time) {
	for _, e := range events {
		switch {
		case e.Who == "client" && e.Local == t.Local && e.What == Write:
			if wrote.IsZero() {
				wrote = e.Time
			}
			t.WroteBytes += e.Bytes
			if t.WriteError == "" {
				t.WriteError = e.Error
			}
		case e.Who == "server" && e.Remote == t.Local:
			switch e.What {
			case Read:
				t.ServerRead += e.Bytes
			case Write:
				t.ServerWrote += e.Bytes
			case Handler:
				t.ServerSaw = true
			case Provoke:
				t.Provoked = e.Provoked
			}
		}
	}
	t.Wrote = t.WroteBytes > 0
	return wrote
}

// WriteTruth writes the truths as lines of JSON.
func WriteTruth(w io.Writer, truths []Truth) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, t := range truths {
		if err := enc.Encode(t); err != nil {
			return fmt.Errorf("write truth of request %d: %w", t.ID, err)
		}
	}
	return nil
}
