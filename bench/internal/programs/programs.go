// Package programs runs the proxies that this project is put beside.
package programs

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
	"github.com/caddy-connreuse/connreuse/internal/test/program"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// Start runs a program in a folder and waits until it listens on addr.
func Start(addr, dir, debianPackage string, args ...string) (*program.Program, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	p, err := program.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("%w: install the package %s", err, debianPackage)
	}
	if err := p.Listens(addr); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// HAProxy is how its configuration begins: timeouts have no default.
const HAProxy = "defaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 60s\n\ttimeout server 60s\n"

// Nginx is the configuration of nginx around what stands in its http block: with
// all its files in its folder, and with what it needs to reuse connections.
func Nginx(http string) string {
	return fmt.Sprintf(`
daemon off;
user root;
worker_processes auto;
pid nginx.pid;
error_log error.log crit;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	keepalive_requests 1000000;
	proxy_http_version 1.1;
	proxy_set_header Connection "";
%s}
`, http)
}

// WriteCertificate writes a certificate for [sidebyside.Host] and its key into one
// PEM file.
func WriteCertificate(file string) error {
	cert, err := testcert.SelfSigned(sidebyside.Host)
	if err != nil {
		return err
	}
	return testcert.WritePEM(cert, file, file)
}

// Address returns a free address of loopback.
func Address() (string, error) {
	port, err := port.Free()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// versionFlag is how a program is asked for its version, if not by --version.
var versionFlag = map[string]string{"haproxy": "-v", "nginx": "-v", "apache2": "-v"}

// date is what HAProxy says behind its version.
var date = regexp.MustCompile(` 20\d\d/.*`)

// Versions are those of programs.
func Versions(names ...string) []string {
	var versions []string
	for _, name := range names {
		flag := cmp.Or(versionFlag[name], "--version")
		out, _ := exec.Command(name, flag).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		line = date.ReplaceAllString(line, "")
		for _, prefix := range []string{"nginx version: ", "Server version: ", "Running "} {
			line = strings.TrimPrefix(line, prefix)
		}
		if name == "node" {
			line = "Node " + line
		}
		versions = append(versions, strings.TrimSpace(line))
	}
	return versions
}

// Servers are the versions of the programs of servers.
func Servers(kinds []servers.Kind) []string {
	var names []string
	for _, kind := range kinds {
		if kind.Program != "" && !slices.Contains(names, kind.Program) {
			names = append(names, kind.Program)
		}
	}
	return Versions(names...)
}

// Upstream starts the nginx that answers at once, and keeps connections for so long
// that no benchmark sees their end. stop ends it, and removes its files.
func Upstream() (addr string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return "", nil, err
	}
	nginx, err := servers.Start(dir, servers.Nginx, 75*time.Second)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	return nginx.Addr, func() {
		_ = nginx.Stop(false)
		_ = os.RemoveAll(dir)
	}, nil
}
