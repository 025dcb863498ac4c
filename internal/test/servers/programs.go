package servers

import (
	_ "embed"
	"fmt"
	"os"
	"syscall"
)

var (
	//go:embed server.js
	nodeScript []byte
	//go:embed server.py
	pythonScript []byte
)

func startNode(s *Server) error {
	if err := os.WriteFile(s.path("server.js"), nodeScript, 0o600); err != nil {
		return err
	}
	return s.command(syscall.SIGTERM, "node", "server.js", s.Protocol, s.port(), milliseconds(s.KeepAlive))
}

func startGunicorn(s *Server) error {
	if err := os.WriteFile(s.path("server.py"), pythonScript, 0o600); err != nil {
		return err
	}
	return s.command(syscall.SIGTERM, "gunicorn", "--bind", s.Addr, "--worker-class", "gthread",
		"--threads", "16", "--worker-connections", "4000", "--keep-alive", seconds(s.KeepAlive), "--log-level", "warning", "server:wsgi")
}

func startUvicorn(s *Server) error {
	if err := os.WriteFile(s.path("server.py"), pythonScript, 0o600); err != nil {
		return err
	}
	return s.command(syscall.SIGTERM, "uvicorn", "--host", "127.0.0.1", "--port", s.port(),
		"--timeout-keep-alive", seconds(s.KeepAlive), "--no-access-log", "--log-level", "warning", "server:asgi")
}

// startNginx lets a second server of the same nginx answer, since nginx itself
// answers without reading a body. Where that one has ended first, the connection
// is closed without a response.
func startNginx(s *Server) error {
	listen, certificate := "", ""
	if s.Protocol == "h2" {
		listen = " ssl http2"
		certificate = "ssl_certificate cert.pem; ssl_certificate_key key.pem;"
	}
	config := fmt.Sprintf(`
daemon off;
master_process on;
user root;
worker_processes 1;
worker_rlimit_nofile 8192;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 4096; }
http {
	log_format done "$request_method $request_uri";
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	client_body_buffer_size 128k;
	server {
		listen %s%s backlog=1024;
		%s
		keepalive_timeout %sms;
		keepalive_requests 1000000;
		access_log done done;
		location / {
			if ($request_method = GET) { return 200 "ok\n"; }
			proxy_pass http://unix:answer.sock;
			error_page 502 @ending;
		}
		location @ending { access_log off; return 444; }
	}
	server {
		listen unix:answer.sock;
		location / { return 200 "ok\n"; }
	}
}
`, s.Addr, listen, certificate, milliseconds(s.KeepAlive))
	if err := os.WriteFile(s.path("nginx.conf"), []byte(config), 0o600); err != nil {
		return err
	}
	_ = os.Remove(s.path("answer.sock")) // left by a SIGKILL
	return s.command(syscall.SIGQUIT, "nginx", "-p", s.dir, "-e", "error.log", "-c", s.path("nginx.conf"))
}

// sigwinch is SIGWINCH, which ends Apache gracefully. Package syscall of Windows has
// no name for it.
const sigwinch = syscall.Signal(28)

// startApache answers 204 to everything: Apache then reads and drops a body by
// itself.
func startApache(s *Server) error {
	config := fmt.Sprintf(`
ServerRoot %[1]s
ServerName 127.0.0.1
Listen %[2]s
PidFile apache.pid
ErrorLog error.log
DefaultRuntimeDir %[1]s
Mutex posixsem
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
StartServers 1
ServerLimit 2
ThreadLimit 128
ThreadsPerChild 128
MaxRequestWorkers 256
AsyncRequestWorkerFactor 16
KeepAlive On
KeepAliveTimeout %[3]sms
MaxKeepAliveRequests 0
LogFormat "%%m %%U%%q" done
CustomLog done done
RedirectMatch 204 .*
`, s.dir, s.Addr, milliseconds(s.KeepAlive))
	if err := os.WriteFile(s.path("apache.conf"), []byte(config), 0o600); err != nil {
		return err
	}
	return s.command(sigwinch, "apache2", "-D", "FOREGROUND", "-f", s.path("apache.conf"))
}
