package report

import (
	"time"

	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"

	"whyreset/capture"
	"whyreset/correlate"
)

// Schema is the version of the JSON output. Fields may be added under it, not
// changed or removed.
const Schema = 1

// JSON writes one JSON object per line. What is not known is absent.
type JSON struct {
	w   io.Writer
	opt Options
	buf bytes.Buffer
}

// NewJSON returns a writer of JSON lines.
func NewJSON(w io.Writer, opt Options) *JSON { return &JSON{w: w, opt: opt} }

type jsonFinding struct {
	Type       string   `json:"type"`
	Schema     int      `json:"schema"`
	Time       string   `json:"time"`
	Verdict    string   `json:"verdict"`
	Family     string   `json:"family"`
	Confidence string   `json:"confidence,omitempty"`
	Candidates []string `json:"candidates,omitempty"`
	Lost       bool     `json:"lost"`
	Retry      string   `json:"retry,omitempty"`

	Client     jsonEndpoint   `json:"client"`
	Server     jsonEndpoint   `json:"server"`
	Connection jsonConnection `json:"connection"`
	Request    *jsonRequest   `json:"request,omitempty"`
	Response   *jsonResponse  `json:"response,omitempty"`

	IdleSeconds *float64       `json:"idle_seconds,omitempty"`
	ClosedBy    string         `json:"closed_by,omitempty"`
	Close       jsonClose      `json:"close"`
	Timer       *jsonTimer     `json:"server_idle_timeout,omitempty"`
	ClientLimit *jsonLimit     `json:"client_idle_limit,omitempty"`
	Kernel      *jsonKernel    `json:"kernel,omitempty"`
	Upgraded    *jsonUpgraded  `json:"upgraded,omitempty"`
	Replay      *jsonReplay    `json:"replay,omitempty"`
	Modifiers   []string       `json:"modifiers,omitempty"`
	Evidence    []jsonEvidence `json:"evidence,omitempty"`
}

type jsonEndpoint struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	// The network namespace of a loopback address, where several are seen.
	Netns string `json:"netns,omitempty"`
	// The server's Server header or the client's User-Agent, without what follows
	// the products.
	Product string `json:"product,omitempty"`
	Via     string `json:"via,omitempty"` // the proxy that answers as the server, by its Via header
	IsProxy bool   `json:"is_proxy,omitempty"`

	Process *jsonProcess `json:"process,omitempty"` // the owner of the socket, as the kernel says
}

// A jsonLimit is how long a client keeps idle connections, as far as its name and
// this capture tell.
type jsonLimit struct {
	Product   string   `json:"product,omitempty"`
	Setting   string   `json:"setting,omitempty"`
	Default   *float64 `json:"default_seconds,omitempty"`
	Unlimited bool     `json:"unlimited,omitempty"`       // there is no limit by default
	Advised   *float64 `json:"advised_seconds,omitempty"` // what suits the server's timeout
}

type jsonConnection struct {
	ID           uint64   `json:"id"`
	Start        string   `json:"start"`
	StartSeen    bool     `json:"start_seen"`
	Requests     int      `json:"requests"`
	Responses    int      `json:"responses"`
	Reused       *bool    `json:"reused,omitempty"`
	Protocol     string   `json:"protocol,omitempty"`
	TLS          *bool    `json:"tls,omitempty"`
	TLSVersion   string   `json:"tls_version,omitempty"`
	ALPN         string   `json:"alpn,omitempty"`
	ServerName   string   `json:"server_name,omitempty"`
	HandshakeRTT *float64 `json:"handshake_rtt_seconds,omitempty"`
	Vantage      string   `json:"vantage,omitempty"`
	VantageFrom  string   `json:"vantage_from,omitempty"` // handshake or ttl

	Elided *jsonElided `json:"elided,omitempty"`
}

// A jsonElided tells what passed while a recorder kept none of it.
type jsonElided struct {
	Requests int    `json:"requests"`
	Bytes    uint64 `json:"bytes"`
	Until    string `json:"until"`
}

