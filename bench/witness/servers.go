//go:build linux

package main

import (
	"embed"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

//go:embed programs
var programs embed.FS

// Ports that servers listen on.
const (
	port       = 9000 // the server that is watched
	originPort = 9999 // the Go program behind a server that has no applications of its own
	proxyPort  = 8000 // a proxy in the client's namespace
)

// A serverKind is a server program and how this bench runs it.
type serverKind struct {
	name    string
	command string // must be installed
	version []string
	// proxy means that requests are handled by the Go origin behind it.
	proxy bool
	// idle returns when it really closes an idle connection that was configured to
	// be closed after T: some add a grace, or look only once a second.
	idle func(T time.Duration) (earliest, latest time.Duration)
	// early says that it may close well before that, too.
	early bool
	// crashes are the actions with which an application can end a connection.
	crashes []string
	// reload is the signal that replaces the configuration or ends it gracefully.
	reload syscall.Signal
	tls    bool
	limit  bool // can be told to close after so many requests, or to replace its worker
	start  func(l *lab, o options) (*proc, error)
}

// options are a server's settings.
type options struct {
	idle  int // seconds
	limit int // requests on a connection, or of a worker; 0 for the default
	tls   bool
	extra string // more lines for the configuration
}

func exactly(T time.Duration) (time.Duration, time.Duration) { return T, T + 8*time.Millisecond }

// serverKinds returns every server. Go is the first: it needs nothing installed.
func serverKinds() []serverKind {
	return []serverKind{
		{name: "go", version: nil, idle: exactly, crashes: []string{"crash", "reset", "unreadclose"}, reload: syscall.SIGTERM, tls: true, start: startGo},
		{name: "nginx", limit: true, command: "nginx", version: []string{"-v"}, proxy: true, idle: exactly, reload: syscall.SIGHUP, tls: true, start: startNginx},
		{name: "apache", limit: true, command: "apache2", version: []string{"-v"}, proxy: true, idle: func(T time.Duration) (time.Duration, time.Duration) { return T, T + 150*time.Millisecond },
			reload: syscall.SIGUSR1, tls: true, start: startApache},
		{name: "haproxy", command: "haproxy", version: []string{"-v"}, proxy: true, idle: exactly, reload: syscall.SIGUSR2, tls: true, start: startHAProxy},
		{name: "lighttpd", limit: true, command: "lighttpd", version: []string{"-v"}, proxy: true,
			// Its clock ticks once a second, and what it counts from is now and then the
			// request before the last.
			early:  true,
			idle:   func(T time.Duration) (time.Duration, time.Duration) { return T, T + 2100*time.Millisecond },
			reload: syscall.SIGUSR1, start: startLighttpd},
		{name: "caddy", command: "caddy", version: []string{"version"}, proxy: true, idle: exactly, reload: syscall.SIGTERM, tls: true, start: startCaddy},
		{name: "node", command: "node", version: []string{"--version"},
			// Node adds a second to keepAliveTimeout.
			idle:    func(T time.Duration) (time.Duration, time.Duration) { return exactly(T + time.Second) },
			crashes: []string{"crash", "reset", "unreadclose"}, reload: syscall.SIGTERM, tls: true, start: startNode},
		{name: "gunicorn", limit: true, command: "/usr/bin/gunicorn", version: []string{"--version"},
			// The thread worker looks at its idle connections when it wakes up, once a
			// second at least.
			idle:   func(T time.Duration) (time.Duration, time.Duration) { return T, T + 1050*time.Millisecond },
			reload: syscall.SIGHUP, tls: true, start: startGunicorn},
		{name: "gunicorn-sync", command: "/usr/bin/gunicorn", version: []string{"--version"}, idle: exactly, crashes: []string{"crash"},
			reload: syscall.SIGHUP, tls: true, start: startGunicornSync},
		{name: "uvicorn", limit: true, command: "/usr/bin/uvicorn", version: []string{"--version"}, idle: exactly, reload: syscall.SIGTERM, tls: true, start: startUvicorn},
		{name: "aiohttp", command: "/usr/bin/python3", version: []string{"-c", "import aiohttp; print('aiohttp', aiohttp.__version__)"}, idle: exactly,
			crashes: []string{"crash", "unreadclose"}, reload: syscall.SIGTERM, tls: true, start: startAiohttp},
		{name: "java", command: "java", version: []string{"--version"},
			// It counts in ticks, of 20 ms here.
			early: true, idle: func(T time.Duration) (time.Duration, time.Duration) { return T, T + 60*time.Millisecond },
			crashes: []string{"crash", "unreadclose"}, reload: syscall.SIGTERM, tls: true, start: startJava},
	}
}

// startOrigin starts the Go program that answers for a proxying server.
func startOrigin(l *lab) error {
	p, err := l.start(l.server, "app.log", nil, self, "serve", fmt.Sprintf("127.0.0.1:%d", originPort), "60")
	if err != nil {
		return err
	}
	return p.listening(originPort)
}

// program writes an embedded program to the case's directory, once: another
// interpreter may be reading it.
func (l *lab) program(name string) (string, error) {
	if _, err := os.Stat(l.file(name)); err == nil {
		return l.file(name), nil
	}
	b, err := programs.ReadFile("programs/" + name)
	if err != nil {
		return "", err
	}
	return l.write(name, string(b))
}

// run starts a server and waits until it listens.
func (l *lab) run(log, command string, args ...string) (*proc, error) {
	p, err := l.start(l.server, log, nil, command, args...)
	if err != nil {
		return nil, err
	}
	return p, p.listening(port)
}

// configured starts a proxying server that reads the given configuration.
func (l *lab) configured(name, text, command string, args ...string) (*proc, error) {
	if err := startOrigin(l); err != nil {
		return nil, err
	}
	file, err := l.write(name, text)
	if err != nil {
		return nil, err
	}
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "CONFIG", file)
	}
	return l.run("server.log", command, args...)
}

