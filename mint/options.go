package mint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/upstream"
)

// An Option configures a Minter. [New] checks all of them together. If an
// option is given twice, the last one counts, except that [WithMembers] adds
// up.
type Option interface{ apply(r *reader) }

type option func(r *reader)

func (o option) apply(r *reader) { o(r) }

// faults are the mistakes that were found.
type faults []error

func (f *faults) add(option, format string, args ...any) {
	*f = append(*f, &phantom.ConfigError{Option: option, Reason: fmt.Sprintf(format, args...)})
}

func (f *faults) join() error { return errors.Join(*f...) }

// A reader collects what the options say.
type reader struct {
	config

	audience    []string
	hasAudience bool
	members     []string
	faults      *faults
}

// WithAudience sets the aud of the JWTs: the services that may take them. It is
// required. No value may be empty or have a control character.
func WithAudience(audience ...string) Option {
	audience = slices.Clone(audience)
	return option(func(r *reader) { r.audience, r.hasAudience = audience, true })
}

// WithLifetime sets how long a JWT is valid, from 1 second to 1 hour. Default:
// 5 minutes. The exp is the answer's, if that comes first.
func WithLifetime(d time.Duration) Option {
	return option(func(r *reader) { r.lifetime = d })
}

// WithPlainJWT makes JWTs whose typ is JWT, and for which the answer needs no
// client_id. Default: at+jwt and all the claims that RFC 9068 demands. It is
// for upstreams that know no other typ, and for servers that do not tell the
// client.
func WithPlainJWT() Option {
	return option(func(r *reader) { r.plain = true })
}

// WithMembers copies further members of the answer into the JWT, byte by byte,
// if they are there. [New] refuses a name that is empty, one of a claim that a
// Minter sets itself (iss, sub, aud, exp, nbf, iat, jti, client_id, scope), and
// one that is never copied (cnf, active, token_type, username, nonce, and those
// by which servers send a JWT or the token: phantom_token, jwt, token_string),
// in any case of its letters.
func WithMembers(names ...string) Option {
	names = slices.Clone(names)
	return option(func(r *reader) {
		if len(names) == 0 {
			r.faults.add("mint.WithMembers", "no names")
		}
		r.members = append(r.members, names...)
	})
}

// WithClaims adds claims of your own to the JWT. f gets the members of the
// answer in a copy of its own, and must be safe for concurrent use. Of a claim
// that the answer has too, f's value counts, and a nil leaves it out. f may not
// set iss, sub, aud, exp, nbf, iat, jti, client_id, scope or cnf, in any case
// of their letters, or make a value that cannot be written as JSON: that is an
// error (502).
//
// An error of f makes no JWT. One that wraps an Err variable of package phantom
// gets its status; any other is an outage (503).
func WithClaims(f func(ctx context.Context, answer map[string]json.RawMessage) (map[string]any, error)) Option {
	return option(func(r *reader) {
		if r.own = f; f == nil {
			r.faults.add("mint.WithClaims", "nil")
		}
	})
}

const (
	defaultLifetime = 5 * time.Minute
	minLifetime     = time.Second
	maxLifetime     = time.Hour
)

// readOptions applies the options and checks all but the keys.
func readOptions(issuer string, opts []Option, faults *faults) config {
	r := &reader{config: config{issuer: issuer, lifetime: defaultLifetime}, faults: faults}
	for i, o := range opts {
		if o, ok := o.(option); !ok || o == nil {
			faults.add("mint.Option", "argument %d is nil", i+1)
			continue
		}
		o.apply(r)
	}
	if fault := issuerFault(issuer); fault != "" {
		faults.add("mint.New", "issuer: %s", fault)
	}
	if u, err := url.Parse(issuer); err == nil {
		r.path = strings.TrimSuffix(u.Path, "/")
	}
	switch {
	case r.lifetime > 0 && r.lifetime < time.Millisecond:
		faults.add("mint.WithLifetime", "%v: a number without a unit counts nanoseconds, 60 seconds are 60*time.Second",
			r.lifetime)
	case r.lifetime < minLifetime || r.lifetime > maxLifetime:
		faults.add("mint.WithLifetime", "%v is not from %v to %v", r.lifetime, minLifetime, maxLifetime)
	}
	r.checkAudience()
	r.checkMembers()
	r.iss, _ = encode(issuer) // a string always has a text
	if len(r.audience) == 1 {
		r.aud, _ = encode(r.audience[0])
	} else {
		r.aud, _ = encode(r.audience)
	}
	return r.config
}

func issuerFault(issuer string) string {
	u, err := url.Parse(issuer)
	fault := upstream.CheckURL(issuer, false)
	switch {
	case err == nil && u.Scheme == "http" && fault != "":
		return fmt.Sprintf("%q is not https", upstream.Shown(issuer))
	case fault != "":
		return fault
	case strings.Contains(issuer, "?"):
		return fmt.Sprintf("%q has a query", upstream.Shown(issuer))
	case !utf8.ValidString(issuer):
		return fmt.Sprintf("%q is not UTF-8", issuer)
	}
	return ""
}

func (r *reader) checkAudience() {
	const option = "mint.WithAudience"
	switch {
	case !r.hasAudience:
		r.faults.add(option, "is required")
	case len(r.audience) == 0:
		r.faults.add(option, "no values")
	case slices.Contains(r.audience, ""):
		r.faults.add(option, "an empty value")
	case slices.ContainsFunc(r.audience, isUnfit):
		r.faults.add(option, "%q: a value has a control character or is not UTF-8", r.audience)
	}
}

func (r *reader) checkMembers() {
	r.copied = slices.Clone(alwaysCopied)
	for _, name := range r.members {
		if fault := memberFault(name); fault != "" {
			r.faults.add("mint.WithMembers", "%q %s", name, fault)
		} else if !slices.Contains(r.copied, name) {
			r.copied = append(r.copied, name)
		}
	}
}

func memberFault(name string) string {
	switch {
	case name == "":
		return "is no name"
	case isUnfit(name):
		return "has a control character or is not UTF-8"
	case isOneOf(name, ours):
		return "is a claim that a Minter sets itself"
	case isOneOf(name, neverCopied):
		return "is never copied"
	}
	return ""
}

// isUnfit reports whether a text has a control character, as one has that was
// read from a file together with the end of the line, or cannot be JSON.
func isUnfit(text string) bool {
	return !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl)
}
