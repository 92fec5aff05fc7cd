package phantomcaddy

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/phantom-token/phantom"
)

// Settings say how to ask the authorization server and what a token must be.
// The texts may have Caddy's global placeholders, such as {env.CLIENT_SECRET}
// and {file./run/secrets/phantom}. What is not set has phantom's default.
type Settings struct {
	// The issuer's URL, byte by byte the iss of its JWTs; required.
	Issuer string `json:"issuer,omitempty"`
	// Of which a token must be for one; required.
	Audience []string `json:"audience,omitempty"`
	// Where to introspect; from the issuer's metadata by default.
	IntrospectionEndpoint string `json:"introspection_endpoint,omitempty"`
	// The issuer's keys; from its metadata by default.
	JWKSURL string `json:"jwks_url,omitempty"`

	// Caddy as a client of the authorization server.
	ClientID     string `json:"client_id,omitempty"`
	ClientSecret string `json:"client_secret,omitempty"`
	// "basic", the default, "post" or "none".
	ClientAuth string `json:"client_auth,omitempty"`

	// The member that has the JWT, of a server that answers in JSON.
	JSONMember string `json:"json_member,omitempty"`
	// For a server whose answers have no JWT: what follows gets no
	// Authorization, and has the placeholders.
	WithoutJWT bool `json:"without_jwt,omitempty"`

	MaxTTL       *caddy.Duration `json:"max_ttl,omitempty"`
	StaleIfError *caddy.Duration `json:"stale_if_error,omitempty"`
	Timeout      *caddy.Duration `json:"timeout,omitempty"`
	CacheSize    *int            `json:"cache_size,omitempty"`
	MaxInFlight  *int            `json:"max_in_flight,omitempty"`

	// Of the challenge.
	Realm string `json:"realm,omitempty"`
	// Plain http to other hosts than this one.
	InsecureHTTP bool `json:"insecure_http,omitempty"`
}

// resolve returns the settings with their placeholders replaced.
func (s *Settings) resolve() (*Settings, error) {
	replacer := caddy.NewReplacer()
	resolved := *s
	resolved.Audience = nil
	var mistakes []error
	replace := func(directive, value string) string {
		value, err := replacer.ReplaceOrErr(value, true, true)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s: %w", directive, err))
		}
		return value
	}
	resolved.Issuer = replace("issuer", s.Issuer)
	for _, audience := range s.Audience {
		resolved.Audience = append(resolved.Audience, replace("audience", audience))
	}
	resolved.IntrospectionEndpoint = replace("introspection_endpoint", s.IntrospectionEndpoint)
	resolved.JWKSURL = replace("jwks_url", s.JWKSURL)
	resolved.ClientID = replace("client_id", s.ClientID)
	// A file of a secret usually ends with a line's end.
	resolved.ClientSecret = strings.TrimRight(replace("client_secret", s.ClientSecret), "\r\n")
	if s.ClientAuth == "none" && s.ClientID+s.ClientSecret != "" {
		mistakes = append(mistakes, errors.New(`client_auth: "none" excludes client_id and client_secret`))
	}
	if _, ok := clientAuths[s.ClientAuth]; !ok {
		mistakes = append(mistakes, fmt.Errorf("client_auth: %q is not basic, post or none", s.ClientAuth))
	}
	return &resolved, errors.Join(mistakes...)
}

// key names the settings in the pool of Middlewares. Of the secret it has no
// more than a digest.
func (s *Settings) key() string {
	own := *s
	// A file may have any bytes. JSON would make those equal that are no UTF-8.
	own.ClientID, own.ClientSecret = strconv.Quote(s.ClientID), strconv.Quote(s.ClientSecret)
	text, err := json.Marshal(&own)
	if err != nil {
		panic(err) // texts and numbers
	}
	digest := sha256.Sum256(text)
	return string(digest[:])
}