// when returns text if on, and nothing otherwise.
func when(on bool, text string) string {
	if on {
		return text
	}
	return ""
}

func startGo(l *lab, o options) (*proc, error) {
	args := []string{"serve", fmt.Sprintf("%s:%d", l.addr, port), fmt.Sprint(o.idle)}
	if o.tls {
		args = append(args, l.certs.cert, l.certs.key)
	}
	return l.run("app.log", self, args...)
}

func startNode(l *lab, o options) (*proc, error) {
	file, err := l.program("server.js")
	if err != nil {
		return nil, err
	}
	args := []string{file, l.addr, fmt.Sprint(port), fmt.Sprint(o.idle)}
	if o.tls {
		args = append(args, l.certs.cert, l.certs.key)
	}
	return l.run("app.log", "node", args...)
}

func startAiohttp(l *lab, o options) (*proc, error) {
	file, err := l.program("aiohttp_server.py")
	if err != nil {
		return nil, err
	}
	args := []string{file, l.addr, fmt.Sprint(port), fmt.Sprint(o.idle)}
	if o.tls {
		args = append(args, l.certs.cert, l.certs.key)
	}
	return l.run("app.log", "/usr/bin/python3", args...)
}

func startJava(l *lab, o options) (*proc, error) {
	file, err := l.program("Server.java")
	if err != nil {
		return nil, err
	}
	args := []string{"-Djava.net.preferIPv4Stack=true", "-XX:TieredStopAtLevel=1", file, l.addr, fmt.Sprint(port), fmt.Sprint(o.idle)}
	if o.tls {
		args = append(args, l.certs.cert, l.certs.key)
	}
	return l.run("app.log", "java", args...)
}

func startUvicorn(l *lab, o options) (*proc, error) {
	if _, err := l.program("asgi.py"); err != nil {
		return nil, err
	}
	args := []string{"--host", l.addr, "--port", fmt.Sprint(port), "--timeout-keep-alive", fmt.Sprint(o.idle), "--no-access-log", "--app-dir", l.dir, "asgi:app"}
	if o.limit > 0 {
		args = append(args, "--limit-max-requests", fmt.Sprint(o.limit*10))
	}
	if o.tls {
		args = append(args, "--ssl-certfile", l.certs.cert, "--ssl-keyfile", l.certs.key)
	}
	return l.run("app.log", "/usr/bin/uvicorn", args...)
}

func startGunicorn(l *lab, o options) (*proc, error) {
	return l.gunicorn(o, "-k", "gthread", "--threads", "64", "-w", "1")
}

func startGunicornSync(l *lab, o options) (*proc, error) {
	return l.gunicorn(o, "-k", "sync", "-w", "4")
}

func (l *lab) gunicorn(o options, args ...string) (*proc, error) {
	if _, err := l.program("wsgi.py"); err != nil {
		return nil, err
	}
	args = append(args, "--keep-alive", fmt.Sprint(o.idle), "-b", fmt.Sprintf("%s:%d", l.addr, port), "--graceful-timeout", "3", "--chdir", l.dir)
	if o.limit > 0 {
		args = append(args, "--max-requests", fmt.Sprint(o.limit*4))
	}
	if o.tls {
		args = append(args, "--certfile", l.certs.cert, "--keyfile", l.certs.key)
	}
	return l.run("app.log", "/usr/bin/gunicorn", append(args, "wsgi:app")...)
}

func startNginx(l *lab, o options) (*proc, error) {
	limit := 1000
	if o.limit > 0 {
		limit = o.limit
	}
	return l.configured("nginx.conf", fmt.Sprintf(`daemon off; worker_processes 1; user root;
pid %[1]s/nginx.pid; error_log %[1]s/nginx.err info;
events {}
http {
	log_format x 'DONE $request_method $uri $status'; access_log %[1]s/access.log x;
	keepalive_timeout %[2]ds; keepalive_requests %[3]d;
	client_header_timeout 2s; client_body_timeout 2s; client_max_body_size 100k;
	lingering_timeout 1s;
	server {
		listen %[4]s:%[5]d backlog=1024%[6]s;
		%[7]s
		location / { proxy_pass http://127.0.0.1:%[8]d; proxy_http_version 1.1; %[9]s }
	}
}
`, l.dir, o.idle, limit, l.addr, port, when(o.tls, " ssl"),
		when(o.tls, fmt.Sprintf("ssl_certificate %s; ssl_certificate_key %s; ssl_protocols TLSv1.2 TLSv1.3;", l.certs.cert, l.certs.key)),
		originPort, o.extra), "nginx", "-c", "CONFIG", "-p", l.dir)
}

