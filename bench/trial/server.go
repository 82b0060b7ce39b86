package trial

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Server is the server of the program that this project started from: it
// answers /test, and closes a connection that has been idle for a while. Under
// /provoke/ it commits the fault that the path names.
type Server struct {
	http http.Server
	log  *Log
	done chan error
}

// Serve starts a server on ln with the given IdleTimeout.
func Serve(ln net.Listener, idle time.Duration, log *Log) *Server {
	s := &Server{log: log, done: make(chan error, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("/test", s.test)
	mux.HandleFunc("/provoke/{fault}", s.provoke)
	s.http = http.Server{
		Handler:     mux,
		IdleTimeout: idle,
		ConnState: func(c net.Conn, state http.ConnState) {
			log.add(Event{Who: "server", What: State, Local: c.LocalAddr().String(),
				Remote: c.RemoteAddr().String(), State: state.String()})
		},
	}
	go func() { s.done <- s.http.Serve(loggedListener{ln, log}) }()
	return s
}

// Close ends the server, and with it all of its connections.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

// arrived logs that the handler runs, and returns what is common to its events.
func (s *Server) arrived(r *http.Request, what, provoked string) {
	id, _ := strconv.Atoi(r.URL.Query().Get("id"))
	s.log.add(Event{Who: "server", What: what, ID: id, Local: r.Context().Value(http.LocalAddrContextKey).(net.Addr).String(),
		Remote: r.RemoteAddr, Method: r.Method, Target: r.RequestURI, Provoked: provoked})
}

func (s *Server) test(w http.ResponseWriter, r *http.Request) {
	s.arrived(r, Handler, "")
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, "ok\n")
}

// A Fault is a way to end a request that has nothing to do with idle timers.
type Fault string

// The faults.
const (
	None          Fault = ""
	ReadReset     Fault = "read-rst"          // the server has the whole request, and aborts
	ReadClose     Fault = "read-fin"          // the server has the whole request, and closes
	HalfClose     Fault = "half-fin"          // the server closes inside its response
	HalfReset     Fault = "half-rst"          // the server aborts inside its response
	Early413      Fault = "early-413"         // the server refuses an upload, part of which it has not read, and closes at once
	Early413Late  Fault = "early-413-late"    // the server refuses an upload that goes on, and closes a little later
	ClientTimeout Fault = "client-timeout"    // the client's deadline passes while it waits
	ClientCancel  Fault = "client-cancel"     // the client gives up inside the response
	ClientUpload  Fault = "client-abort-body" // the client gives up inside its request
	ForgetReset   Fault = "forget-rst"        // a box on the way forgets the idle connection and answers with a reset
	ForgetSilent  Fault = "forget-silent"     // a box on the way forgets the idle connection and drops its packets
)

// Faults returns every fault that client or server can commit. Those that take a
// box on the way are not among them.
func Faults() []Fault {
	return []Fault{ReadReset, ReadClose, HalfClose, HalfReset, Early413, Early413Late, ClientTimeout, ClientCancel, ClientUpload}
}

// ByClient reports whether it is the client that commits the fault.
func (f Fault) ByClient() bool { return strings.HasPrefix(string(f), "client-") }

// byBox reports whether it takes a box on the way to commit the fault.
func (f Fault) byBox() bool { return strings.HasPrefix(string(f), "forget-") }

// pace is how long a fault lets the other end take in what came before it.
const pace = 60 * time.Millisecond

func (s *Server) provoke(w http.ResponseWriter, r *http.Request) {
	fault := Fault(r.PathValue("fault"))
	s.arrived(r, Handler, "")
	switch fault {
	case ReadReset, ReadClose, HalfClose, HalfReset:
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
	case ClientTimeout:
		io.Copy(io.Discard, r.Body)
		select { // longer than the client's patience
		case <-time.After(10 * ClientPatience):
		case <-r.Context().Done():
		}
		return
	case ClientCancel:
		// Half a body, and then nothing until the client has gone.
		w.Header().Set("Content-Length", "2000")
		w.Write(make([]byte, 1000))
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(10 * ClientPatience):
		case <-r.Context().Done():
		}
		return
	case ClientUpload:
		io.Copy(io.Discard, r.Body)
		return
	case Early413, Early413Late:
		if _, err := io.ReadFull(r.Body, make([]byte, 600)); err != nil {
			return
		}
		time.Sleep(pace) // more of the upload arrives, and is never read
	}
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	lc := c.(*loggedConn)
	s.arrived(r, Provoke, string(fault))
	switch fault {
	case ReadReset, ReadClose:
	case HalfClose, HalfReset:
		fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n%s", strings.Repeat("x", 1000))
		buf.Flush()
		time.Sleep(pace) // an abort discards what was not sent yet
	case Early413, Early413Late:
		io.WriteString(buf, "HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		buf.Flush()
		if fault == Early413Late {
			time.Sleep(pace) // the client takes the answer, and closes first
		}
	default:
		io.WriteString(buf, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		buf.Flush()
	}
	if fault == ReadReset || fault == HalfReset {
		lc.abort()
		return
	}
	lc.Close()
}
