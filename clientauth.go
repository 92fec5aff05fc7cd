package phantom

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/phantom-token/phantom/internal/httpauth"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// A ClientAuth authenticates the introspection client, this service, to the
// authorization server (RFC 7662 section 2.1). Authenticate adds credentials to
// the request's header or to the form that becomes its body. It is called for
// every attempt, so that a one-time credential is never sent twice and a
// rotated secret takes effect at once. An error ends the lookup with status
// 503. Its text is logged, up to 512 bytes and without the token, and never
// sent.
//
// A ClientAuth must be safe for concurrent use and must not keep req or form.
type ClientAuth interface {
	Authenticate(req *http.Request, form url.Values) error
}

// clientAuth is each ClientAuth of this package. The credentials live in a
// closure, which printing an option or a Middleware does not reach.
type clientAuth struct {
	id           string // the client's; empty: not known here
	invalid      string // why New refuses it
	certificates bool   // needs an http.Client of the caller's
	set          func(c *clientAuth, req *http.Request, form url.Values) error
	issuer       string // filled in by forIssuer
}

// forIssuer returns the ClientAuth for one authorization server. A ClientAuth
// of this package learns the issuer.
func forIssuer(auth ClientAuth, issuer string) ClientAuth {
	if a, ok := auth.(interface {
		forIssuer(issuer string) ClientAuth
	}); ok {
		return a.forIssuer(issuer)
	}
	return auth
}

func (c *clientAuth) forIssuer(issuer string) ClientAuth {
	own := *c
	own.issuer = issuer
	return &own
}

func (c *clientAuth) unfit(given *config) string {
	switch transport := given.transport(); {
	case c.invalid != "" || !c.certificates:
		return c.invalid
	case transport == nil:
		return "TLSClientAuth needs WithHTTPClient, whose transport has the certificate; NewTransport makes one to begin with"
	case !upstream.MayHaveCertificate(transport):
		return "TLSClientAuth needs a certificate, and the transport of WithHTTPClient has none: " +
			"set Certificates or GetClientCertificate in its TLSClientConfig"
	}
	return ""
}

// usesCertificate reports whether the client authenticates by mutual TLS.
func usesCertificate(auth ClientAuth) bool {
	a, ok := auth.(*clientAuth)
	return ok && a.certificates
}

func (c *clientAuth) Authenticate(req *http.Request, form url.Values) error {
	if c.invalid != "" {
		return errors.New("phantom: client authentication: " + c.invalid)
	}
	return c.set(c, req, form)
}

// String and GoString keep credentials out of printed values.
func (c *clientAuth) String() string   { return "phantom.ClientAuth(redacted)" }
func (c *clientAuth) GoString() string { return c.String() }

// textFault says what is wrong with a text of the credentials. It does not show
// it.
func textFault(name, value string) string {
	switch {
	case value == "":
		return "empty " + name + ", as of a variable that is not set"
	case hasControl(value):
		return "the " + name + " has a control character, such as the end of a line that it was read from"
	}
	return ""
}

// ClientSecretBasic sends the client's id and secret by HTTP Basic
// authentication, each form-encoded first, as RFC 6749 section 2.3.1 demands.
// Neither may be empty or have a control character.
func ClientSecretBasic(id, secret string) ClientAuth {
	made := &http.Request{Header: http.Header{}}
	made.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	credentials := made.Header.Get("Authorization")
	return &clientAuth{
		id:      id,
		invalid: cmp.Or(textFault("client id", id), textFault("client secret", secret)),
		set: func(_ *clientAuth, req *http.Request, _ url.Values) error {
			req.Header.Set("Authorization", credentials)
			return nil
		},
	}
}

// ClientSecretPost sends the client's id and secret in the form (RFC 6749
// section 2.3.1). Neither may be empty or have a control character.
func ClientSecretPost(id, secret string) ClientAuth {
	return &clientAuth{
		id:      id,
		invalid: cmp.Or(textFault("client id", id), textFault("client secret", secret)),
		set: func(_ *clientAuth, _ *http.Request, form url.Values) error {
			form.Set("client_id", id)
			form.Set("client_secret", secret)
			return nil
		},
	}
}

