package authority

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// IPSource loads the IP source, a module of http.ip_sources, that raw describes.
// A source may fetch its ranges from elsewhere, and sites of one server often
// import the same block: equal ones are loaded once. It is for Provision only.
func (s *Server) IPSource(ctx caddy.Context, raw json.RawMessage) (caddyhttp.IPRangeSource, error) {
	var config any
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, err
	}
	key, err := json.Marshal(config) // with its fields in order
	if err != nil {
		return nil, err
	}
	if source, ok := s.sources[string(key)]; ok {
		return source, nil
	}
	module := struct {
		Raw json.RawMessage `caddy:"namespace=http.ip_sources inline_key=source"`
	}{key}
	loaded, err := ctx.LoadModule(&module, "Raw")
	if err != nil {
		return nil, err
	}
	source, ok := loaded.(caddyhttp.IPRangeSource)
	if !ok {
		return nil, fmt.Errorf("module %T is no IP source", loaded)
	}
	s.sources[string(key)] = source
	return source, nil
}
