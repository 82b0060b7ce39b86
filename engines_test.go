//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// imageOf returns the root of an image: a tar file that holds a program, /app.
func imageOf(t *testing.T, app string) []byte {
	t.Helper()
	program, err := os.ReadFile(app)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(program))})
	w.Write(program)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// shortDir is a new directory whose name leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestLiveDocker watches the containers of a Docker engine that it starts: one
// that makes no bridge, no rules for the firewall, and nothing outside of dir.
func TestLiveDocker(t *testing.T) {
	needEngine(t, "dockerd", "containerd", "runc")
	app := buildRaces(t)
	dir := shortDir(t)
	socket := filepath.Join(dir, "docker.sock")
	t.Cleanup(func() {
		// A daemon that was killed leaves these behind.
		exec.Command("umount", filepath.Join(dir, "exec/netns/default")).Run()
		exec.Command("umount", filepath.Join(dir, "data")).Run()
	})
	daemon(t, dir, socket, "dockerd", "-H", "unix://"+socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none", "--storage-driver", "vfs")
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	call := func(method, path string, body, answer any) {
		t.Helper()
		var b []byte
		kind := "application/json"
		if raw, ok := body.([]byte); ok {
			b, kind = raw, "application/x-tar"
		} else {
			b, _ = json.Marshal(body)
		}
		req, err := http.NewRequest(method, "http://docker"+path, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %v %s %s", method, path, err, resp.Status, text)
		}
		if answer != nil {
			if err := json.Unmarshal(text, answer); err != nil {
				t.Fatal(err)
			}
		}
	}
	call("POST", "/images/create?fromSrc=-&repo=races", imageOf(t, app), nil)
	var ids []string
	t.Cleanup(func() {
		for _, id := range ids {
			call("DELETE", "/containers/"+id+"?force=true", nil, nil)
		}
		client.CloseIdleConnections()
	})
	e := testEngine{env: []string{"DOCKER_HOST=unix://" + socket}}
	e.run = func(name string, app []string, host bool) string {
		t.Helper()
		network := "none"
		if host {
			network = "host"
		}
		for i, id := range ids { // a name is free once the container is gone
			if strings.HasPrefix(id, name+"=") {
				call("DELETE", "/containers/"+strings.TrimPrefix(id, name+"="), nil, nil)
				ids = append(ids[:i], ids[i+1:]...)
			}
		}
		var made struct{ ID string }
		call("POST", "/containers/create?name="+name, map[string]any{
			"Image": "races", "Cmd": app,
			"HostConfig": map[string]any{"NetworkMode": network, "Ulimits": []any{map[string]any{"Name": "nofile", "Soft": 1000, "Hard": 1000}}},
		}, &made)
		ids = append(ids, made.ID)
		call("POST", "/containers/"+made.ID+"/start", nil, nil)
		return made.ID
	}
	e.stop = func(name string) {
		t.Helper()
		call("POST", "/containers/"+name+"/stop?t=0", nil, nil)
		if name == "race-b" {
			return // its name stays
		}
		call("POST", fmt.Sprintf("/containers/%s/rename?name=%s-%d", name, name, time.Now().UnixNano()), nil, nil)
	}
	watchContainers(t, "docker", e)
	if said := refused(t, e.env, "--container", "race-b"); !strings.HasPrefix(said, "whyreset: container race-b is not running but exited") {
		t.Error(said)
	}
}

// TestLivePodman watches the containers of Podman, from its state and through its
// service.
func TestLivePodman(t *testing.T) {
	needEngine(t, "podman", "runc", "conmon")
	app := buildRaces(t)
	dir := shortDir(t)
	conf := filepath.Join(dir, "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", dir+"/graph", dir+"/run")
	image := filepath.Join(dir, "image.tar")
	for name, text := range map[string][]byte{conf: []byte(text), image: imageOf(t, app)} {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"CONTAINERS_STORAGE_CONF=" + conf}
	podman := func(args ...string) string {
		t.Helper()
		return must(t, env, append([]string{"podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--tmpdir", dir + "/tmp"}, args...)...)
	}
	podman("import", image, "races")
	t.Cleanup(func() {
		podman("rm", "--all", "--force", "--time", "0")
		podman("rmi", "--all", "--force")
	})
	e := testEngine{env: env}
	e.run = func(name string, app []string, host bool) string {
		t.Helper()
		network := "none"
		if host {
			network = "host"
		}
		// Podman's own limits are higher than it may be permitted to set.
		return podman(append([]string{"run", "--detach", "--rm", "--name", name, "--network", network, "--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "localhost/races:latest"}, app...)...)
	}
	e.stop = func(name string) {
		t.Helper()
		podman("stop", "--time", "0", name)
	}
	watchContainers(t, "podman", e)

	socket := filepath.Join(dir, "podman.sock")
	e.run("race-s", append([]string{"/app"}, races...), false)
	service := exec.Command("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--tmpdir", dir+"/tmp", "system", "service", "--time", "0", "unix://"+socket)
	os.Setenv("CONTAINERS_STORAGE_CONF", conf)
	defer os.Unsetenv("CONTAINERS_STORAGE_CONF")
	daemon(t, dir, socket, service.Args...)
	r := start(t, here(t, []string{"CONTAINER_HOST=unix://" + socket, "CONTAINERS_STORAGE_CONF="}, "--container", "race-s", "-o", "json"))
	r.awaitRace(t)
	e.stop("race-s")
	r.endsWith(t, "container race-s has ended")
}

// TestLiveContainerd watches containers that only containerd knows of.
func TestLiveContainerd(t *testing.T) {
	needEngine(t, "containerd", "ctr", "runc")
	app := buildRaces(t)
	dir := shortDir(t)
	address := filepath.Join(dir, "state/containerd.sock")
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(app, filepath.Join(dir, "rootfs/app")); err != nil {
		must(t, nil, "cp", app, filepath.Join(dir, "rootfs/app"))
	}
	conf := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = %q
[ttrpc]
address = %q
`, dir+"/root", dir+"/state", address, address+".ttrpc")
	if err := os.WriteFile(dir+"/config.toml", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon(t, dir, address, "containerd", "--config", dir+"/config.toml")
	env := []string{"CONTAINERD_ADDRESS=" + address}
	e := testEngine{env: env}
	started := map[string]bool{}
	e.run = func(name string, app []string, host bool) string {
		t.Helper()
		must(t, env, append([]string{"ctr", "run", "--detach", "--rootfs", dir + "/rootfs", name}, app...)...)
		started[name] = true
		return name
	}
	e.stop = func(name string) {
		t.Helper()
		must(t, env, "ctr", "task", "kill", "--signal", "KILL", name)
		for i := 0; ; i++ { // it takes a moment
			cmd := exec.Command("ctr", "task", "rm", name)
			cmd.Env = append(os.Environ(), env...)
			out, err := cmd.CombinedOutput()
			if err == nil {
				break
			} else if i == 50 {
				t.Fatalf("%s: %v", out, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		must(t, env, "ctr", "container", "rm", name)
		delete(started, name)
	}
	t.Cleanup(func() {
		for name := range started {
			e.stop(name)
		}
	})
	watchContainers(t, "containerd", e)
}
