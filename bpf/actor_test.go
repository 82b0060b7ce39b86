//go:build linux

package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// An actor is a process of its own that does with sockets what it is told, so that
// both ends of a connection have different owners. Each has one listener and one
// connection.
type actor struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Reader

	target string // what stands for the word target in what it is told
	port   string // of its connection, once it has one
}

// newActor starts an actor in a namespace, with the name that the kernel shall know
// it by.
func newActor(t *testing.T, ns *capture.Namespace, name string, attr *syscall.SysProcAttr) *actor {
	t.Helper()
	a := &actor{t: t, name: name, cmd: exec.Command("/proc/self/exe", "-test.run=^TestActor$")}
	a.cmd.Env = append(os.Environ(), "WHYRESET_ACTOR="+name)
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = attr
	in, err := a.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.in, a.lines = in, bufio.NewReader(out)
	if err := ns.Enter(a.cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.in.Close()
		a.cmd.Process.Kill()
		a.cmd.Wait()
	})
	a.do("hello")
	return a
}

func (a *actor) pid() int { return a.cmd.Process.Pid }

// try has the actor do something and returns what came of it.
func (a *actor) try(format string, args ...any) (string, error) {
	a.t.Helper()
	order := strings.Replace(fmt.Sprintf(format, args...), target, a.target, 1)
	fmt.Fprintln(a.in, order)
	line, err := a.lines.ReadString('\n')
	if err != nil {
		a.t.Fatalf("%s: %s: %v", a.name, order, err)
	}
	if text, failed := strings.CutPrefix(line, "error "); failed {
		return "", errors.New(strings.TrimSpace(text))
	}
	answer := strings.TrimSpace(strings.TrimPrefix(line, "ok"))
	if strings.HasPrefix(order, "connect ") {
		a.port = answer
	}
	return answer, nil
}

// do has the actor do something that must go well.
func (a *actor) do(format string, args ...any) string {
	a.t.Helper()
	answer, err := a.try(format, args...)
	if err != nil {
		a.t.Fatalf("%s: %s: %v", a.name, fmt.Sprintf(format, args...), err)
	}
	return answer
}

// kill ends the actor as kill -9 does.
func (a *actor) kill() {
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

// TestActor is what an actor runs; it tests nothing.
func TestActor(t *testing.T) {
	name := os.Getenv("WHYRESET_ACTOR")
	if name == "" {
		return
	}
	// The name of the process, not of the thread that happens to run.
	os.WriteFile("/proc/self/comm", []byte(name), 0)
	s := stage{listener: -1, conn: -1}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		word, rest, _ := strings.Cut(in.Text(), " ")
		answer, err := s.act(word, rest)
		if err != nil {
			fmt.Println("error", err)
		} else {
			fmt.Println("ok", answer)
		}
	}
	os.Exit(0)
}

// A stage is an actor's sockets.
type stage struct{ listener, conn int }

// act does one thing, with nothing but system calls: no library closes or reads
// behind the test's back.
func (s *stage) act(word, rest string) (string, error) {
	switch word {
	case "hello":
		return "", nil
	case "listen": // address backlog
		where, backlog, _ := strings.Cut(rest, " ")
		fd, to, err := open(where)
		if err != nil {
			return "", err
		}
		s.listener = fd
		n, _ := strconv.Atoi(backlog)
		if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, to), unix.Listen(fd, n)); err != nil {
			return "", err
		}
		return port(fd)
	case "defer": // accept when data has come
		return "", unix.SetsockoptInt(s.listener, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30)
	case "accept":
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
		s.conn = fd
		return "", err
	case "unlisten":
		return "", unix.Close(s.listener)
	case "connect": // address
		fd, to, err := open(rest)
		if err != nil {
			return "", err
		}
		s.conn = fd
		if err := unix.Connect(fd, to); err != nil {
			return "", err
		}
		return port(fd)
	case "flood": // as much as the other end and the kernel take
		b := make([]byte, 64<<10)
		for {
			if n, err := unix.SendmsgN(s.conn, b, nil, nil, unix.MSG_DONTWAIT); err == unix.EAGAIN || n == 0 {
				return "", nil
			} else if err != nil {
				return "", err
			}
		}
	case "write":
		text, err := strconv.Unquote(rest)
		if err != nil {
			return "", err
		}
		_, err = unix.SendmsgN(s.conn, []byte(text), nil, nil, unix.MSG_NOSIGNAL)
		return "", err
	case "await": // something to read, or the end
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(s.conn), Events: unix.POLLIN}}, 3000)
		return "", err
	case "read":
		n, err := unix.Read(s.conn, make([]byte, 64<<10))
		return strconv.Itoa(n), err
	case "linger":
		return "", unix.SetsockoptLinger(s.conn, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	case "keepalive":
		return "", errors.Join(unix.SetsockoptInt(s.conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(s.conn, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1),
			unix.SetsockoptInt(s.conn, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1),
			unix.SetsockoptInt(s.conn, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1))
	case "timeout": // for what is not acknowledged, in milliseconds
		ms, _ := strconv.Atoi(rest)
		return "", unix.SetsockoptInt(s.conn, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	case "shutdown":
		return "", unix.Shutdown(s.conn, unix.SHUT_WR)
	case "port":
		return port(s.conn)
	case "close":
		return "", unix.Close(s.conn)
	}
	return "", fmt.Errorf("what is %q?", word)
}

// open returns a socket for an address, and the address for it. Sockets of [::]
// take IPv4 too.
func open(text string) (int, unix.Sockaddr, error) {
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return -1, nil, err
	}
	if ap.Addr().Is4() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return fd, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return fd, &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}, errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0))
}

// port returns the local port of a socket.
func port(fd int) (string, error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return strconv.Itoa(sa.Port), err
	case *unix.SockaddrInet6:
		return strconv.Itoa(sa.Port), err
	}
	return "", err
}

// needRoot skips a test that loads programs and makes namespaces, except in CI.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: eBPF needs root")
	}
}

// needProgram skips a test for want of a program, except in CI.
func needProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI must have %s", name)
		}
		t.Skipf("SKIPPED: there is no %s", name)
	}
}

// newNamespace makes a namespace and returns its inode number too.
func newNamespace(t testing.TB) (ns *capture.Namespace, inode uint64) {
	t.Helper()
	ns, err := capture.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	if err := ns.Enter(func() error {
		var st unix.Stat_t
		err := unix.Stat("/proc/thread-self/ns/net", &st)
		inode = st.Ino
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return ns, inode
}

// inside runs a command in a namespace.
func inside(t testing.TB, ns *capture.Namespace, name string, args ...string) {
	t.Helper()
	if err := ns.Enter(func() error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// openFor tells of one namespace.
func openFor(t testing.TB, c FactsConfig) *Facts {
	t.Helper()
	f, err := OpenFacts(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// gather reads facts until enough says so, or time is up.
func gather(t testing.TB, f *Facts, enough func([]*capture.SocketFact) bool) (all []*capture.SocketFact) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end) && !enough(all); {
		if err := f.Read(20*time.Millisecond, func(x *capture.SocketFact) { all = append(all, x) }); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