// assertionLifetime is how long a client assertion is valid.
const assertionLifetime = 60 * time.Second

// PrivateKeyJWT sends a JWT signed with the client's private key (RFC 7523
// section 2.2). It makes a new one for each attempt, valid for 60 seconds, with
// the issuer as its audience, in one string. The id may not be empty. The alg
// is one of RS, PS and ES 256/384/512 and EdDSA, and must fit the key; keyID
// may be empty. Neither id nor keyID may have a control character. [New] tells
// it the issuer, so a ClientAuth of your own cannot delegate to it.
func PrivateKeyJWT(id, keyID, alg string, key crypto.Signer) ClientAuth {
	invalid := textFault("client id", id)
	if keyID != "" {
		invalid = cmp.Or(invalid, textFault("key id", keyID))
	}
	if isNil(key) {
		invalid = "nil key: PrivateKeyJWT needs the client's private key"
	} else if err := jose.SignerMatches(alg, publicKey(key)); err != nil {
		invalid = err.Error()
	}
	return &clientAuth{
		id:      id,
		invalid: invalid,
		set: func(c *clientAuth, _ *http.Request, form url.Values) error {
			if c.issuer == "" { // not the copy that New made
				return errors.New("phantom: PrivateKeyJWT: no issuer")
			}
			now := time.Now()
			claims, err := json.Marshal(map[string]any{
				"iss": id, "sub": id, "aud": c.issuer, "jti": rand.Text(),
				"iat": now.Unix(), "exp": now.Add(assertionLifetime).Unix(),
			})
			if err != nil {
				return err
			}
			assertion, err := jose.Sign(alg, keyID, "JWT", key, claims)
			if err != nil {
				return errors.New("phantom: PrivateKeyJWT: the key does not sign") // what it says could be its PIN
			}
			form.Set("client_id", id)
			form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
			form.Set("client_assertion", assertion)
			return nil
		},
	}
}

// publicKey returns nil for a key so broken that its Public method panics.
func publicKey(key crypto.Signer) (pub crypto.PublicKey) {
	defer func() {
		if recover() != nil {
			pub = nil
		}
	}()
	return key.Public()
}

// TLSClientAuth sends the client's id in the form. The id may not be empty or
// have a control character. The client authenticates with the certificate of
// its TLS connection (RFC 8705 section 2), so [New] refuses it without a
// [WithHTTPClient] whose client has a transport. It also refuses an
// [*http.Transport] that has no certificate: neither Certificates nor
// GetClientCertificate, and no DialTLSContext. A transport of another type is
// taken at its word.
// If the endpoint comes from the issuer's metadata, and these have an alias of
// it for such clients, the alias is used (RFC 8705 section 5).
func TLSClientAuth(id string) ClientAuth {
	return &clientAuth{
		id:           id,
		invalid:      textFault("client id", id),
		certificates: true,
		set: func(_ *clientAuth, _ *http.Request, form url.Values) error {
			form.Set("client_id", id)
			return nil
		},
	}
}

// BearerToken sends an access token of this service's own, for servers that
// want one at the introspection endpoint (RFC 7662 section 2.1). It calls
// source, which may not be nil, for each attempt with the lookup's context. The
// source should cache the token itself. The text of its error is logged.
func BearerToken(source func(context.Context) (string, error)) ClientAuth {
	invalid := ""
	if source == nil {
		invalid = "nil source: BearerToken needs a function that returns a token"
	}
	return &clientAuth{
		invalid: invalid,
		set: func(_ *clientAuth, req *http.Request, _ url.Values) error {
			token, err := source(req.Context())
			if err != nil {
				return err
			}
			if httpauth.CheckToken(token) != nil {
				return errors.New("phantom: BearerToken: the source's token is not a b64token")
			}
			req.Header.Set("Authorization", bearerPrefix+token)
			return nil
		},
	}
}

// NoClientAuth sends no credentials, for introspection endpoints that are
// reachable from a private network only.
func NoClientAuth() ClientAuth {
	return &clientAuth{set: func(*clientAuth, *http.Request, url.Values) error { return nil }}
}
