//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A header is the first line of a case's truth: where it comes from, and what
// holds for all of its requests.
type header struct {
	Case     string            `json:"case"`
	Command  string            `json:"command"`
	Date     string            `json:"date"`
	Versions map[string]string `json:"versions,omitempty"`
	Server   string            `json:"server,omitempty"`
	Delay    float64           `json:"delay_seconds"` // one way
	TLS      string            `json:"tls,omitempty"` // the highest version that the clients offer
	// When the server closes an idle connection, in seconds: by its setting and by
	// what its documentation says of its clock.
	Earliest float64 `json:"idle_earliest,omitempty"`
	Latest   float64 `json:"idle_latest,omitempty"`
	// Conns are the connections on which no request can be told by its id.
	Conns []connTruth `json:"connections,omitempty"`
}

// A connTruth is what was done to connections to one port of the server. Nobody
// but the program that is named by the cause connects there.
type connTruth struct {
	Cause string `json:"cause"`
	Port  int    `json:"port"`
	// Client is the client's port, if it is known; else all connections are meant.
	Client int `json:"client,omitempty"`
	// Least is how many of them there were, at least.
	Least int `json:"least"`
	// Silent says that the client had not a byte from the server.
	Silent bool `json:"silent,omitempty"`
	// Note says what the applications logged.
	Note string `json:"note,omitempty"`
}

// A truth is what became of one request, from the applications' logs alone.
type truth struct {
	ID     string `json:"id"`
	Cause  string `json:"cause"`
	Client string `json:"client"`

	OK        bool    `json:"ok"`
	Cancelled bool    `json:"cancelled,omitempty"`
	Status    int     `json:"status,omitempty"`
	Bytes     int64   `json:"bytes,omitempty"` // of the response's body
	Error     string  `json:"error,omitempty"`
	Start     float64 `json:"start"`
	End       float64 `json:"end"`
	Ports     []int   `json:"ports,omitempty"`
	// Idle is how long the client had been silent in this conversation: since it had
	// the last answer, or since that answer can have reached its host.
	Idle float64 `json:"idle,omitempty"`
	// First says that the conversation begins with this request.
	First bool `json:"first,omitempty"`

	Began   int  `json:"began,omitempty"` // how often the server's handler began
	Ended   bool `json:"ended,omitempty"` // and came to its end
	Aborted bool `json:"aborted,omitempty"`
}

// truncatedBytes is what an application sends of a body that it announced as
// longer. Python's requests takes that for the whole.
const truncatedBytes = 3000

// lost reports whether the applications' logs show that the request got no whole
// answer. A 408 is no answer to the request but to its absence, and a proxy's
// 502 or 504 says that the proxy, where it is the client, got none. Some
// libraries take a response that was cut off for a whole one. A refusal of half
// a header does not answer the request either.
func (t *truth) lost() bool {
	switch {
	case !t.OK, t.Status == 408, t.Status >= 502 && strings.HasPrefix(t.Cause, "pooled"):
		return true
	case t.Cause == "truncated-body" && t.Bytes == truncatedBytes, t.Cause == "slow-head" && t.Status >= 400:
		return true
	}
	return false
}

// unfinished reports whether the server's log does not show the answer that the
// client took for a whole one: Node's fetch is content with chunks that end in the
// middle if the response said Connection: close.
func (t *truth) unfinished() bool { return !t.lost() && t.Began > 0 && !t.Ended }

// A run collects what a case does, and then its truth.
type run struct {
	*lab
	header header
	steps  map[string]step // by id
	prev   map[string]string
	n      int
	// small says that the captures will be committed: fewer clients, less traffic.
	small bool
}

// events reads the lines of a log that are events; programs also say other things.
func events(file string) []event {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var all []event
	for line := range bytes.Lines(data) {
		// A program may have printed something without a line feed before it.
		i := bytes.Index(line, []byte(`{"`))
		var e event
		if i >= 0 && json.Unmarshal(line[i:], &e) == nil && e.Who != "" {
			all = append(all, e)
		}
	}
	return all
}

// truths joins the logs by request id.
func (r *run) truths() ([]*truth, error) {
	files, err := filepath.Glob(r.file("*.log"))
	if err != nil {
		return nil, err
	}
	byID := map[string]*truth{}
	var served []event
	for _, f := range files {
		logged := events(f)
		if strings.HasPrefix(filepath.Base(f), "client.") && len(logged) == 0 {
			return nil, fmt.Errorf("%s: the client logged nothing", filepath.Base(f))
		}
		for _, e := range logged {
			if e.Who != "client" {
				served = append(served, e)
				continue
			}
			q, ok := r.steps[e.ID]
			if !ok {
				return nil, fmt.Errorf("%s: a client logged a request %q that nobody told it to send", filepath.Base(f), e.ID)
			}
			byID[e.ID] = &truth{ID: e.ID, Cause: q.Cause, Client: e.Client, OK: e.OK, Cancelled: e.Cancelled,
				Status: e.Status, Bytes: e.Bytes, Error: e.Error, Start: e.Start, End: e.End, Ports: e.Ports}
		}
	}
	done := map[string]float64{} // when the server's handler last ended
	for _, e := range served {
		t := byID[e.ID]
		switch {
		case t == nil:
		case e.What == "begin":
			t.Began++
		case e.What == "end":
			t.Ended = true
			done[e.ID] = e.Time
		case e.What == "abort":
			t.Aborted = true
		}
	}
	var all []*truth
	for id, t := range byID {
		if p := byID[r.prev[id]]; p != nil {
			// A busy program may notice the answer late.
			t.Idle = t.Start - p.End
			if d := done[p.ID]; d > 0 {
				t.Idle = max(t.Idle, t.Start-d-r.header.Delay)
			}
		} else {
			t.First = r.prev[id] == ""
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *truth) int { return cmp.Or(cmp.Compare(a.Start, b.Start), strings.Compare(a.ID, b.ID)) })
	if len(all) == 0 && len(r.steps) > 0 {
		return nil, errors.New("no client logged anything")
	}
	return all, nil
}

// writeTruth writes the header and the truths as JSON lines.
func writeTruth(file string, h header, all []*truth) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	e := json.NewEncoder(w)
	err = e.Encode(h)
	for _, t := range all {
		err = cmp.Or(err, e.Encode(t))
	}
	return errors.Join(err, w.Flush(), f.Close())
}

// readTruth reads what writeTruth wrote.
func readTruth(file string) (h header, all []*truth, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return h, nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&h); err != nil {
		return h, nil, fmt.Errorf("%s: %w", file, err)
	}
	for d.More() {
		t := new(truth)
		if err := d.Decode(t); err != nil {
			return h, nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, t)
	}
	return h, all, nil
}

// today is the date of a recording.
func today() string { return time.Now().UTC().Format(time.DateOnly) }
