package issuer

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// A Config says whose documents are fetched and how.
type Config struct {
	Issuer       string
	InsecureHTTP bool          // plain http is permitted
	Certificate  bool          // the client authenticates with one, by mutual TLS
	Timeout      time.Duration // of one fetch
	Upstream     *upstream.Client
	Events       Events
}

// Events report what an operator must know. None may be nil. A document is
// [failure.Metadata] or [failure.Keys].
type Events struct {
	// NotRenewed is called when a usable document could not be renewed and
	// stays in use.
	NotRenewed func(document string, f *failure.Error)
	// Again is called when a document was fetched, after all attempts failed
	// for so long.
	Again func(document string, lasted time.Duration)
	// KeysDropped is called with the reasons why keys of the key set are not
	// used.
	KeysDropped func(reasons []error)
}

// Metadata finds the endpoints of an authorization server in its metadata (RFC
// 8414, OpenID Connect Discovery), when they are first needed.
type Metadata struct {
	document[endpoints]
	// pinned says that the introspection endpoint or the token endpoint gets
	// credentials. They must not follow it to another host.
	pinned atomic.Bool
	needs  []string // the endpoints that the metadata must name
}

// endpoints holds what is used of the metadata (RFC 8414 section 2).
type endpoints struct{ introspection, token, jwks string }

// moved returns the name of an endpoint that is at another host than before,
// and where it was and is.
func (e *endpoints) moved(before *endpoints) (name, from, to string) {
	switch {
	case !sameOrigin(before.introspection, e.introspection):
		return "introspection endpoint", before.introspection, e.introspection
	case !sameOrigin(before.token, e.token):
		return "token endpoint", before.token, e.token
	}
	return "", "", ""
}

// The names of the endpoints.
const (
	IntrospectionEndpoint = "introspection_endpoint"
	TokenEndpoint         = "token_endpoint"
	JWKSURI               = "jwks_uri"
)

// optionFor names the options that give an endpoint in place of the metadata.
var optionFor = map[string]string{
	IntrospectionEndpoint: "WithIntrospectionEndpoint",
	TokenEndpoint:         "WithTokenExchange",
	JWKSURI:               "WithJWKSURL",
}

// of returns the endpoint of that name, or "".
func (e *endpoints) of(name string) string {
	switch name {
	case JWKSURI:
		return e.jwks
	case TokenEndpoint:
		return e.token
	}
	return e.introspection
}

// maxMetadataSize bounds the metadata's document, in bytes.
const maxMetadataSize = 256 << 10

// maxEndpointSize bounds the URL of an endpoint, which lines of the log have,
// in bytes.
const maxEndpointSize = 2 << 10

// NewMetadata returns the Metadata of an issuer. It fetches nothing.
func NewMetadata(c Config) *Metadata {
	m := &Metadata{}
	urls := wellKnown(c.Issuer) // only one fetch at a time uses it
	fetch := func(ctx context.Context, old *endpoints) (*endpoints, time.Duration, error) {
		if !m.pinned.Load() {
			old = nil
		}
		worst := &unusable{}
		for i, target := range urls {
			found, maxAge, why := tryURL(ctx, c, target, m.needs, old)
			if why == nil {
				return found, maxAge, nil
			}
			if why.weight > worst.weight {
				worst = &unusable{why.weight, why.failure.At(failure.Metadata, target)}
			}
			if ctx.Err() != nil {
				// The next fetch begins with a URL that had no time, or not all.
				first := max(i, 1)
				urls = slices.Concat(urls[first:], urls[:first])
				break
			}
		}
		return nil, 0, worst.failure
	}
	m.init(failure.Metadata, c, fetch)
	return m
}

func metadataFault(detail string) *failure.Error {
	return failure.New(failure.Protocol, "metadata: "+detail)
}

// An unusable is the reason why a well-known URL gave no metadata. If none of
// them did, the greatest weight tells most.
type unusable struct {
	weight  weight
	failure *failure.Error
}

type weight int

// The weights. An outage comes first, because the metadata may be there once it
// is over.
const (
	notFound    weight = iota + 1
	wrongStatus        // any other than 404
	notMetadata        // too large, compressed, not strict JSON, or without an issuer
	wrongField         // an endpoint that must not be believed
	wrongIssuer
	noEndpoint // one that is needed
	outage
)

// tryURL gets the metadata at one URL, which may be another application's. If
// old is not nil, the endpoints that get credentials must be at the same hosts
// still.
func tryURL(
	ctx context.Context, c Config, target string, needs []string, old *endpoints,
) (*endpoints, time.Duration, *unusable) {
	body, maxAge, err := c.Upstream.GetDocument(ctx, target, "application/json", maxMetadataSize)
	if err != nil {
		return nil, 0, noMetadata(err)
	}
	found, why := readMetadata(body, c, needs)
	if why == nil && old != nil {
		if name, from, to := found.moved(old); name != "" {
			why = &unusable{wrongField, metadataFault("the "+name+" moved to another host").
				Differs(failure.Address(from), failure.Address(to))}
		}
	}
	return found, maxAge, why
}

