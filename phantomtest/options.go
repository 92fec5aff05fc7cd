package phantomtest

import (
	"net/url"

	"github.com/phantom-token/phantom"
)

// An Option changes an [AuthorizationServer] while [New] makes it.
type Option interface{ apply(c *config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	issuer   string
	audience string
	clients  []client
	dialect  dialect

	jwtFrom      jwtSource
	minter       phantom.Minter
	exchangeForm url.Values
	signed       bool
	edits        []func(members map[string]any)
}

type client struct{ id, secret string }

// A dialect is how a kind of server hands out the JWT of a token.
type dialect struct {
	onRequest   bool   // only if Accept is application/jwt and nothing else
	member      string // in this member of a JSON object; as the body if empty
	clientClaim string // the claim that names the client
	typ         string // the type in the header of the JWT
}

var curity = dialect{onRequest: true, clientClaim: "client_id", typ: "at+jwt"}

// WithIssuer sets the issuer, an absolute URL that all endpoints begin with.
// The default is "https://as.test".
func WithIssuer(issuer string) Option {
	return optionFunc(func(c *config) { c.issuer = issuer })
}

// WithAudience sets the audience of the tokens. The default is
// "https://rs.test".
func WithAudience(audience string) Option {
	return optionFunc(func(c *config) { c.audience = audience })
}

// WithClient adds a client. A middleware with the server's options
// authenticates as the first one. Without this option there is one client with
// the identifier "gateway" and the secret "gateway-secret".
func WithClient(id, secret string) Option {
	return optionFunc(func(c *config) { c.clients = append(c.clients, client{id, secret}) })
}

// WithJSONResponse makes the server answer each introspection with JSON that
// has the JWT in member. A token procedure of the Curity Identity Server uses
// "phantom_token". It is the counterpart of [phantom.WithJSONResponse].
func WithJSONResponse(member string) Option {
	return optionFunc(func(c *config) {
		c.dialect = dialect{member: member, clientClaim: "client_id", typ: "at+jwt"}
	})
}

// WithKeycloak makes the server answer each introspection as Keycloak does:
// always with JSON, and with the JWT in its member "jwt" only if the request
// accepts application/jwt and nothing else. The type in the header of the JWT
// is JWT, and the client is in the claim azp instead of client_id.
func WithKeycloak() Option {
	return optionFunc(func(c *config) {
		c.dialect = dialect{onRequest: true, member: "jwt", clientClaim: "azp", typ: "JWT"}
	})
}