type jsonRequest struct {
	Method   string `json:"method,omitempty"`
	Target   string `json:"target,omitempty"`
	Host     string `json:"host,omitempty"`
	Number   int    `json:"number"`
	Time     string `json:"time"`
	Frame    uint64 `json:"frame,omitempty"`
	Bytes    int64  `json:"bytes"`
	Complete bool   `json:"complete"`
}

type jsonResponse struct {
	Status   int    `json:"status,omitempty"`
	Frame    uint64 `json:"frame,omitempty"`
	Bytes    int64  `json:"bytes"`
	Complete bool   `json:"complete"`
}

type jsonClose struct {
	Kind  string `json:"kind"`
	Frame uint64 `json:"frame,omitempty"`
	Ack   *int64 `json:"ack,omitempty"`
	// Hexadecimal, at most the first 64 bytes; the evidence says what it means.
	Payload string `json:"reset_payload,omitempty"`
}

type jsonTimer struct {
	Seconds   *float64 `json:"seconds,omitempty"` // absent where there is only what it states
	Spread    *float64 `json:"spread_seconds,omitempty"`
	Closes    int      `json:"closes"`
	Stated    *float64 `json:"stated_seconds,omitempty"`
	LooksLike string   `json:"looks_like,omitempty"`
	Product   string   `json:"product,omitempty"` // where the server says what it is
	Setting   string   `json:"setting,omitempty"` // what sets it, in the product's words
}

type jsonEvidence struct {
	Frame uint64 `json:"frame,omitempty"`
	File  string `json:"file,omitempty"`
	Text  string `json:"text"`
}

type jsonSummary struct {
	Type     string `json:"type"`
	Schema   int    `json:"schema"`
	Complete bool   `json:"complete"`
	Reason   string `json:"reason,omitempty"`

	Start    string  `json:"start,omitempty"`
	End      string  `json:"end,omitempty"`
	Duration float64 `json:"duration_seconds"`

	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
	Segments    uint64 `json:"segments"`
	Filtered    uint64 `json:"filtered"`
	Other       uint64 `json:"other"`
	Missed      uint64 `json:"missed"`
	Undecodable uint64 `json:"undecodable"`
	FirstBad    string `json:"undecodable_first,omitempty"`
	Fragments   uint64 `json:"fragments"`
	Repeated    uint64 `json:"repeated,omitempty"`
	Duplicates  uint64 `json:"duplicates"`
	Late        uint64 `json:"late"`

	Connections uint64   `json:"connections"`
	Opaque      uint64   `json:"opaque"`
	StillOpen   uint64   `json:"still_open"`
	Evicted     uint64   `json:"evicted"`
	Requests    uint64   `json:"requests"`
	Waiting     uint64   `json:"waiting"`
	Unjudged    uint64   `json:"unjudged"`
	Gaps        uint64   `json:"gaps"`
	LongestWait *float64 `json:"longest_wait_seconds,omitempty"`
	Lost        uint64   `json:"lost"`
	LostOn      uint64   `json:"lost_connections"`
	Unopened    uint64   `json:"unopened_connections"`
	Unlisted    uint64   `json:"unlisted_connections"`

	Recorder *jsonRecorder `json:"recorder,omitempty"`

	Facts         uint64           `json:"kernel_facts,omitempty"`
	FactsLost     uint64           `json:"kernel_facts_lost,omitempty"`
	FactsDropped  uint64           `json:"kernel_facts_dropped,omitempty"`
	FactsUnjoined uint64           `json:"kernel_facts_unjoined,omitempty"`
	Owners        []jsonOwnerCount `json:"resets_by_process,omitempty"`

	Verdicts []jsonCount       `json:"verdicts"`
	Timers   []jsonServerTimer `json:"idle_timers"`
	Tunnels  []jsonTunnel      `json:"tunnel_timers,omitempty"`
	Abnormal uint64            `json:"abnormal_websockets,omitempty"`
	Restarts []jsonRestart     `json:"restarts,omitempty"`
	Limits   []jsonServerLimit `json:"limits,omitempty"`

	Replayed         uint64 `json:"replayed,omitempty"`
	ReplayedAnswered uint64 `json:"replayed_answered,omitempty"`
	DuplicateRisk    uint64 `json:"duplicate_risk,omitempty"`
}

