package phantom

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// metadata is what is used of the authorization server's metadata (RFC 8414
// section 2).
type metadata struct{ introspectionEndpoint, jwksURL string }

// maxMetadataSize bounds the metadata's document, in bytes.
const maxMetadataSize = 256 << 10

// discovery finds the issuer's endpoints in its metadata, when they are first
// needed.
type discovery struct {
	remote[metadata]
	pinned atomic.Bool // credentials go to the introspection endpoint, and must not follow it elsewhere
}

func newDiscovery(issuer string, insecure bool, timeout time.Duration, client *transport, log *eventLog) *discovery {
	d := &discovery{}
	d.clock = newClock()
	d.flights.timeout = timeout
	d.failed = func(err *Error) {
		level := slog.LevelWarn
		if errors.Is(err, ErrUpstream) {
			level = slog.LevelError // it will not pass by itself, and may be an attack
		}
		log.notRenewed(level, "metadata", err)
	}
	d.fetch = func(ctx context.Context, old *metadata) (*metadata, time.Duration, error) {
		body, maxAge, err := getMetadata(ctx, client, issuer)
		if err != nil {
			return nil, 0, err
		}
		found, fault := readMetadata(body, issuer, insecure)
		if fault != "" {
			return nil, 0, protocolFault("metadata: " + fault)
		}
		if old != nil && d.pinned.Load() && !sameHost(old.introspectionEndpoint, found.introspectionEndpoint) {
			return nil, 0, protocolFault("metadata: the introspection endpoint moved to another host")
		}
		return found, maxAge, nil
	}
	return d
}

// getMetadata tries the well-known URLs of the issuer in turn, until one does
// not answer 404 or the like.
func getMetadata(ctx context.Context, client *transport, issuer string) (body []byte, maxAge time.Duration, err error) {
	for _, target := range wellKnown(issuer) {
		body, maxAge, err = client.getDocument(ctx, target, typeJSON, maxMetadataSize)
		var status *statusError
		if errors.As(err, &status) && status.status >= 400 && status.status < 500 && status.status != http.StatusTooManyRequests {
			err = protocolFault("metadata: " + status.Error())
			continue
		}
		if errors.As(err, &status) {
			err = rejection(ReasonUnavailable, "metadata: "+status.Error())
			if status.status < 400 {
				err = protocolFault("metadata: " + status.Error())
			}
		}
		return body, maxAge, err
	}
	return nil, 0, err
}

// wellKnown returns the URLs at which an issuer's metadata may be: with the
// well-known part between host and path (RFC 8414 section 3), and behind the
// path, as OpenID Connect Discovery has it.
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

// readMetadata reads the document. The issuer must be identical to the one it
// was asked of (RFC 8414 section 3.3).
func readMetadata(body []byte, issuer string, insecure bool) (found *metadata, fault string) {
	members, err := jose.ParseObject(body)
	if err != nil {
		return nil, "not strict JSON"
	}
	if named, _ := members.Get("issuer").Text(); named != issuer {
		return nil, "issuer differs from the configured one"
	}
	// Plain http on the loopback interface is for an issuer that is there itself.
	https := !insecure && strings.HasPrefix(strings.ToLower(issuer), "https:")
	found = &metadata{}
	for _, endpoint := range []struct {
		name string
		to   *string
	}{{"introspection_endpoint", &found.introspectionEndpoint}, {"jwks_uri", &found.jwksURL}} {
		v := members.Get(endpoint.name)
		if !v.Exists() || v.IsNull() {
			continue
		}
		text, ok := v.Text()
		if !ok || checkURL(text, insecure) != "" || https && !strings.HasPrefix(strings.ToLower(text), "https:") {
			return nil, endpoint.name + " is not an absolute https URL"
		}
		*endpoint.to = text
	}
	return found, ""
}

func sameHost(a, b string) bool {
	from, err1 := url.Parse(a)
	to, err2 := url.Parse(b)
	return a == "" || err1 == nil && err2 == nil && from.Scheme == to.Scheme && from.Host == to.Host
}

// fixedURL stands for what need not be discovered.
func fixedURL(url string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return url, nil }
}

// introspectionEndpoint and jwksURL return what the metadata names.
func (d *discovery) introspectionEndpoint(ctx context.Context) (string, error) {
	d.pinned.Store(true)
	return d.named(ctx, "introspection_endpoint", func(m *metadata) string { return m.introspectionEndpoint })
}

func (d *discovery) jwksURL(ctx context.Context) (string, error) {
	return d.named(ctx, "jwks_uri", func(m *metadata) string { return m.jwksURL })
}

func (d *discovery) named(ctx context.Context, name string, of func(*metadata) string) (string, error) {
	v, err := d.get(ctx)
	if err != nil {
		return "", asError(err, ReasonUnavailable, "metadata")
	}
	if of(v.doc) == "" {
		return "", protocolFault("metadata: no " + name)
	}
	return of(v.doc), nil
}
