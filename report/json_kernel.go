package report

import "whyreset/correlate"

// A jsonProcess is the owner of a socket. The container is named as OpenTelemetry's
// semantic conventions do.
type jsonProcess struct {
	PID           int    `json:"pid,omitempty"`
	Command       string `json:"command,omitempty"`
	ContainerID   string `json:"container_id,omitempty"`
	ContainerName string `json:"container_name,omitempty"`
	Cgroup        string `json:"cgroup,omitempty"`
}

// A jsonKernel is what the kernel said of the end that ended the connection.
type jsonKernel struct {
	End         string  `json:"end"`
	ResetReason string  `json:"reset_reason,omitempty"`
	UnreadBytes *uint32 `json:"unread_bytes,omitempty"`
	State       string  `json:"state,omitempty"`
}

// A jsonOwnerCount counts the resets of one program's sockets.
type jsonOwnerCount struct {
	Command       string `json:"command,omitempty"`
	ContainerID   string `json:"container_id,omitempty"`
	ContainerName string `json:"container_name,omitempty"`
	ResetReason   string `json:"reset_reason,omitempty"`
	Resets        uint64 `json:"resets"`
}

func process(e *correlate.End) *jsonProcess {
	p := &e.Process
	if !p.Known() {
		return nil
	}
	return &jsonProcess{p.PID, p.Command, p.Container, p.Name, p.Cgroup}
}

func kernel(k *correlate.KernelFacts) *jsonKernel {
	if k == nil {
		return nil
	}
	out := &jsonKernel{End: k.End.String(), ResetReason: k.ResetReason, State: k.State}
	if k.HasUnread {
		out.UnreadBytes = new(k.UnreadBytes)
	}
	return out
}

func (j *JSON) facts(out *jsonSummary, k *correlate.Summary) {
	out.Facts, out.FactsLost, out.FactsDropped, out.FactsUnjoined = k.Facts, k.FactsLost, k.FactsDropped, k.FactsUnjoined
	for _, o := range k.Owners {
		out.Owners = append(out.Owners, jsonOwnerCount{o.Command, o.Container, o.Name, o.Reason, o.Resets})
	}
}