// A jsonRecorder tells what a recorder in the kernel sent up and kept.
type jsonRecorder struct {
	Records  uint64 `json:"records"`
	Segments uint64 `json:"segments"`
	Lost     uint64 `json:"lost"`
	Full     uint64 `json:"table_full"`
	Kept     uint64 `json:"kept_connections"`
	Evicted  uint64 `json:"evicted_connections"`
	Reuses   uint64 `json:"reused_requests"`
}

type jsonCount struct {
	Verdict     string        `json:"verdict"`
	Family      string        `json:"family"`
	Server      *jsonEndpoint `json:"server,omitempty"` // absent for all that are not counted one by one
	Lost        uint64        `json:"lost"`
	Restart     uint64        `json:"lost_in_restarts,omitempty"`
	Connections uint64        `json:"connections"`
	Proven      uint64        `json:"proven"`
	Reason      string        `json:"reason,omitempty"`
}

type jsonServerTimer struct {
	Server jsonEndpoint `json:"server"`
	jsonTimer
	ClientReuse   *float64     `json:"client_reuse_seconds,omitempty"`
	Clients       []jsonClient `json:"clients,omitempty"` // the commonest three
	Advised       *float64     `json:"advised_client_idle_seconds,omitempty"`
	ClientTimer   *jsonTimer   `json:"client_idle_timeout,omitempty"`
	ExpectedRaces *float64     `json:"expected_races,omitempty"` // absent where the timer is not known
	SeenRaces     uint64       `json:"seen_races"`
}

// A jsonClient is a client program of a server.
type jsonClient struct {
	Product     string `json:"product,omitempty"`
	IsProxy     bool   `json:"is_proxy,omitempty"`
	Connections uint64 `json:"connections"`
}

// Finding writes f as an object of type "finding".
func (j *JSON) Finding(f *correlate.Finding) error {
	out := jsonFinding{
		Type: "finding", Schema: Schema,
		Time:       timestamp(f.Time),
		Verdict:    f.Verdict.String(),
		Family:     f.Verdict.Family(),
		Confidence: f.Confidence.String(),
		Lost:       f.Lost,
		Retry:      f.Retry.String(),
		Client:     j.endpoint(f.Connection.Client),
		Server:     j.endpoint(f.Connection.Server),
		Connection: connection(f),
		ClosedBy:   f.ClosedBy.String(),
		Close:      jsonClose{Kind: f.Close.Kind.String(), Frame: f.Close.Frame, Payload: fmt.Sprintf("%x", f.Close.Payload)},
		Modifiers:  f.Modifiers,
	}
	for _, v := range f.Candidates {
		out.Candidates = append(out.Candidates, v.String())
	}
	if r := f.Request; r != nil {
		out.Request = &jsonRequest{
			Method: r.Method, Target: r.Target, Host: r.Host,
			Number: r.Number, Time: timestamp(r.Time), Frame: r.Frame,
			Bytes: r.Bytes, Complete: r.Complete,
		}
	}
	if r := f.Response; r != nil {
		out.Response = &jsonResponse{Status: r.Status, Frame: r.Frame, Bytes: r.Bytes, Complete: r.Complete}
	}
	if f.HasIdle {
		out.IdleSeconds = new(secs(f.Idle))
	}
	if f.Close.HasAck {
		out.Close.Ack = new(f.Close.Ack)
	}
	out.Client.Product, out.Client.IsProxy = f.Programs.Client, f.Programs.ClientForwards
	out.Server.Product, out.Server.Via = f.Programs.Server, f.Programs.ServerVia
	out.Client.Process, out.Server.Process, out.Kernel = process(&f.Client), process(&f.Server), kernel(f.Kernel)
	if f.Timer != nil {
		out.Timer = new(timer(f.Timer))
	}
	if limitsMeet(f) {
		h := hopOf(f)
		out.ClientLimit = h.json()
		if h.server != nil && out.Timer == nil {
			out.Timer = &jsonTimer{Product: h.server.product, Setting: h.server.setting}
		}
	}
	out.Upgraded, out.Replay = upgraded(f.Upgraded), j.replay(f.Replay)
	for _, e := range f.Evidence {
		item := jsonEvidence{Frame: e.Frame, Text: e.Text}
		if e.Frame != 0 && len(j.opt.Files) > 1 && e.File < len(j.opt.Files) {
			item.File = j.opt.Files[e.File]
		}
		out.Evidence = append(out.Evidence, item)
	}
	return j.write(out)
}

