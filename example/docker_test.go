package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDockerfile: the image is built by the Caddy that go.mod names, and its second
// stage takes what the first one has built. .ci/run runs the build command.
func TestDockerfile(t *testing.T) {
	version := regexp.MustCompile(`github.com/caddyserver/caddy/v2 v([0-9.]+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	var lines []string
	for line := range strings.Lines(read(t, "Dockerfile")) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	want := []string{
		"FROM caddy:" + version + "-builder AS builder",
		"COPY . /connreuse",
		"RUN xcaddy build v" + version + " --with github.com/caddy-connreuse/connreuse@v0.0.0=/connreuse",
		"FROM caddy:" + version,
		"COPY --from=builder /usr/bin/caddy /usr/bin/caddy",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	for ignored := range strings.Lines(read(t, ".dockerignore")) {
		if _, err := os.Stat(filepath.Join("..", strings.TrimSpace(ignored))); err != nil && !strings.HasPrefix(ignored, ".git") {
			t.Errorf(".dockerignore: %v", err)
		}
	}
}

// TestCompose: what compose.yaml mounts is there, and what the Caddyfile there
// proxies to is one of its services, on the port that this listens on.
func TestCompose(t *testing.T) {
	compose := read(t, "compose.yaml")
	mount := regexp.MustCompile(`- \./(\S+):/etc/caddy/Caddyfile:ro`).FindStringSubmatch(compose)
	if mount == nil {
		t.Fatal("no Caddyfile is mounted")
	}
	caddyfile := read(t, mount[1])
	upstreams := regexp.MustCompile(`reverse_proxy (\S+):(\d+)`).FindAllStringSubmatch(caddyfile, -1)
	if len(upstreams) == 0 {
		t.Error("the Caddyfile proxies nothing")
	}
	for _, upstream := range upstreams {
		if !strings.Contains(compose, "\n  "+upstream[1]+":\n") || !strings.Contains(compose, "listen("+upstream[2]+")") {
			t.Errorf("there is no service %s on port %s", upstream[1], upstream[2])
		}
	}
	port := regexp.MustCompile(`https_port (\d+)`).FindStringSubmatch(caddyfile)[1]
	for _, published := range []string{port + ":" + port + `"`, port + ":" + port + `/udp"`, `2019:2019"`} {
		if !strings.Contains(compose, published) {
			t.Errorf("the port %s is not published", published)
		}
	}
}
