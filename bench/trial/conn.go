package trial

import (
	"net"
	"sync"
	"time"
)

// A loggedConn logs what the application asks of its socket. It hides
// everything about the TCP connection but what net/http needs, lest bytes take
// a way around it (splice, sendfile).
type loggedConn struct {
	net.Conn
	log *Log
	who string

	mu     sync.Mutex
	id     int // of the request that the latest bytes belong to
	closed bool
}

// logConn wraps an end of a connection; who is "client" or "server".
func logConn(c net.Conn, log *Log, who string) *loggedConn {
	return &loggedConn{Conn: c, log: log, who: who}
}

func (c *loggedConn) event(what string) Event {
	return Event{Time: time.Now(), Who: c.who, What: what, Local: c.LocalAddr().String(), Remote: c.RemoteAddr().String()}
}

// request notes which request the bytes begin and returns the current one.
func (c *loggedConn) request(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id := requestID(b); id != 0 {
		c.id = id
	}
	return c.id
}

// Write logs when it began, since the peer may see the bytes before it returns.
func (c *loggedConn) Write(b []byte) (int, error) {
	c.log.writing.RLock()
	defer c.log.writing.RUnlock()
	e := c.event(Write)
	n, err := c.Conn.Write(b)
	e.ID, e.Bytes = c.current(b, "client"), n
	if err != nil {
		e.Error = err.Error()
	}
	c.log.add(e)
	return n, err
}

func (c *loggedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		e := c.event(Read)
		e.ID, e.Bytes = c.current(b[:n], "server"), n
		c.log.add(e)
	}
	if err != nil {
		e := c.event(ReadEnd)
		e.ID, e.Error = c.current(nil, ""), err.Error()
		c.log.add(e)
	}
	return n, err
}

// current returns the current request; the bytes may begin another if they are
// the client's, which the given end is the one to see first.
func (c *loggedConn) current(b []byte, who string) int {
	if c.who != who {
		b = nil
	}
	return c.request(b)
}

func (c *loggedConn) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if first {
		e := c.event(Close)
		e.ID = c.current(nil, "")
		c.log.add(e)
	}
	return c.Conn.Close()
}

// CloseWrite is what net/http calls to end a response whose request it has not
// read.
func (c *loggedConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// abort closes the socket so that it sends a reset.
func (c *loggedConn) abort() error {
	if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		return err
	}
	return c.Close()
}

// A loggedListener wraps what it accepts.
type loggedListener struct {
	net.Listener
	log *Log
}

func (l loggedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return logConn(c, l.log, "server"), nil
}