// Summary writes s as an object of type "summary".
func (j *JSON) Summary(s *Summary) error {
	k, c := &s.Tracker, &s.Capture
	out := jsonSummary{
		Type: "summary", Schema: Schema,
		Reason:   s.Incomplete(),
		Duration: secs(s.Duration()),
		Packets:  c.Packets, Bytes: c.Bytes, Segments: c.Segments,
		Filtered: c.Filtered, Other: c.Other, Missed: c.Missed,
		Undecodable: c.Undecodable, FirstBad: c.FirstBad, Fragments: c.Fragments,
		Repeated:   c.Repeated,
		Duplicates: k.Duplicates, Late: k.Late,
		Connections: k.Connections, Opaque: k.Opaque, StillOpen: k.StillOpen, Evicted: k.Evicted,
		Requests: k.Requests, Waiting: k.Waiting, Unjudged: k.Unjudged, Gaps: k.Gaps, Lost: k.Lost, LostOn: k.LostOn, Unopened: k.Unopened, Unlisted: k.Unlisted,
		Verdicts: []jsonCount{}, Timers: []jsonServerTimer{},
	}
	if r := c.Recorder; r != nil {
		out.Recorder = (*jsonRecorder)(r)
	}
	j.facts(&out, k)
	out.Complete = out.Reason == ""
	if c.Packets > 0 {
		out.Start, out.End = timestamp(c.First), timestamp(c.Last)
	}
	if k.Waiting > 0 {
		out.LongestWait = new(secs(k.LongestWait))
	}
	for _, v := range k.Verdicts {
		row := jsonCount{
			Verdict: v.Verdict.String(), Family: v.Verdict.Family(),
			Lost: v.Lost, Restart: v.Restart, Connections: v.Connections, Proven: v.Proven, Reason: v.Reason,
		}
		if v.Server != (capture.Endpoint{}) {
			row.Server = new(j.endpoint(v.Server))
		}
		out.Verdicts = append(out.Verdicts, row)
	}
	for _, t := range k.Servers {
		row := jsonServerTimer{
			Server: j.endpoint(t.Server), jsonTimer: timer(&t.Timer),
			SeenRaces: t.SeenRaces,
		}
		if t.Timer.Closes > 0 {
			row.ExpectedRaces = new(t.ExpectedRaces)
		}
		if t.ClientReuse > 0 {
			row.ClientReuse = new(secs(t.ClientReuse))
		}
		for _, c := range t.Clients {
			row.Clients = append(row.Clients, jsonClient{c.Product, c.Forwards, c.Connections})
		}
		if idle := ClientIdle(&t.Timer, s.RTT[t.Server]); idle > 0 {
			row.Advised = new(secs(idle))
		}
		if t.ClientTimer.Closes > 0 {
			row.ClientTimer = &jsonTimer{
				Seconds: new(secs(t.ClientTimer.Timeout)), Spread: new(secs(t.ClientTimer.Spread)), Closes: t.ClientTimer.Closes,
			}
		}
		out.Timers = append(out.Timers, row)
	}
	j.patterns(&out, k)
	return j.write(out)
}

