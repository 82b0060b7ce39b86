package correlate

import (
	"strconv"
	"time"

	"whyreset/capture"
)

// upgradedClose tells how a connection ended that had left HTTP. No HTTP request
// was lost; a WebSocket without a close frame is worth showing all the same.
func upgradedClose(f *facts) *ruling {
	if !f.upgraded {
		return nil
	}
	if f.atEnd && !f.K.seen() && !f.Kc.seen() {
		return &ruling{verdict: StillOpen}
	}
	k := f.endOf()
	u := f.left(k)
	if u != nil && u.Abnormal {
		f.brief = false // somebody will read about it
	}
	x := f.ended(UpgradedClose)
	if f.brief || u == nil || k == nil {
		return x
	}
	x.modifiers, x.evidence = nil, nil
	if u.Abnormal {
		x.modifiers = append(x.modifiers, "abnormal")
		x.note(0, 0, "neither end sent a close frame: libraries report this as code 1006")
	}
	if cf := u.Close; cf != nil {
		first, _ := f.closeFrames()
		x.note(cf.Frame, first.file, "%s close frame (frame %d) %s, %s", cf.By.possessive(), cf.Frame, cf.meaning(), cf.answer())
	} else if u.Protocol == "websocket" && !u.Followed {
		x.note(0, 0, "whether a close frame was sent is not known: not all of the frames were captured, or they are not WebSocket's")
	}
	after := ""
	if u.HasIdle && u.Close == nil {
		after = ", " + short(u.Idle) + " after the last bytes in either direction"
	} else if u.HasIdle && u.Idle >= time.Second {
		x.note(0, 0, "nothing had been sent for %s before the close frame", short(u.Idle))
	}
	x.note(k.frame, k.file, "%s %s (frame %d) ended the connection%s", x.by.possessive(), k.name(), k.frame, after)
	switch before := k.time.Sub(f.pinged()); {
	case u.Pings == 1:
		x.note(0, 0, "the %s last ping, %s before the end, was never answered", u.PingedBy.possessive(), short(before))
	case u.Pings > 1:
		x.note(0, 0, "the %s last %d pings were never answered, the first of them %s before the end", u.PingedBy.possessive(), u.Pings, short(before))
	}
	if u.fits() {
		x.modifiers = append(x.modifiers, "timer-match")
		x.note(0, 0, "%d of this server's upgraded connections ended after as long a silence, %s ± %s: a timeout for tunnels, of an end or of a proxy",
			u.Tunnel.Closes, short(u.Tunnel.Timeout), short(u.Tunnel.Spread))
	}
	return x
}

// endOf returns the close that ended the connection; nil if none was seen.
func (f *facts) endOf() *closing {
	by := f.first
	if k := f.closeOf(by); k != nil {
		return k
	}
	if k := f.serverClose(); k != nil {
		return k
	}
	if len(f.refusals) > 0 {
		r := f.refusals[0]
		return &closing{kind: ReplyReset, off: r.off, time: r.time, frame: r.frame, file: r.file}
	}
	return nil
}

// closeFrames returns the close frame that was sent first, and who sent it: the
// one whose segment does not acknowledge the other's.
func (f *facts) closeFrames() (*closeFrame, Party) {
	c, s := &f.up.dir[f.client].close, &f.up.dir[1-f.client].close
	switch {
	case !c.seen && !s.seen:
		return nil, NoParty
	case !s.seen, c.seen && s.hasAck && s.ack >= c.end:
		return c, Client
	case !c.seen, c.hasAck && c.ack >= s.end:
		return s, Server
	}
	return s, BothParties
}

// left says what became of a connection that has left HTTP, which ended with k;
// nil for one that has not.
func (f *facts) left(k *closing) *Upgraded {
	if f.up == nil {
		return nil
	}
	c, s := &f.up.dir[f.client], &f.up.dir[1-f.client]
	u := &Upgraded{Protocol: f.up.protocol, Tunnel: f.server.tunnel()}
	if cf, by := f.closeFrames(); cf != nil {
		u.Close = &CloseFrame{By: by, Code: int(cf.code), Reason: cf.reason, Frame: cf.frame, Answered: c.close.seen && s.close.seen}
		u.Idle, u.HasIdle = max(0, cf.time.Sub(f.up.before)), true
	} else if k != nil && k.time >= f.up.last {
		u.Idle, u.HasIdle = k.time.Sub(f.up.last), true
	}
	if f.up.websocket {
		u.Followed = !c.lost && !s.lost && f.shown() && !f.clientUnseen() && f.serverTop() <= f.serverEnd+1
		u.Abnormal = u.Followed && u.Close == nil && k != nil
		u.Pings, u.PingedBy = s.pings, Server
		if u.Pings == 0 {
			u.Pings, u.PingedBy = c.pings, Client
		}
		if !u.Followed {
			u.Pings = 0 // an answer may be among what was not seen
		}
		if u.Pings == 0 {
			u.PingedBy = NoParty
		}
	}
	return u
}

// pinged is when the first ping was sent that no pong answered.
func (f *facts) pinged() (at capture.Time) {
	if s := &f.up.dir[1-f.client]; s.pings > 0 {
		return s.ping
	}
	return f.up.dir[f.client].ping
}

// fits reports whether the connection ended when the tunnel timeout was due.
func (u *Upgraded) fits() bool {
	return u.Tunnel != nil && u.HasIdle && (u.Idle-u.Tunnel.Timeout).Abs() <= u.Tunnel.late()
}

// meaning says what a close frame carries.
func (k *CloseFrame) meaning() string {
	if k.Code == 0 {
		return "carries no code (libraries report 1005)"
	}
	s := "carries code " + strconv.Itoa(k.Code)
	if name := CloseCodeName(k.Code); name != "" {
		s += " (" + name + ")"
	}
	if k.Reason != "" {
		s += ", reason " + strconv.Quote(k.Reason)
	}
	return s
}

// answer says what the other end did with a close frame.
func (k *CloseFrame) answer() string {
	switch {
	case k.By == BothParties:
		return "and the client's crossed it"
	case k.Answered:
		return "and the " + k.By.other().String() + " answered it"
	}
	return "and the " + k.By.other().String() + " did not answer it"
}

func (p Party) other() Party {
	if p == Client {
		return Server
	}
	return Client
}

// minTunnel is below every timeout of tunnels.
const minTunnel = time.Second

// learnTunnel takes in after what silence an upgraded connection ended.
func (t *Tracker) learnTunnel(f *facts) {
	k := f.endOf()
	if k == nil {
		return
	}
	if u := f.left(k); u.HasIdle && u.Idle >= minTunnel {
		if f.server.tunnels == nil {
			f.server.tunnels = &learner{}
		}
		f.server.tunnels.add(u.Idle, k.time)
	}
}

// tunnel returns the idle time after which upgraded connections end; nil if it is
// not known.
func (s *server) tunnel() *Timer {
	if s.tunnels == nil {
		return nil
	}
	return s.tunnels.timer()
}