// noMetadata says what it means that there is no document.
func noMetadata(err error) *unusable {
	var status *upstream.StatusError
	if !errors.As(err, &status) {
		f := failure.From(err, failure.Unavailable, "metadata")
		if f.IsOutage() {
			return &unusable{outage, f}
		}
		return &unusable{notMetadata, f}
	}
	f := upstream.NotOK(failure.Protocol, "metadata: ", status.Status)
	switch code := status.Status; {
	case code == http.StatusTooManyRequests, code >= 500:
		f.Class, f.Wait = failure.Unavailable, status.Wait
		return &unusable{outage, f}
	case code == http.StatusNotFound:
		f.Detail += " at the well-known URLs: see WithIssuer, or WithIntrospectionEndpoint and WithJWKSURL"
		return &unusable{notFound, f}
	}
	return &unusable{wrongStatus, f}
}

// wellKnown returns the URLs at which an issuer's metadata may be. The
// well-known part is between host and path (RFC 8414 section 3), or behind the
// path in OpenID Connect Discovery.
func wellKnown(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil // New has refused it
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	origin := u.Scheme + "://" + u.Host
	urls := []string{
		origin + "/.well-known/oauth-authorization-server" + path,
		origin + "/.well-known/openid-configuration" + path,
	}
	if path != "" {
		urls = append(urls, origin+path+"/.well-known/openid-configuration")
	}
	return urls
}

// readMetadata reads the document. Its issuer must be identical to the
// configured one (RFC 8414 section 3.3).
func readMetadata(body []byte, c Config, needs []string) (*endpoints, *unusable) {
	members, err := jose.ParseObject(body)
	if err != nil {
		return nil, &unusable{notMetadata, metadataFault("not strict JSON")}
	}
	switch named, ok := members.Get("issuer").Text(); {
	case !ok:
		return nil, &unusable{notMetadata, metadataFault("no issuer")}
	case named != c.Issuer:
		return nil, &unusable{wrongIssuer, metadataFault("issuer differs from the configured one").
			Differs(c.Issuer, failure.Address(named))}
	}
	// Plain http on the loopback interface is only for an issuer that is there
	// itself.
	https := !c.InsecureHTTP && isHTTPS(c.Issuer)
	found := &endpoints{}
	aliases, why := readAliases(members, c)
	if why != nil {
		return nil, why
	}
	for _, endpoint := range []struct {
		in   jose.Object
		name string
		to   *string
	}{
		{members, IntrospectionEndpoint, &found.introspection},
		{aliases, IntrospectionEndpoint, &found.introspection},
		{members, TokenEndpoint, &found.token},
		{aliases, TokenEndpoint, &found.token},
		{members, JWKSURI, &found.jwks},
	} {
		v := endpoint.in.Get(endpoint.name)
		if !v.Exists() || v.IsNull() {
			continue
		}
		text, ok := v.Text()
		if len(text) > maxEndpointSize {
			return nil, &unusable{wrongField, metadataFault(endpoint.name + " is too long")}
		}
		if !ok || upstream.CheckURL(text, c.InsecureHTTP) != "" || https && !isHTTPS(text) {
			return nil, &unusable{wrongField, metadataFault(endpoint.name+" is not an absolute https URL").
				Differs("an absolute https URL", failure.Address(text))}
		}
		*endpoint.to = text
	}
	for _, needed := range needs {
		if found.of(needed) == "" {
			return nil, &unusable{noEndpoint, metadataFault("no " + needed + ": see " + optionFor[needed])}
		}
	}
	return found, nil
}

// readAliases returns the endpoints that clients with a certificate must use in
// place of the others (RFC 8705 section 5). For other clients there are none.
func readAliases(members jose.Object, c Config) (jose.Object, *unusable) {
	v := members.Get("mtls_endpoint_aliases")
	if !c.Certificate || !v.Exists() || v.IsNull() {
		return jose.Object{}, nil
	}
	aliases, ok := v.Object()
	if !ok {
		return jose.Object{}, &unusable{wrongField, metadataFault("mtls_endpoint_aliases is no object")}
	}
	return aliases, nil
}

func isHTTPS(url string) bool { return strings.HasPrefix(strings.ToLower(url), "https:") }

// sameOrigin reports whether the URL has the scheme and the host of the one
// before, if there was one.
func sameOrigin(before, after string) bool {
	from, err1 := url.Parse(before)
	to, err2 := url.Parse(after)
	return before == "" || err1 == nil && err2 == nil && from.Scheme == to.Scheme && from.Host == to.Host
}

// Endpoint returns the function that finds the endpoint of that name. Metadata
// that do not name it count as unusable, so Endpoint must not be called any
// more once they are in use. An endpoint that gets credentials may not move to
// another host after the first call.
func (m *Metadata) Endpoint(name string) func(context.Context) (string, error) {
	m.needs = append(m.needs, name)
	return func(ctx context.Context) (string, error) {
		if name != JWKSURI {
			m.pinned.Store(true)
		}
		return m.endpoint(ctx, name)
	}
}

func (m *Metadata) endpoint(ctx context.Context, name string) (string, error) {
	s, err := m.get(ctx)
	if err != nil {
		return "", failure.From(err, failure.Unavailable, "metadata")
	}
	return s.value.of(name), nil
}
