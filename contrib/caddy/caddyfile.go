package phantomcaddy

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("phantom", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(Handler)
		return handler, handler.UnmarshalCaddyfile(h.Dispenser)
	})
	// Behind the rewrites, so that it judges the path that is served; in front
	// of everything that answers.
	httpcaddyfile.RegisterDirectiveOrder("phantom", httpcaddyfile.After, "forward_auth")
}

var _ caddyfile.Unmarshaler = (*Handler)(nil)

// UnmarshalCaddyfile reads the directive:
//
//	phantom [<matcher>] {
//		issuer                 <url>
//		audience               <values...>
//		scopes                 <scopes...>
//		client_id              <id>
//		client_secret          <secret>
//		client_auth            basic|post|none
//		introspection_endpoint <url>
//		jwks_url               <url>
//		json_member            <name>
//		without_jwt
//		max_ttl                <duration>
//		stale_if_error         <duration>
//		timeout                <duration>
//		cache_size             <tokens>
//		max_in_flight          <lookups>
//		realm                  <text>
//		insecure_http
//	}
//
// A subdirective may stand once.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := map[string]bool{}
	for d.NextBlock(0) {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s stands twice", name)
		}
		seen[name] = true
		if err := h.subdirective(d, name); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) subdirective(d *caddyfile.Dispenser, name string) error {
	texts := map[string]*string{
		"issuer": &h.Issuer, "introspection_endpoint": &h.IntrospectionEndpoint, "jwks_url": &h.JWKSURL,
		"client_id": &h.ClientID, "client_secret": &h.ClientSecret, "client_auth": &h.ClientAuth,
		"json_member": &h.JSONMember, "realm": &h.Realm,
	}
	lists := map[string]*[]string{"audience": &h.Audience, "scopes": &h.Scopes}
	switches := map[string]*bool{"without_jwt": &h.WithoutJWT, "insecure_http": &h.InsecureHTTP}
	durations := map[string]**caddy.Duration{
		"max_ttl": &h.MaxTTL, "stale_if_error": &h.StaleIfError, "timeout": &h.Timeout,
	}
	numbers := map[string]**int{"cache_size": &h.CacheSize, "max_in_flight": &h.MaxInFlight}

	args := d.RemainingArgs()
	// An empty argument is one that a placeholder of the Caddyfile left empty.
	for _, arg := range args {
		if arg == "" {
			return d.Errf("%s has an empty argument", name)
		}
	}
	if on := switches[name]; on != nil {
		if len(args) > 0 {
			return d.Errf("%s takes no argument", name)
		}
		*on = true
		return nil
	}
	if list := lists[name]; list != nil {
		if len(args) == 0 {
			return d.Errf("%s needs an argument", name)
		}
		*list = args
		return nil
	}
	text, duration, number := texts[name], durations[name], numbers[name]
	if text == nil && duration == nil && number == nil {
		return d.Errf("unknown subdirective %s", name)
	}
	if len(args) != 1 { // which could be a secret: it is not quoted
		return d.Errf("%s takes one argument", name)
	}
	switch {
	case text != nil:
		*text = args[0]
	case duration != nil:
		value, err := caddy.ParseDuration(args[0])
		if err != nil {
			return d.Errf("%s: %q is not a duration such as 60s", name, args[0])
		}
		*duration = pointer(caddy.Duration(value))
	case number != nil:
		value, err := strconv.Atoi(args[0])
		if err != nil {
			return d.Errf("%s: %q is not a number", name, args[0])
		}
		*number = &value
	}
	return nil
}

func pointer(d caddy.Duration) *caddy.Duration { return &d }
