package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// A realm is a Kerberos realm with a KDC on loopback, the users alice and bob, and the
// service HTTP/intranet.example.com.
type realm struct {
	dir  string
	env  []string
	curl string
}

// startRealm starts the KDC and gets tickets for the users.
func startRealm(t *testing.T) *realm {
	t.Helper()
	util := needs.Program(t, "kdb5_util", "krb5-kdc")
	kdc := needs.Program(t, "krb5kdc", "krb5-kdc")
	admin := needs.Program(t, "kadmin.local", "krb5-admin-server")
	kinit := needs.Program(t, "kinit", "krb5-user")
	r := &realm{dir: t.TempDir(), curl: needs.Program(t, "curl", "curl")}
	port := freePort(t)
	r.write(t, "krb5.conf", `[libdefaults]
	default_realm = EXAMPLE.COM
	dns_lookup_realm = false
	dns_lookup_kdc = false
	dns_canonicalize_hostname = false
	rdns = false
[realms]
	EXAMPLE.COM = {
		kdc = 127.0.0.1:`+port+`
	}
`)
	r.write(t, "kdc.conf", strings.NewReplacer("PORT", port, "DIR", r.dir).Replace(`[kdcdefaults]
	kdc_listen = 127.0.0.1:PORT
	kdc_tcp_listen = 127.0.0.1:PORT
[realms]
	EXAMPLE.COM = {
		database_name = DIR/principal
		key_stash_file = DIR/stash
		acl_file = DIR/acl
	}
`))
	r.env = []string{"KRB5_CONFIG=" + r.dir + "/krb5.conf", "KRB5_KDC_PROFILE=" + r.dir + "/kdc.conf"}
	r.run(t, nil, "", util, "create", "-s", "-r", "EXAMPLE.COM", "-P", "of the database")
	r.run(t, nil, "", admin, "addprinc", "-randkey", "HTTP/intranet.example.com")
	r.run(t, nil, "", admin, "ktadd", "-k", r.keytab(), "HTTP/intranet.example.com")
	for _, user := range []string{"alice", "bob"} {
		r.run(t, nil, "", admin, "addprinc", "-pw", "of "+user, user)
	}
	player{env: r.env, listen: []string{port}, args: []string{kdc, "-n"}}.start(t)
	for _, user := range []string{"alice", "bob"} {
		r.run(t, nil, "of "+user+"\n", kinit, "-c", r.cache(user), user)
	}
	return r
}

func (r *realm) keytab() string           { return filepath.Join(r.dir, "http.keytab") }
func (r *realm) cache(user string) string { return "FILE:" + filepath.Join(r.dir, user+".cache") }

func (r *realm) write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(r.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// run runs a program to its end.
func (r *realm) run(t *testing.T, env []string, input, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(append(os.Environ(), r.env...), env...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// token returns new credentials of a user, as curl sends them: `Negotiate YII...`.
func (r *realm) token(t *testing.T, user string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		got <- req.Header.Get("Authorization")
		fmt.Fprint(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	host := "intranet.example.com:" + port
	r.run(t, []string{"KRB5CCNAME=" + r.cache(user)}, "", r.curl, "-sS", "-m", "20", "--noproxy", "*", "--negotiate", "-u", ":",
		"--resolve", host+":127.0.0.1", "http://"+host+"/")
	return <-got
}

// startApache starts an Apache that authenticates connections with Kerberos and tells
// the user in a field X-User. It returns its address.
func (r *realm) startApache(t *testing.T) string {
	t.Helper()
	const modules = "/usr/lib/apache2/modules/"
	apache := needs.Program(t, "apache2", "apache2")
	needs.File(t, modules+"mod_auth_gssapi.so", "libapache2-mod-auth-gssapi")
	port := freePort(t)
	file := r.write(t, "apache.conf", strings.NewReplacer("PORT", port, "DIR", r.dir, "KEYTAB", r.keytab(), "MODULES/", modules).Replace(`ServerRoot DIR
ServerName 127.0.0.1
Listen 127.0.0.1:PORT
PidFile apache.pid
ErrorLog error.log
DefaultRuntimeDir DIR
Mutex posixsem
LoadModule mpm_event_module MODULES/mod_mpm_event.so
LoadModule authn_core_module MODULES/mod_authn_core.so
LoadModule authz_core_module MODULES/mod_authz_core.so
LoadModule authz_user_module MODULES/mod_authz_user.so
LoadModule headers_module MODULES/mod_headers.so
LoadModule auth_gssapi_module MODULES/mod_auth_gssapi.so
StartServers 1
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
DocumentRoot DIR
<Directory DIR>
	AuthType GSSAPI
	AuthName intranet
	GssapiCredStore keytab:KEYTAB
	GssapiConnectionBound On
	Require valid-user
	Header always set X-User "expr=%{REMOTE_USER}"
</Directory>
`))
	r.write(t, "index", "the page")
	player{env: r.env, listen: []string{port}, args: []string{apache, "-D", "FOREGROUND", "-f", file}}.start(t)
	return "127.0.0.1:" + port
}
