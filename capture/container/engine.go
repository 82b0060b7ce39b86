package container

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// A Host says where the engines of a host are.
type Host struct {
	// Sockets are where Docker's API is spoken, by Docker or by Podman.
	Sockets []string
	// Stores are where Podman and CRI-O keep what they know.
	Stores []Store
	// Containerd are containerd's directories of state.
	Containerd []string
	// Proc is where processes are seen.
	Proc string

	notes []string // what was left out
}

// A Store is where github.com/containers/storage keeps containers.
type Store struct {
	Graph string // what lasts: /var/lib/containers/storage
	Run   string // what does not: /run/containers/storage
}

// nonBlocking has opening a FIFO return at once.
const nonBlocking = syscall.O_NONBLOCK

const (
	// maxUsers bounds the users whose own engines are asked.
	maxUsers = 32
	// maxAnswer bounds an engine's answer, in bytes: a container takes some two
	// thousand.
	maxAnswer = 16 << 20
	// maxState bounds a file of state.
	maxState = 16 << 20
	// maxEntries bounds the containers in a directory.
	maxEntries = 4096
)

// Local returns where this host's engines are by default, and where the
// environment says: DOCKER_HOST, CONTAINER_HOST, CONTAINERS_STORAGE_CONF and
// CONTAINERD_ADDRESS.
func Local() *Host {
	h := &Host{Proc: "/proc"}
	for _, name := range []string{"DOCKER_HOST", "CONTAINER_HOST"} {
		v := os.Getenv(name)
		if path, ok := strings.CutPrefix(v, "unix://"); ok {
			h.Sockets = append(h.Sockets, path)
		} else if v != "" {
			h.notes = append(h.notes, fmt.Sprintf("%s=%s is not on this host", name, v))
		}
	}
	h.Sockets = append(h.Sockets, "/var/run/docker.sock", "/run/podman/podman.sock")

	run := Store{Graph: "/var/lib/containers/storage", Run: "/run/containers/storage"}
	for _, conf := range []string{"/usr/share/containers/storage.conf", "/etc/containers/storage.conf", os.Getenv("CONTAINERS_STORAGE_CONF")} {
		run.configure(conf)
	}
	h.Stores = append(h.Stores, run)

	if address := strings.TrimPrefix(os.Getenv("CONTAINERD_ADDRESS"), "unix://"); address != "" {
		h.Containerd = append(h.Containerd, filepath.Dir(address))
	}
	h.Containerd = append(h.Containerd, "/run/containerd", "/run/k3s/containerd", "/run/docker/containerd/daemon", "/var/snap/microk8s/common/run/containerd")

	// Users without root have engines of their own.
	users, _ := os.ReadDir("/run/user")
	for _, u := range users[:min(len(users), maxUsers)] {
		dir := "/run/user/" + u.Name()
		h.Sockets = append(h.Sockets, dir+"/docker.sock", dir+"/podman/podman.sock")
		if who, err := user.LookupId(u.Name()); err == nil {
			h.Stores = append(h.Stores, Store{Graph: who.HomeDir + "/.local/share/containers/storage", Run: dir + "/containers"})
		}
	}
	return h
}

// storeSetting is a line of storage.conf, containers-storage.conf(5).
var storeSetting = regexp.MustCompile(`(?m)^\s*(graphroot|runroot)\s*=\s*["']([^"'\n]+)["']`)

// configure takes over what a storage.conf says.
func (s *Store) configure(name string) {
	if name == "" {
		return
	}
	text, err := readFile(name, 1<<20)
	if err != nil {
		return
	}
	for _, m := range storeSetting.FindAllStringSubmatch(string(text), -1) {
		if m[1] == "graphroot" {
			s.Graph = m[2]
		} else {
			s.Run = m[2]
		}
	}
}

// A source tells of containers. It returns fs.ErrNotExist if it does not exist.
type source struct {
	name string
	list func(context.Context) ([]*Container, error)
}

// sources returns all there are, those that know most of a container first.
func (h *Host) sources() (all []source) {
	seen := map[string]bool{}
	add := func(name string, list func(context.Context) ([]*Container, error)) {
		// /var/run is /run as a rule.
		if real, err := filepath.EvalSymlinks(name); err == nil && seen[real] {
			return
		} else if err == nil {
			seen[real] = true
		}
		all = append(all, source{name, list})
	}
	for _, path := range h.Sockets {
		add(path, engine(path).list)
	}
	for _, s := range h.Stores {
		add(s.Graph, s.list)
	}
	for _, dir := range h.Containerd {
		add(filepath.Join(dir, containerdTasks), tasks(dir).list)
	}
	return all
}

// An engine is the socket of one that speaks Docker's API.
type engine string

// open asks for a path. It returns the engine's name, and an answer whose body is
// to be closed.
func (e engine) open(ctx context.Context, path string) (name string, _ *http.Response, err error) {
	// No proxy, no redirect, and no connection left behind.
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", string(e))
			},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return "", nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := err.(*url.Error); ok {
			err = u.Err
		}
		if o, ok := err.(*net.OpError); ok {
			err = o.Err
		}
		if s, ok := err.(*os.SyscallError); ok {
			err = s.Err
		}
		return "", nil, err
	}
	name = "docker"
	if strings.HasPrefix(resp.Header.Get("Server"), "Libpod/") {
		name = "podman"
	}
	return name, resp, nil
}

// get asks for a path and decodes the answer. It returns the engine's name.
func (e engine) get(ctx context.Context, path string, answer any) (name string, err error) {
	name, resp, err := e.open(ctx, path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return name, fmt.Errorf("it answers %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return name, err
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return name, fmt.Errorf("it does not answer as an engine: %w", err)
	}
	return name, nil
}

// list asks for all containers: GET /containers/json.
func (e engine) list(ctx context.Context) (all []*Container, err error) {
	var answer []struct {
		ID     string `json:"Id"`
		Names  []string
		State  string
		Labels map[string]string
	}
	name, err := e.get(ctx, "/containers/json?all=true", &answer)
	if err != nil {
		return nil, err
	}
	for _, a := range answer {
		if !isID(a.ID) {
			continue
		}
		c := &Container{Engine: name, ID: a.ID, State: a.State}
		c.ask = func(ctx context.Context) (int, error) { return e.process(ctx, c.ID) }
		for _, n := range a.Names {
			// A link's name is that of another container, a slash, and a word.
			if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
				c.call(n)
			}
		}
		c.callPod(a.Labels["io.kubernetes.pod.namespace"], a.Labels["io.kubernetes.pod.name"], a.Labels["io.kubernetes.container.name"])
		all = append(all, c)
	}
	return all, nil
}

// process asks for the first process: GET /containers/ID/json.
func (e engine) process(ctx context.Context, id string) (int, error) {
	var answer struct{ State struct{ Pid int } }
	_, err := e.get(ctx, "/containers/"+id+"/json", &answer)
	return answer.State.Pid, err
}

// call gives c a name, or a further one.
func (c *Container) call(name string) {
	switch name {
	case "", c.Name:
	default:
		if c.Name == "" {
			c.Name = name
		} else {
			c.others = append(c.others, name)
		}
	}
}

// callPod gives c the names that Kubernetes has for a container of a pod: its own,
// and POD, POD/NAME, NAMESPACE/POD/NAME. The name of the sandbox is "".
func (c *Container) callPod(namespace, pod, name string) {
	if pod == "" {
		return
	}
	full := pod
	if name != "" {
		full += "/" + name
	}
	c.call(full)
	c.others = append(c.others, pod, full, namespace+"/"+full)
	if name != "" {
		c.others = append(c.others, name)
	}
}
