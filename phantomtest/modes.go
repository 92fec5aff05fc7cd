package phantomtest

import (
	"maps"
	"net/url"

	"github.com/phantom-token/phantom"
)

// A jwtSource is where a middleware with the server's options gets the JWT.
type jwtSource int

const (
	fromAnswer jwtSource = iota
	fromNowhere
	fromMinter
	fromExchange
)

// WithoutJWT makes the server answer introspections as most servers do: with
// JSON that has the claims and no JWT, even if the request accepts a JWT. Its
// options fit services that need no JWT. It is the counterpart of
// [phantom.WithoutJWT].
//
// With [WithKeycloak], it is a Keycloak that was not told to give JWTs. It
// excludes [WithJSONResponse]. Of WithoutJWT, [WithMinter] and
// [WithTokenExchange], the last one counts.
func WithoutJWT() Option {
	return optionFunc(func(c *config) { c.jwtFrom = fromNowhere })
}

// WithMinter makes the server answer as [WithoutJWT] does. Its options fit
// services that take the JWT from the minter. It is the counterpart of
// [phantom.WithMinter].
func WithMinter(minter phantom.Minter) Option {
	return optionFunc(func(c *config) { c.jwtFrom, c.minter = fromMinter, minter })
}

// WithTokenExchange makes the server answer introspections as [WithoutJWT]
// does. Its options fit services that take the JWT from the token endpoint. The
// form holds further parameters of the exchange; it may be nil. It is the
// counterpart of [phantom.WithTokenExchange].
func WithTokenExchange(form url.Values) Option {
	form = maps.Clone(form)
	return optionFunc(func(c *config) { c.jwtFrom, c.exchangeForm = fromExchange, form })
}

// WithSignedResponse makes the server sign its answers (RFC 9701), inactive
// ones too, if the request accepts application/token-introspection+jwt and
// nothing else. The aud of a signed answer is the client that asks. Any other
// request gets JSON, and so does one that is refused. Because a signed answer
// is no access token, one of [WithoutJWT], [WithMinter] and [WithTokenExchange]
// is needed. It is the counterpart of [phantom.WithSignedResponse].
func WithSignedResponse() Option {
	return optionFunc(func(c *config) { c.signed = true })
}

// WithAnswer makes a server with habits of its own: edit changes the members of
// each JSON answer, signed or not, before it is sent.
//
//	// Tokens of clients have no sub.
//	phantomtest.WithAnswer(func(members map[string]any) {
//		if members["sub"] == members["client_id"] {
//			delete(members, "sub")
//		}
//	})
//
// The members are as [encoding/json] decodes them, numbers as [json.Number].
// Those of an active answer are the claims of the token, active, token_type,
// client_id and, in a dialect that has one, the JWT. An inactive answer has
// active alone. Only what encoding/json can write may be put there, or the
// server panics. JWTs stay as they are.
//
// What only one token is to have is said with [AuthorizationServer.Issue]. The
// function is called by many goroutines at once. If the option is given several
// times, each function gets what the one before left.
func WithAnswer(edit func(members map[string]any)) Option {
	return optionFunc(func(c *config) { c.edits = append(c.edits, edit) })
}

// modeOptions returns those of a middleware's options that depend on where it
// gets the JWT.
func (s *AuthorizationServer) modeOptions() []phantom.Option {
	var opts []phantom.Option
	switch s.jwtFrom {
	case fromAnswer:
		// A dialect that waits for Accept: application/jwt gets what the
		// middleware sends anyway.
		if !s.dialect.onRequest {
			opts = append(opts, phantom.WithJSONResponse(s.dialect.member))
		}
	case fromNowhere:
		opts = append(opts, phantom.WithoutJWT())
	case fromMinter:
		opts = append(opts, phantom.WithMinter(s.minter))
	case fromExchange:
		opts = append(opts, phantom.WithTokenExchange(s.base+"/token", s.exchangeForm))
	}
	if s.signed {
		opts = append(opts, phantom.WithSignedResponse(s.clients[0].id))
	}
	// Without a signature of this server to verify, phantom wants no keys. A
	// Minter that uses them after all finds them by the metadata.
	if s.signed || s.jwtFrom == fromAnswer || s.jwtFrom == fromExchange {
		opts = append(opts, phantom.WithJWKSURL(s.base+"/jwks"))
	}
	return opts
}
