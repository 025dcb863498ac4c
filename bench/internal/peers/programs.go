package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
	"github.com/caddy-connreuse/connreuse/internal/test/program"
)

// A route leads the paths below a prefix to an upstream address.
type route struct{ name, prefix, to string }

// startHAProxy starts HAProxy with one TLS frontend for each value of http-reuse,
// and returns their addresses in that order. All but that is as it is by default;
// timeouts have no default.
func startHAProxy(dir, cert string, reuse []string, routes map[string][]route) (*program.Program, []string, error) {
	var config strings.Builder
	config.WriteString(programs.HAProxy)
	var addrs []string
	for _, mode := range reuse {
		addr, err := programs.Address()
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, addr)
		fmt.Fprintf(&config, "frontend %s\n\tbind %s ssl crt %s alpn h2,http/1.1\n", mode, addr, cert)
		for _, r := range routes[mode] {
			fmt.Fprintf(&config, "\tuse_backend %s-%s if { path_beg %s }\n", mode, r.name, r.prefix)
		}
		for _, r := range routes[mode] {
			fmt.Fprintf(&config, "backend %s-%s\n\thttp-reuse %s\n\tserver upstream %s\n", mode, r.name, mode, r.to)
		}
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return nil, nil, err
	}
	p, err := programs.Start(addrs[0], dir, "haproxy", "haproxy", "-db", "-f", file)
	return p, addrs, err
}

// startNginx starts nginx with the settings that let it reuse connections to an
// upstream, and returns its address.
func startNginx(dir, cert string, routes []route) (*program.Program, string, error) {
	addr, err := programs.Address()
	if err != nil {
		return nil, "", err
	}
	var groups, locations strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&groups, "\tupstream %s { server %s; keepalive 64; }\n", r.name, r.to)
		fmt.Fprintf(&locations, "\t\tlocation %s { proxy_pass http://%s; }\n", r.prefix, r.name)
	}
	config := programs.Nginx(fmt.Sprintf(`%s	server {
		listen %s ssl http2;
		ssl_certificate %s;
		ssl_certificate_key %s;
%s	}
`, &groups, addr, cert, cert, &locations))
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, "", err
	}
	p, err := programs.Start(addr, dir, "nginx-light", "nginx", "-p", dir, "-e", "error.log", "-c", file)
	return p, addr, err
}

// startApache starts Apache httpd and returns its address. It gets more than 150
// workers, its default, since each client takes one of them while it is served.
func startApache(dir, cert string, routes []route) (*program.Program, string, error) {
	addr, err := programs.Address()
	if err != nil {
		return nil, "", err
	}
	var modules, passes strings.Builder
	for _, module := range []string{"mpm_event", "authz_core", "ssl", "http2", "proxy", "proxy_http"} {
		fmt.Fprintf(&modules, "LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", module, module)
	}
	for _, r := range routes {
		fmt.Fprintf(&passes, "ProxyPass %s http://%s%s\n", r.prefix, r.to, r.prefix)
	}
	config := fmt.Sprintf(`
%sServerRoot %s
ServerName %s
Listen %s
PidFile apache.pid
ErrorLog error.log
LogLevel crit
DefaultRuntimeDir %s
Mutex posixsem
ThreadsPerChild 64
MaxRequestWorkers 512
ServerLimit 8
MaxKeepAliveRequests 0
Protocols h2 http/1.1
SSLEngine on
SSLCertificateFile %s
%s`, &modules, dir, sidebyside.Host, addr, dir, cert, &passes)
	file := filepath.Join(dir, "apache.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, "", err
	}
	p, err := programs.Start(addr, dir, "apache2", "apache2", "-D", "FOREGROUND", "-f", file)
	return p, addr, err
}

// startH2O starts H2O and returns its address.
func startH2O(dir, cert string, routes []route) (*program.Program, string, error) {
	port, err := port.Free()
	if err != nil {
		return nil, "", err
	}
	var paths strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&paths, "      %s:\n        proxy.reverse.url: http://%s%s\n", r.prefix, r.to, r.prefix)
	}
	config := fmt.Sprintf(`
hosts:
  %s:
    listen:
      host: 127.0.0.1
      port: %d
      ssl:
        certificate-file: %s
        key-file: %s
    paths:
%s`, sidebyside.Host, port, cert, cert, &paths)
	file := filepath.Join(dir, "h2o.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, "", err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := programs.Start(addr, dir, "h2o", "h2o", "-c", file)
	return p, addr, err
}