var clientAuths = map[string]func(id, secret string) phantom.ClientAuth{
	"":      phantom.ClientSecretBasic,
	"basic": phantom.ClientSecretBasic,
	"post":  phantom.ClientSecretPost,
	"none":  func(string, string) phantom.ClientAuth { return phantom.NoClientAuth() },
}

func (s *Settings) options() []phantom.Option {
	opts := []phantom.Option{
		phantom.WithIssuer(s.Issuer),
		phantom.WithAudience(s.Audience...),
		phantom.WithClientAuth(clientAuths[s.ClientAuth](s.ClientID, s.ClientSecret)),
		phantom.WithLogger(slog.New(currentLog{})),
	}
	opts = given(opts, s.IntrospectionEndpoint, phantom.WithIntrospectionEndpoint)
	opts = given(opts, s.JWKSURL, phantom.WithJWKSURL)
	opts = given(opts, s.JSONMember, phantom.WithJSONResponse)
	opts = given(opts, s.Realm, phantom.WithRealm)
	opts = set(opts, s.MaxTTL, lasting(phantom.WithMaxTTL))
	opts = set(opts, s.StaleIfError, lasting(phantom.WithStaleIfError))
	opts = set(opts, s.Timeout, lasting(phantom.WithTimeout))
	opts = set(opts, s.CacheSize, phantom.WithCacheSize)
	opts = set(opts, s.MaxInFlight, phantom.WithMaxInFlight)
	if s.WithoutJWT {
		opts = append(opts, phantom.WithoutJWT())
	}
	if s.InsecureHTTP {
		opts = append(opts, phantom.WithInsecureHTTP())
	}
	return opts
}

func given(opts []phantom.Option, value string, option func(string) phantom.Option) []phantom.Option {
	if value == "" {
		return opts
	}
	return append(opts, option(value))
}

func set[T any](opts []phantom.Option, value *T, option func(T) phantom.Option) []phantom.Option {
	if value == nil {
		return opts
	}
	return append(opts, option(*value))
}

func lasting(option func(time.Duration) phantom.Option) func(caddy.Duration) phantom.Option {
	return func(d caddy.Duration) phantom.Option { return option(time.Duration(d)) }
}

// directiveOf is what sets an option of phantom.
var directiveOf = map[string]string{
	"WithIssuer":                "issuer",
	"WithAudience":              "audience",
	"WithIntrospectionEndpoint": "introspection_endpoint",
	"WithJWKSURL":               "jwks_url",
	"WithClientAuth":            "client_id and client_secret",
	"WithJSONResponse":          "json_member",
	"WithoutJWT":                "without_jwt",
	"WithMaxTTL":                "max_ttl",
	"WithStaleIfError":          "stale_if_error",
	"WithTimeout":               "timeout",
	"WithCacheSize":             "cache_size",
	"WithMaxInFlight":           "max_in_flight",
	"WithRealm":                 "realm",
}

// inDirectives returns the mistakes in terms of directives.
func inDirectives(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var mistakes []error
	for _, err := range joined.Unwrap() {
		var mistake *phantom.ConfigError
		if errors.As(err, &mistake) && directiveOf[mistake.Option] != "" {
			reason := strings.ReplaceAll(mistake.Reason, "WithInsecureHTTP", "insecure_http")
			err = fmt.Errorf("%s: %s", directiveOf[mistake.Option], reason)
		}
		mistakes = append(mistakes, err)
	}
	return errors.Join(mistakes...)
}

// checkScopes refuses what is not a scope-token (RFC 6749 section 3.3), and a
// list that has none.
func checkScopes(scopes []string) error {
	if scopes != nil && len(scopes) == 0 {
		return errors.New("scopes: the list is empty; leave it out if every token is good enough")
	}
	for _, scope := range scopes {
		foreign := func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }
		if scope == "" || strings.ContainsFunc(scope, foreign) {
			return fmt.Errorf("scopes: %q is not a scope", scope)
		}
	}
	return nil
}
