package report

import "whyreset/correlate"

type jsonUpgraded struct {
	Protocol        string          `json:"protocol,omitempty"`
	IdleSeconds     *float64        `json:"idle_seconds,omitempty"`
	Close           *jsonCloseFrame `json:"close_frame,omitempty"`
	Abnormal        bool            `json:"abnormal"`
	Followed        *bool           `json:"frames_followed,omitempty"` // absent where there are no frames to follow
	UnansweredPings int             `json:"unanswered_pings,omitempty"`
	PingedBy        string          `json:"pinged_by,omitempty"`
	Tunnel          *jsonTimer      `json:"tunnel_timeout,omitempty"`
}

type jsonCloseFrame struct {
	By       string `json:"by"`
	Code     int    `json:"code,omitempty"`
	Name     string `json:"name,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Frame    uint64 `json:"frame,omitempty"`
	Answered bool   `json:"answered"`
}

type jsonTunnel struct {
	Server jsonEndpoint `json:"server"`
	jsonTimer
}

type jsonReplay struct {
	Client     jsonEndpoint `json:"client"`
	Connection uint64       `json:"connection_id"`
	First      bool         `json:"first_request"`
	Time       string       `json:"time"`
	Frame      uint64       `json:"frame,omitempty"`
	After      float64      `json:"after_seconds"`
	Status     int          `json:"status,omitempty"`
	Lost       bool         `json:"lost"`
}

type jsonRestart struct {
	Server  jsonEndpoint `json:"server"`
	From    string       `json:"from"`
	Span    float64      `json:"span_seconds"`
	Closed  int          `json:"closed"`
	Open    int          `json:"open_before"`
	Refused bool         `json:"refused_after"`
	Lost    uint64       `json:"lost"`
}

type jsonServerLimit struct {
	Server   jsonEndpoint `json:"server"`
	Requests int          `json:"requests,omitempty"`
	Age      *float64     `json:"age_seconds,omitempty"`
	Spread   *float64     `json:"spread_seconds,omitempty"`
	Closes   int          `json:"closes"`
}

func (j *JSON) replay(r *correlate.Replay) *jsonReplay {
	if r == nil {
		return nil
	}
	return &jsonReplay{Client: j.endpoint(r.Client), Connection: r.Connection, First: r.First, Time: timestamp(r.Time), Frame: r.Frame,
		After: secs(r.After), Status: r.Status, Lost: r.Lost}
}

func upgraded(u *correlate.Upgraded) *jsonUpgraded {
	if u == nil {
		return nil
	}
	out := &jsonUpgraded{Protocol: u.Protocol, Abnormal: u.Abnormal, UnansweredPings: u.Pings, PingedBy: u.PingedBy.String()}
	if u.HasIdle {
		out.IdleSeconds = new(secs(u.Idle))
	}
	if u.Protocol == "websocket" {
		out.Followed = new(u.Followed)
	}
	if c := u.Close; c != nil {
		out.Close = &jsonCloseFrame{By: c.By.String(), Code: c.Code, Name: correlate.CloseCodeName(c.Code), Reason: c.Reason, Frame: c.Frame, Answered: c.Answered}
	}
	if u.Tunnel != nil {
		out.Tunnel = new(tunnelTimer(u.Tunnel))
	}
	return out
}

func tunnelTimer(t *correlate.Timer) jsonTimer {
	return jsonTimer{Seconds: new(secs(t.Timeout)), Spread: new(secs(t.Spread)), Closes: t.Closes, LooksLike: tunnelLooksLike(t)}
}

// patterns adds what several connections of a server have in common.
func (j *JSON) patterns(out *jsonSummary, k *correlate.Summary) {
	out.Abnormal = k.Abnormal
	out.Replayed, out.ReplayedAnswered, out.DuplicateRisk = k.Replayed, k.ReplayedAnswered, k.DuplicateRisk
	for _, r := range k.Restarts {
		out.Restarts = append(out.Restarts, jsonRestart{j.endpoint(r.Server), timestamp(r.From), secs(r.To.Sub(r.From)), r.Closed, r.Open, r.Refused, r.Lost})
	}
	for _, l := range k.Limits {
		row := jsonServerLimit{Server: j.endpoint(l.Server), Requests: l.Requests, Closes: l.Closes}
		if l.Requests == 0 {
			row.Age, row.Spread, row.Closes = new(secs(l.Age.Timeout)), new(secs(l.Age.Spread)), l.Age.Closes
		}
		out.Limits = append(out.Limits, row)
	}
	for _, t := range k.Tunnels {
		out.Tunnels = append(out.Tunnels, jsonTunnel{j.endpoint(t.Server), tunnelTimer(&t.Timer)})
	}
}
