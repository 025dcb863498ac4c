package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"

	auth "github.com/caddy-connreuse/connreuse/internal/authority"
)

type checkOptions struct {
	file    string // empty: Caddyfile
	adapter string
	probe   bool
	timeout time.Duration
	json    bool
	stdout  io.Writer
}

// A checked is a config that has been set up in a temporary folder.
type checked struct {
	name      string // of its file
	caddyfile []byte // empty: it is no Caddyfile
	config    config
	apps      any // all of the apps, as decoded JSON
	logFile   string
	// err is why it could not be set up. What follows is not there then.
	err     error
	servers map[string]*caddyhttp.Server
	app     *auth.App
	notes   []string
}

// A config is the part of Caddy's JSON that rules look at.
type config struct {
	Apps struct {
		HTTP struct {
			Servers map[string]struct {
				Listen   []string          `json:"listen"`
				Wrappers []json.RawMessage `json:"listener_wrappers"`
			} `json:"servers"`
		} `json:"http"`
	} `json:"apps"`
}

// load reads a config and sets it up in a folder. An error is one of the folder, or
// of reading the file.
func load(o checkOptions, dir string) (*checked, error) {
	c := &checked{name: o.file, logFile: filepath.Join(dir, "log")}
	if c.name == "" {
		c.name = "Caddyfile"
	}
	if _, err := os.Stat(c.name); err != nil && c.name != "-" {
		return nil, fmt.Errorf("reading the config: %w", err)
	}
	// Adapting logs, too: what it says is kept like all the rest, and so is what Caddy
	// says of its log being another one from here on.
	_, before, _ := caddy.BufferedLog()
	defer caddy.UnbufferDefaultLogger(before)
	if err := c.provision(map[string]json.RawMessage{}, dir); err != nil {
		return nil, err
	}
	text, _, adapter, err := caddycmd.LoadConfig(c.name, o.adapter)
	if err != nil {
		c.err = err
		return c, nil
	}
	if adapter == "caddyfile" && c.name != "-" {
		if c.caddyfile, err = os.ReadFile(c.name); err != nil {
			return nil, err
		}
	}
	var all map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(text, &c.config), json.Unmarshal(text, &all)); err != nil {
		c.err = fmt.Errorf("decoding the config: %w", err)
		return c, nil
	}
	// Not before: the file may refer to these.
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, dir); err != nil {
			return nil, err
		}
	}
	c.err = c.provision(all, dir)
	return c, nil
}

// provision sets a config up with its own state in a folder.
func (c *checked) provision(all map[string]json.RawMessage, dir string) error {
	all = maps.Clone(all)
	delete(all, "admin")
	all["storage"] = caddyconfig.JSON(map[string]any{"module": "file_system", "root": filepath.Join(dir, "storage")}, nil)
	all["logging"] = caddyconfig.JSON(map[string]any{"logs": map[string]any{"default": map[string]any{
		"writer":  map[string]any{"output": "file", "filename": c.logFile, "roll": false},
		"encoder": map[string]any{"format": "json"},
	}}}, nil)
	if apps, ok := all["apps"]; ok {
		var err error
		if all["apps"], err = c.contain(apps); err != nil {
			return err
		}
	}
	var cfg caddy.Config
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(caddyconfig.JSON(all, nil)), &cfg); err != nil {
		return fmt.Errorf("decoding the config: %w", err)
	}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		return err
	}
	if app, err := ctx.AppIfConfigured("http"); err == nil {
		c.servers = app.(*caddyhttp.App).Servers
		loaded, err := ctx.App("connreuse")
		if err != nil {
			return err
		}
		c.app = loaded.(*auth.App)
	}
	return nil
}

// contain returns the apps without what would be read from, or written to, places
// beside the temporary folder: storages of their own, TLS key logs, and certificates
// that are in the storage.
func (c *checked) contain(apps json.RawMessage) (json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(apps))
	decoder.UseNumber()
	if err := decoder.Decode(&c.apps); err != nil {
		return nil, fmt.Errorf("decoding the apps: %w", err)
	}
	all := c.apps
	for _, app := range []string{"pki", "tls"} {
		for o := range objects(at(all, app)) {
			delete(o, "storage")
		}
	}
	for o := range objects(all) {
		delete(o, "insecure_secrets_log")
	}
	if certificates, ok := at(all, "tls", "certificates").(map[string]any); ok && certificates["load_storage"] != nil {
		delete(certificates, "load_storage")
		c.notes = append(c.notes, "certificates that load_storage takes from the storage are not known here")
	}
	return json.Marshal(all)
}

// report says what was found, but for what takes probing.
func (c *checked) report() checkReport {
	r := checkReport{Config: c.name, Findings: []finding{}, Notes: append([]string{}, c.notes...)}
	seen := make(map[string]bool) // sites often import the same block
	add := func(found ...finding) {
		for _, f := range found {
			key := string(caddyconfig.JSON(f, nil))
			if !seen[key] {
				seen[key] = true
				r.Findings = append(r.Findings, f)
			}
		}
	}
	logged, err := c.logged()
	if err != nil {
		r.Notes = append(r.Notes, err.Error())
	}
	add(logged...)
	if len(c.caddyfile) > 0 {
		add(c.idleServersBlocks()...)
	}
	if c.err != nil {
		r.Error = c.err.Error()
		return r
	}
	if c.app != nil {
		for _, w := range c.app.Warnings() {
			fields := zapcore.NewMapObjectEncoder()
			for _, f := range w.Fields {
				f.AddTo(fields)
			}
			add(finding{Server: w.Server, Module: "connreuse", Message: w.Message, Details: fields.Fields})
		}
		for _, rule := range rules {
			add(rule(c)...)
		}
	}
	return r
}

// logged are the warnings and errors that modules of connreuse have logged.
func (c *checked) logged() (found []finding, err error) {
	file, err := os.Open(c.logFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var fields map[string]any
		if json.Unmarshal(lines.Bytes(), &fields) != nil {
			continue
		}
		level, _ := fields["level"].(string)
		module, _ := fields["logger"].(string)
		message, _ := fields["msg"].(string)
		if level != "warn" && level != "error" || !ours(module) {
			continue
		}
		if strings.HasPrefix(message, "a servers block") {
			continue // idleServersBlocks has it, and more
		}
		f := finding{Module: module, Message: message, Details: fields}
		f.Server, _ = fields["server"].(string)
		for _, name := range []string{"level", "logger", "msg", "ts", "server"} {
			delete(fields, name)
		}
		found = append(found, f)
	}
	return found, lines.Err()
}

// ours tells whether a logger is one of a module of connreuse.
func ours(logger string) bool {
	return slices.ContainsFunc(strings.Split(logger, "."), func(part string) bool {
		return slices.Contains([]string{"connreuse", "misdirected", "origin", "upstreampool"}, part)
	})
}