func connection(f *correlate.Finding) jsonConnection {
	c := &f.Connection
	out := jsonConnection{
		ID: c.ID, Start: timestamp(c.Start), StartSeen: c.StartSeen,
		Requests: c.Requests, Responses: c.Responses,
		Protocol: c.Protocol, Vantage: c.Vantage.String(),
	}
	if e := c.Elided; e != nil {
		out.Elided = &jsonElided{e.Requests, e.Bytes, timestamp(e.Until)}
	}
	// A first request may have had unseen ones before it if the connection's
	// start was not captured.
	if r := f.Request; r != nil && (r.Number > 1 || c.StartSeen) {
		out.Reused = new(r.Number > 1)
	}
	if c.Protocol != "" {
		out.TLS = new(c.TLS != nil)
	}
	if c.TLS != nil {
		out.TLSVersion, out.ALPN, out.ServerName = c.TLS.Version, c.TLS.ALPN, c.TLS.ServerName
	}
	switch {
	case c.VantageByTTL:
		out.VantageFrom = "ttl"
	case c.Vantage != correlate.NoVantage:
		out.VantageFrom = "handshake"
	}
	if c.HasRTT {
		out.HandshakeRTT = new(secs(c.HandshakeRTT))
	}
	return out
}

func (j *JSON) endpoint(e capture.Endpoint) jsonEndpoint {
	return jsonEndpoint{Address: e.AddrPort().Addr().String(), Port: e.Port, Netns: j.opt.Zones.Name(e)}
}

func timer(t *correlate.Timer) jsonTimer {
	out := jsonTimer{Closes: t.Closes, LooksLike: LooksLike(t)}
	if t.Closes > 0 {
		out.Seconds, out.Spread = new(secs(t.Timeout)), new(secs(t.Spread))
	}
	if t.Stated > 0 {
		out.Stated = new(secs(t.Stated))
	}
	if k := serverLimit(t); k != nil {
		out.Product, out.Setting = k.product, k.setting
	}
	return out
}

// json returns what is known of the client's limit, nil if it is nothing.
func (h *hop) json() *jsonLimit {
	var out jsonLimit
	if k := h.client; k != nil {
		out.Product, out.Setting, out.Unlimited = k.product, k.setting, len(k.defaults) == 0
		if !out.Unlimited {
			out.Default = new(secs(k.defaults[0]))
		}
	}
	if h.idle > 0 {
		out.Advised = new(secs(h.idle))
	}
	if out == (jsonLimit{}) {
		return nil
	}
	return &out
}

// timestamp formats t as RFC 3339 with all nine digits, so that it sorts as text.
func timestamp(t capture.Time) string {
	return t.Std().Format("2006-01-02T15:04:05.000000000Z07:00")
}

// write writes v and a newline. Bytes that are not UTF-8 become U+FFFD, and what
// encoding/json leaves as it is although it can drive or confuse a terminal (DEL,
// C1 controls, changes of direction) is escaped: findings are also read with cat.
func (j *JSON) write(v any) error {
	j.buf.Reset()
	enc := json.NewEncoder(&j.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := j.w.Write(escapeJSON(j.buf.Bytes()))
	return err
}

// escapeJSON replaces unprintable characters by \u escapes. They occur only
// within strings, since all else in JSON is ASCII.
func escapeJSON(line []byte) []byte {
	const digits = "0123456789abcdef"
	var out []byte // nil as long as line needs no change
	for i := 0; i < len(line); {
		if c := line[i]; c < 0x7f {
			if out != nil {
				out = append(out, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(line[i:])
		bad := !unicode.IsPrint(r)
		if bad && out == nil {
			out = append(make([]byte, 0, len(line)+64), line[:i]...)
		}
		switch {
		case bad:
			units := []rune{r}
			if r > 0xffff {
				units = []rune{0xd800 + (r-0x10000)>>10, 0xdc00 + (r-0x10000)&0x3ff}
			}
			for _, u := range units {
				out = append(out, '\\', 'u', digits[u>>12&15], digits[u>>8&15], digits[u>>4&15], digits[u&15])
			}
		case out != nil:
			out = append(out, line[i:i+n]...)
		}
		i += n
	}
	if out == nil {
		return line
	}
	return out
}

// secs is d in seconds, as near as a float64 comes; d.Seconds() adds two of them.
func secs(d time.Duration) float64 { return float64(d) / 1e9 }
