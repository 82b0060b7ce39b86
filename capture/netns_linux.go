package capture

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace to listen in, and what holds it: a process
// or a name.
//
// It stays open until Close; what was opened inside stays there after that. Enter
// takes CAP_SYS_ADMIN, and the namespace of another user's process CAP_SYS_PTRACE.
type Namespace struct {
	fd   int
	id   nsID
	path string // "" if no name holds it
	// The process, as what does not become another one when its number is used
	// again: its directory in /proc, and a pidfd, -1 before Linux 5.3.
	pid, proc, pidfd int
}

// An nsID tells namespaces apart: ioctl_ns(2).
type nsID struct{ dev, ino uint64 }

// namespaceDirs are where iproute2 keeps names.
var namespaceDirs = [...]string{"/run/netns/", "/var/run/netns/"}

// maxNamesListed bounds what is listed of that which exists.
const maxNamesListed = 10

// OpenNamespace opens the namespace with a name that ip netns knows, or that a
// path with a slash leads to, such as /proc/1/ns/net.
func OpenNamespace(name string) (*Namespace, error) {
	if strings.Contains(name, "/") {
		n, err := openNamespaceFile(name)
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("there is no %s", name)
		}
		return n, err
	}
	for _, dir := range namespaceDirs {
		n, err := openNamespaceFile(dir + name)
		if !errors.Is(err, unix.ENOENT) {
			return n, err
		}
	}
	return nil, fmt.Errorf("there is no network namespace %q; %s", name, namedNamespaces())
}

func openNamespaceFile(path string) (_ *Namespace, err error) {
	// Opening a FIFO or a device for reading would do something, this does not.
	file, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, namespaceError(path, err)
	}
	defer unix.Close(file)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(file, &fs), unix.Fstat(file, &st)); err != nil {
		return nil, namespaceError(path, err)
	}
	if fs.Type != unix.NSFS_MAGIC { // Linux 3.19; in procfs before
		return nil, fmt.Errorf("%s is not a network namespace, but %s", path, fileKind(st.Mode))
	}
	n := &Namespace{path: path, proc: -1, pidfd: -1}
	if n.fd, err = unix.Open("/proc/self/fd/"+strconv.Itoa(file), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, namespaceError(path, err)
	}
	if err := n.identify(path); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// OpenProcessNamespace opens the namespace of a process.
func OpenProcessNamespace(pid int) (_ *Namespace, err error) {
	n := &Namespace{fd: -1, pid: pid, proc: -1, pidfd: -1}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	name := "process " + strconv.Itoa(pid)
	n.proc, err = unix.Open("/proc/"+strconv.Itoa(pid), unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("there is no %s", name)
	} else if err != nil {
		return nil, namespaceError(name, err)
	}
	n.fd, err = unix.Openat(n.proc, "ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, namespaceError(name, err)
	}
	n.pidfd, err = unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, namespaceError(name, err)
	} else if err != nil {
		n.pidfd = -1 // an old kernel, or a filter of system calls
	}
	// What is in proc is still there: so the pidfd is of the same process.
	if n.goneFromProc() {
		return nil, namespaceError(name, unix.ESRCH)
	}
	return n, n.identify(name)
}

func namespaceError(what string, err error) error {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("network namespace of %s: %w", what, ErrEnter)
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT) && strings.HasPrefix(what, "process "):
		return fmt.Errorf("%s has ended", what)
	}
	return fmt.Errorf("network namespace of %s: %w", what, err)
}

// identify checks that fd is of a network namespace.
func (n *Namespace) identify(name string) error {
	// Before Linux 4.11, the kernel does not say which kind it is of: setns will.
	kind, err := unix.IoctlRetInt(n.fd, unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is not a network namespace, but another kind of namespace", name)
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return namespaceError(name, err)
	}
	n.id = nsID{st.Dev, st.Ino}
	return nil
}

func fileKind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFREG:
		return "an ordinary file"
	}
	return "a special file"
}

func namedNamespaces() string {
	var names []string
	for _, dir := range namespaceDirs {
		list, err := os.ReadDir(dir)
		if err != nil || len(list) == 0 {
			continue
		}
		for _, e := range list[:min(len(list), maxNamesListed)] {
			names = append(names, e.Name())
		}
		if more := len(list) - len(names); more > 0 {
			names = append(names, fmt.Sprintf("and %d more", more))
		}
		return "those that exist: " + strings.Join(names, ", ")
	}
	return "there is none that has a name"
}

// Ours reports whether it is the namespace that the caller is in anyway.
func (n *Namespace) Ours() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/thread-self/ns/net", &st) == nil && n.id == nsID{st.Dev, st.Ino}
}

// Same reports whether both are the same namespace.
func (n *Namespace) Same(m *Namespace) bool { return n.id == m.id }

// Inode returns the number that tells the namespace apart from others as long as
// it exists: that in brackets in what /proc/PID/ns/net links to.
func (n *Namespace) Inode() uint64 { return n.id.ino }

// Enter calls fn on a thread that is inside the namespace, and returns its error.
// The thread is thrown away afterwards; the rest of the process stays where it is.
// Goroutines that fn starts do not run in the namespace.
func (n *Namespace) Enter(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := errors.New("the function left its goroutine")
		defer func() { done <- err }()
		switch e := unix.Setns(n.fd, unix.CLONE_NEWNET); {
		case errors.Is(e, unix.EPERM):
			err = ErrEnter
		case e != nil:
			err = fmt.Errorf("enter the network namespace: %w", e)
		default:
			err = fn()
		}
	}()
	return <-done
}

// Ended reports whether what held the namespace has ended: the process, or the
// name. It takes no privilege.
func (n *Namespace) Ended() bool {
	switch {
	case n.pidfd >= 0:
		p := []unix.PollFd{{Fd: int32(n.pidfd), Events: unix.POLLIN}}
		k, err := unix.Poll(p, 0)
		return err == nil && k > 0 && p[0].Revents&unix.POLLIN != 0
	case n.proc >= 0:
		return n.goneFromProc()
	case n.path == "":
		return false
	}
	var st unix.Stat_t
	err := unix.Stat(n.path, &st)
	return errors.Is(err, unix.ENOENT) || err == nil && n.id != nsID{st.Dev, st.Ino}
}

// goneFromProc reports whether the process whose directory is open has ended.
func (n *Namespace) goneFromProc() bool {
	fd, err := unix.Openat(n.proc, "stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	var b [512]byte
	k, err := unix.Read(fd, b[:])
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	// proc(5): the number, the command in parentheses, the state.
	_, state, ok := strings.Cut(string(b[:k][strings.LastIndexByte(string(b[:k]), ')')+1:]), " ")
	return ok && state != "" && slices.Contains([]byte("ZXx"), state[0])
}

// Close releases what is open. Ended must not be called after it.
func (n *Namespace) Close() {
	for _, fd := range []*int{&n.fd, &n.proc, &n.pidfd} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// NewNamespace makes a network namespace with nothing but a loopback interface,
// which is up. It is gone when it is closed and nothing is open inside.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{fd: -1, proc: -1, pidfd: -1}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // as in Enter
		done <- n.unshare()
	}()
	if err := <-done; err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// unshare gives the thread a namespace of its own and opens that.
func (n *Namespace) unshare() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		return ErrPrivilege
	} else if err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	if err := n.identify("it"); err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		lo.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