func startApache(l *lab, o options) (*proc, error) {
	const modules = "/usr/lib/apache2/modules/mod_"
	var load strings.Builder
	for _, m := range strings.Fields("mpm_event unixd log_config authz_core proxy proxy_http reqtimeout mime socache_shmcb ssl") {
		if _, err := os.Stat(modules + m + ".so"); err == nil && (o.tls || m != "ssl" && m != "socache_shmcb") {
			fmt.Fprintf(&load, "LoadModule %s_module %s%s.so\n", m, modules, m)
		}
	}
	limit := 100
	if o.limit > 0 {
		limit = o.limit
	}
	return l.configured("apache.conf", load.String()+fmt.Sprintf(`ServerRoot %[1]s
ServerName witness
PidFile %[1]s/apache.pid
Listen %[2]s:%[3]d
User www-data
Group www-data
ErrorLog %[1]s/apache.err
TypesConfig /etc/mime.types
LogLevel info
LogFormat "DONE %%m %%U %%>s %%X" x
CustomLog %[1]s/access.log x
KeepAliveTimeout %[4]d
MaxKeepAliveRequests %[5]d
RequestReadTimeout header=2 body=2
Timeout 4
ThreadsPerChild 50
MaxRequestWorkers 100
ServerLimit 2
StartServers 1
LimitRequestBody 100000
ProxyPass / http://127.0.0.1:%[6]d/ disablereuse=on
%[7]s
`, l.dir, l.addr, port, o.idle, limit, originPort,
		when(o.tls, fmt.Sprintf("SSLEngine on\nSSLCertificateFile %s\nSSLCertificateKeyFile %s\n", l.certs.cert, l.certs.key))+o.extra),
		"apache2", "-f", "CONFIG", "-DFOREGROUND")
}

func startHAProxy(l *lab, o options) (*proc, error) {
	return l.configured("haproxy.cfg", fmt.Sprintf(`global
 maxconn 2000
 log stdout format raw local0
defaults
 mode http
 log global
 log-format "DONE %%HM %%HU %%ST %%ts"
 timeout client 3s
 timeout server 10s
 timeout connect 3s
 timeout http-request 2s
 timeout http-keep-alive %[1]ds
frontend f
 bind %[2]s:%[3]d%[4]s
 http-request deny deny_status 413 if { req.hdr_val(content-length) gt 100000 }
%[5]s
 default_backend b
backend b
 server s 127.0.0.1:%[6]d
`, o.idle, l.addr, port, when(o.tls, " ssl crt "+l.certs.both), o.extra, originPort),
		"haproxy", "-W", "-f", "CONFIG", "-p", l.file("haproxy.pid"))
}

func startLighttpd(l *lab, o options) (*proc, error) {
	limit := 1000
	if o.limit > 0 {
		limit = o.limit
	}
	return l.configured("lighttpd.conf", fmt.Sprintf(`server.modules=("mod_proxy","mod_accesslog")
server.document-root="%[1]s"
server.bind="%[2]s"
server.port=%[3]d
server.max-keep-alive-idle=%[4]d
server.max-keep-alive-requests=%[5]d
server.max-read-idle=2
server.max-write-idle=4
server.max-request-size=100
server.errorlog="%[1]s/lighttpd.err"
accesslog.filename="%[1]s/access.log"
accesslog.format="DONE %%m %%U %%s"
proxy.server=(""=>(("host"=>"127.0.0.1","port"=>%[6]d)))
%[7]s
`, l.dir, l.addr, port, o.idle, limit, originPort, o.extra), "lighttpd", "-D", "-f", "CONFIG")
}

func startCaddy(l *lab, o options) (*proc, error) {
	return l.configured("Caddyfile", fmt.Sprintf(`{
 admin off
 auto_https off
 log {
  output file %[1]s/caddy.log
 }
 servers {
  protocols h1
  timeouts {
   read_header 2s
   read_body 2s
   idle %[2]ds
  }
 }
}
%[3]s://:%[5]d {
 bind %[4]s
 %[6]s
 request_body {
  max_size 100KB
 }
 reverse_proxy 127.0.0.1:%[7]d
}
`, l.dir, o.idle, map[bool]string{false: "http", true: "https"}[o.tls], l.addr, port,
		when(o.tls, fmt.Sprintf("tls %s %s", l.certs.cert, l.certs.key)), originPort),
		"caddy", "run", "--config", "CONFIG", "--adapter", "caddyfile")
}
