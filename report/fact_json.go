package report

import (
	"whyreset/capture"
	"whyreset/correlate"
)

// FactJSON writes events as JSON lines, every one of them.
type FactJSON struct{ *JSON }

type jsonEvent struct {
	Type   string `json:"type"`
	Schema int    `json:"schema"`
	Time   string `json:"time"`
	Event  string `json:"event"`
	Text   string `json:"text"`
	Retry  string `json:"retry,omitempty"`

	Local   jsonLocal         `json:"local"`
	Remote  jsonEndpoint      `json:"remote"`
	Kernel  jsonEventKernel   `json:"kernel"`
	Request *jsonEventRequest `json:"request,omitempty"`

	IdleSeconds *float64 `json:"idle_seconds,omitempty"`
	Netns       uint64   `json:"netns_inode,omitempty"`
}

type jsonLocal struct {
	jsonEndpoint
	Role    string       `json:"role,omitempty"`
	Process *jsonProcess `json:"process,omitempty"`
}

type jsonEventKernel struct {
	Reason   string       `json:"reset_reason,omitempty"`
	Active   *bool        `json:"active,omitempty"` // absent unless a reset was sent
	State    string       `json:"state,omitempty"`
	NewState string       `json:"new_state,omitempty"`
	Unread   *uint32      `json:"unread_bytes,omitempty"`
	Segment  *jsonSegment `json:"segment,omitempty"`
}

// A jsonSegment is what a reset answers.
type jsonSegment struct {
	Seq   uint32 `json:"seq"`
	Ack   uint32 `json:"ack"`
	Bytes int    `json:"bytes"`
}

type jsonEventRequest struct {
	Method string `json:"method"`
	Target string `json:"target,omitempty"`
}

type jsonFactSummary struct {
	Type     string           `json:"type"`
	Schema   int              `json:"schema"`
	Complete bool             `json:"complete"`
	Reason   string           `json:"reason,omitempty"`
	Start    string           `json:"start"`
	End      string           `json:"end"`
	Duration float64          `json:"duration_seconds"`
	Events   uint64           `json:"events"`
	Facts    uint64           `json:"facts"`
	Lost     uint64           `json:"facts_lost"`
	Counts   []jsonEventCount `json:"counts"`
}

type jsonEventCount struct {
	Event    string       `json:"event,omitempty"` // absent for all that are not counted apart
	Reason   string       `json:"reset_reason,omitempty"`
	Process  *jsonProcess `json:"process,omitempty"`
	Count    uint64       `json:"count"`
	Requests uint64       `json:"requests"`
	Safe     uint64       `json:"retry_likely_safe"`
	Unread   uint64       `json:"unread_bytes"`
}

// Event writes e as an object of type "fact".
func (j FactJSON) Event(e *correlate.Event) error {
	out := jsonEvent{
		Type: "fact", Schema: Schema,
		Time:  timestamp(e.Time),
		Event: eventID(e.Kind),
		Text:  eventTitle(e),
		Retry: e.Retry.String(),
		Local: jsonLocal{jsonEndpoint: j.endpoint(e.Local), Process: eventProcess(&e.Owner)},
		// The other end's namespace is not known: it may be another.
		Remote: j.endpoint(e.Remote),
		Kernel: jsonEventKernel{Reason: e.Reason, State: e.State, NewState: e.NewState},
		Netns:  e.Where,
	}
	switch {
	case e.Server:
		out.Local.Role = "server"
	case e.Client:
		out.Local.Role = "client"
	}
	if e.Kind == capture.ResetSent {
		out.Kernel.Active = new(e.Active)
	}
	if e.HasUnread {
		out.Kernel.Unread = new(e.Unread)
	}
	if e.HasSegment {
		out.Kernel.Segment = &jsonSegment{e.Seq, e.Ack, e.Len}
	}
	if e.Method != "" {
		out.Request = &jsonEventRequest{e.Method, e.Target}
	}
	if e.HasIdle {
		out.IdleSeconds = new(secs(e.Idle))
	}
	return j.write(out)
}

func eventProcess(p *capture.Process) *jsonProcess {
	if !p.Known() {
		return nil
	}
	return &jsonProcess{p.PID, p.Command, p.Container, p.Name, p.Cgroup}
}

// Tick writes nothing: every event has been written.
func (j FactJSON) Tick(capture.Time) error { return nil }

// Summary writes s as an object of type "summary".
func (j FactJSON) Summary(s *FactSummary) error {
	out := jsonFactSummary{
		Type: "summary", Schema: Schema, Reason: s.Incomplete(),
		Start: timestamp(s.Start), End: timestamp(s.End), Duration: secs(s.End.Sub(s.Start)),
		Events: s.Tally.Events, Facts: s.Facts, Lost: s.Lost, Counts: []jsonEventCount{},
	}
	out.Complete = out.Reason == ""
	for _, c := range s.Tally.Counts() {
		out.Counts = append(out.Counts, jsonEventCount{
			Event: eventID(c.Kind), Reason: c.Reason, Process: eventProcess(&c.Owner),
			Count: c.Events, Requests: c.Requests, Safe: c.Safe, Unread: c.Unread,
		})
	}
	return j.write(out)
}
