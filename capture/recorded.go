package capture

import "time"

// MaxKept is how many bytes a recorder can keep of how a message begins.
const MaxKept = 1024

// An Elision stands for what a recorder in the kernel saw of a connection and did not
// keep. There are three kinds of segments that have one.
//
// Before is set in one that is no segment, but stands for all from the connection's
// beginning, or from the last segment that was yielded of it: its time is that of the
// last of them. Bulk is set in one that stands for the middle of a burst: Len bytes
// from Seq on that nobody kept, the last of which passed at its time at the latest.
// Otherwise the segment is one whose payload was not kept, but for its end.
type Elision struct {
	Before  bool
	Bulk    bool
	Interim bool   // as Bulk, of whole interim responses (RFC 9110, section 15.2)
	Tail    []byte // how the payload ends; overwritten by the next call to Next

	// The rest is of Before. Index 0 is Src, 1 is Dst.
	Next      [2]uint32 // sequence number behind the last byte; not known where Last is 0
	Last      [2]Time   // when the last byte passed; 0 if there was none
	Client    int       // which of them the client is; -1 if that is not known
	Exchanges int       // how often the server spoke after the client had
	Hurried   int       // requests under TLS that came within 10 ms of a response, at least
	Bytes     uint64    // of payload, of both
	Whole     bool      // what comes next begins a request, and all before was answered
}

// RecorderStats count what a recorder in the kernel sent up and kept.
type RecorderStats struct {
	Records  uint64 // of connections, that came up whole
	Segments uint64 // that came up one by one
	Lost     uint64 // of both, for which the ring had no room
	Full     uint64 // segments of connections for which the table had no room
	Kept     uint64 // connections in the table
	Evicted  uint64 // of them, those that were given up for want of room
	Reuses   uint64 // requests on connections that had had a response, of which nothing need come up
}

// A Load is what a recorder counted of one server since it began.
type Load struct {
	Server  Endpoint
	Open    int           // its connections that are open
	Reuses  uint64        // requests on a connection that had had a response
	Longest time.Duration // the longest that one had been idle before
	Idle    []IdleCount   // how long they had been idle, the shortest first
}

// An IdleCount says how many requests came after an idle time of From up to To.
type IdleCount struct {
	From, To time.Duration
	Count    uint64
}
