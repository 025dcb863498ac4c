package sick

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/program"
)

// The proxies, by their names in tables.
const (
	stock   = "transport http"
	ours    = "upstreampool"
	haproxy = "HAProxy"
	nginx   = "nginx"
)

var names = []string{ours, stock, haproxy, nginx}

// proxies run in front of one fleet each.
type proxies struct {
	addrs map[string]string // by name
	caddy *sidebyside.Caddy
	other []*program.Program
}

func (p *proxies) stop() {
	if p.caddy != nil {
		p.caddy.Stop()
	}
	for _, o := range p.other {
		o.Kill()
	}
}

// start starts all proxies of a case, each with what the case needs and as it is by
// default otherwise.
func (c *trouble) start(dir string, fleets map[string]*fleet) (*proxies, error) {
	p := &proxies{addrs: make(map[string]string)}
	for name := range fleets {
		addr, err := programs.Address()
		if err != nil {
			return nil, err
		}
		p.addrs[name] = addr
	}
	err := p.startCaddy(c, fleets)
	if err == nil && fleets[haproxy] != nil {
		err = p.startOther(dir, "haproxy.cfg", c.haproxy(p.addrs[haproxy], fleets[haproxy]), p.addrs[haproxy], "haproxy", "haproxy", "-db", "-f")
	}
	if err == nil && fleets[nginx] != nil {
		err = p.startOther(dir, "nginx.conf", c.nginx(p.addrs[nginx], fleets[nginx].addrs()), p.addrs[nginx], "nginx-light", "nginx", "-p", dir, "-e", "error.log", "-c")
	}
	if err != nil {
		p.stop()
	}
	return p, err
}

func (p *proxies) startOther(dir, file, config, addr, debianPackage string, args ...string) error {
	file = filepath.Join(dir, file)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	o, err := programs.Start(addr, dir, debianPackage, append(args, file)...)
	if err == nil {
		p.other = append(p.other, o)
	}
	return err
}

func (p *proxies) startCaddy(c *trouble, fleets map[string]*fleet) error {
	servers := make(map[string]any)
	for name, protocol := range map[string]string{stock: "http", ours: "upstreampool"} {
		var upstreams []any
		for _, addr := range fleets[name].addrs() {
			upstreams = append(upstreams, map[string]any{"dial": addr})
		}
		transport := map[string]any{"protocol": protocol}
		if c.secure {
			transport["tls"] = map[string]any{"insecure_skip_verify": true}
		}
		if c.maxIdle > 0 {
			transport["keep_alive"] = map[string]any{"idle_timeout": c.maxIdle.String()}
		}
		if names := fleets[name].names; names != nil {
			transport["resolver"] = map[string]any{"addresses": []string{names.Addr()}}
			if name == ours {
				transport["follow_dns"] = followed.String()
			}
		}
		proxy := map[string]any{"handler": "reverse_proxy", "upstreams": upstreams, "transport": transport}
		balancing := map[string]any{"selection_policy": map[string]any{"policy": "round_robin"}}
		if c.retries {
			balancing["retries"] = 2
		}
		proxy["load_balancing"] = balancing
		servers[protocol] = map[string]any{
			"listen": []string{p.addrs[name]}, "protocols": []string{"h1"}, "automatic_https": map[string]any{"disable": true},
			"routes": []any{sidebyside.Site(sidebyside.Routes(proxy), sidebyside.Host)},
		}
	}
	var err error
	p.caddy, err = sidebyside.StartCaddy(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "PANIC"}}}, // there will be many errors
	}, servers)
	if err != nil {
		return err
	}
	for _, name := range []string{stock, ours} {
		if err := p.caddy.Listens(p.addrs[name]); err != nil {
			return err
		}
	}
	return nil
}

func (c *trouble) haproxy(addr string, f *fleet) string {
	var config strings.Builder
	config.WriteString(programs.HAProxy)
	if f.names != nil {
		fmt.Fprintf(&config, "resolvers r\n\tnameserver n %s\n\thold valid %v\n\ttimeout resolve %v\n", f.names.Addr(), followed, followed)
	}
	fmt.Fprintf(&config, "frontend in\n\tbind %s\n\tdefault_backend out\nbackend out\n\tbalance roundrobin\n", addr)
	for i, upstream := range f.addrs() {
		fmt.Fprintf(&config, "\tserver s%d %s", i, upstream)
		if c.secure {
			config.WriteString(" ssl verify none alpn h2,http/1.1")
		}
		if f.names != nil {
			config.WriteString(" resolvers r resolve-prefer ipv4 init-addr none")
		}
		config.WriteString("\n")
	}
	return config.String()
}

func (c *trouble) nginx(addr string, upstreams []string) string {
	scheme := "http"
	if c.secure {
		scheme = "https"
	}
	return programs.Nginx(fmt.Sprintf("\tupstream out { server %s; keepalive 64; }\n\tserver {\n\t\tlisten %s;\n\t\tlocation / { proxy_pass %s://out; }\n\t}\n",
		strings.Join(upstreams, "; server "), addr, scheme))
}
