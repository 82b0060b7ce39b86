package container

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// list reads which containers a store has:
//
//	GRAPH/DRIVER-containers/containers.json
//	RUN/DRIVER-containers/ID/userdata/pidfile
//
// The second is what conmon, which starts containers for both Podman and CRI-O, has
// the runtime write.
func (s Store) list(ctx context.Context) (all []*Container, err error) {
	if _, err := os.ReadDir(s.Graph); err != nil {
		return nil, err
	}
	var names []string
	for _, pattern := range []string{
		s.Graph + "/*-containers/containers.json",
		s.Graph + "/*-containers/volatile-containers.json",
		s.Run + "/*-containers/volatile-containers.json",
	} {
		found, _ := filepath.Glob(pattern) // it is a good pattern, unless the store's name is none
		names = append(names, found...)
	}
	for _, name := range names {
		text, err := readFile(name, maxState)
		if err != nil {
			return all, err
		}
		var entries []struct {
			ID       string   `json:"id"`
			Names    []string `json:"names"`
			Metadata string   `json:"metadata"`
		}
		if len(text) == 0 {
			continue
		}
		if err := json.Unmarshal(text, &entries); err != nil {
			return all, err
		}
		driver := filepath.Base(filepath.Dir(name))
		for _, e := range entries[:min(len(entries), maxEntries)] {
			if !isID(e.ID) || ctx.Err() != nil {
				continue
			}
			c := &Container{Engine: "podman", ID: e.ID, State: "exited"}
			var meta struct {
				Name      string `json:"metadata-name"`
				Pod       string `json:"pod-name"`
				Namespace string `json:"namespace"`
			}
			// Whoever made it writes there what it likes.
			if json.Unmarshal([]byte(e.Metadata), &meta) == nil && meta.Pod != "" {
				c.Engine = "cri-o"
				if meta.Name != "" {
					c.Name = meta.Name
				}
				c.others = append(c.others, meta.Pod)
			}
			for _, n := range e.Names {
				c.call(n)
			}
			c.begunBy(readPID(filepath.Join(s.Run, driver, e.ID, "userdata/pidfile")))
			all = append(all, c)
		}
	}
	return all, nil
}

// begunBy notes the first process, if there is one.
func (c *Container) begunBy(pid int) {
	if pid <= 0 {
		return
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
		c.PID, c.State = pid, "running"
	}
}

// readPID returns the number that a file holds, 0 if none.
func readPID(name string) int {
	text, err := readFile(name, 32)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// containerdTasks is the directory in which containerd keeps a directory NS/ID for
// each running container, with the first process's number and the OCI
// specification (core/runtime/v2, bundle.go).
const containerdTasks = "io.containerd.runtime.v2.task"

// tasks is a directory of containerd's state.
type tasks string

func (dir tasks) list(ctx context.Context) (all []*Container, err error) {
	root := filepath.Join(string(dir), containerdTasks)
	spaces, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	for _, space := range spaces {
		ids, err := os.ReadDir(filepath.Join(root, space.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return all, err
		}
		for _, id := range ids[:min(len(ids), maxEntries)] {
			if ctx.Err() != nil {
				return all, ctx.Err()
			}
			bundle := filepath.Join(root, space.Name(), id.Name())
			c := &Container{Engine: "containerd", ID: id.Name(), State: "ended"}
			c.begunBy(readPID(filepath.Join(bundle, "init.pid")))
			c.annotate(filepath.Join(bundle, "config.json"))
			all = append(all, c)
		}
	}
	return all, nil
}

// annotate takes the names from an OCI specification: those that containerd's own
// service for Kubernetes writes there (pkg/cri/annotations), and nerdctl's.
func (c *Container) annotate(name string) {
	text, err := readFile(name, 1<<20)
	if err != nil {
		return // the id has to do
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(text, &spec) != nil {
		return
	}
	a := spec.Annotations
	c.call(a["nerdctl/name"])
	c.callPod(a["io.kubernetes.cri.sandbox-namespace"], a["io.kubernetes.cri.sandbox-name"], a["io.kubernetes.cri.container-name"])
}
