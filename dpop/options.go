package dpop

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/proof"
	"github.com/phantom-token/phantom/internal/upstream"
)

const (
	minMaxAge   = time.Second
	maxMaxAge   = 10 * time.Minute
	maxLeeway   = 5 * time.Minute
	minSecret   = 32 // bytes
	minCapacity = 4  // or a quarter is nothing
)

// An Option configures the Binding that [New] returns. If one is given twice,
// the last one counts.
type Option interface{ apply(c *config) }

type option func(c *config)

func (o option) apply(c *config) { o(c) }

// with makes an Option that records a value and that it was given.
func with(name string, set func(c *config)) Option {
	return option(func(c *config) {
		c.given[name] = true
		set(c)
	})
}

type config struct {
	given      map[string]bool
	origin     string // in the normal form, without a slash at its end
	target     func(*http.Request) (string, error)
	algorithms []string
	maxAge     time.Duration
	leeway     time.Duration
	secrets    nonces
	store      ReplayStore
	capacity   int
	faults     []error
}

// WithTarget replaces origin and path: f returns the URI that the client asked
// for, for services with several hosts or with paths that a proxy rewrites. Its
// query and fragment do not matter. f must not believe a field of the request
// that a client can set. An error of f refuses the request: a [*phantom.Error]
// as it says, one that wraps [phantom.ErrUnavailable] or [phantom.ErrUpstream]
// with 503 or 502, and any other with 401 and invalid_dpop_proof. f is called
// by many goroutines at once.
func WithTarget(f func(*http.Request) (string, error)) Option {
	return with("WithTarget", func(c *config) { c.target = f })
}

// WithAlgorithms restricts the signature algorithms of proofs. Default, and all
// that there are: those of [phantom.WithAlgorithms]. The challenge names them.
func WithAlgorithms(algs ...string) Option {
	var own []string
	for _, alg := range algs {
		if alg = jose.Canonical(alg); !slices.Contains(own, alg) {
			own = append(own, alg)
		}
	}
	return with("WithAlgorithms", func(c *config) { c.algorithms = own })
}

// WithMaxAge sets for how long after its iat a proof is good; the leeway is
// added. Default: 60 s; at least 1 s, at most 10 min. It excludes [WithNonce].
func WithMaxAge(d time.Duration) Option {
	return with("WithMaxAge", func(c *config) { c.maxAge = d })
}

// WithLeeway sets how far clocks may differ: the client's and ours, when iat,
// nbf and exp are checked, and those of replicas that share a nonce's secret or
// a [ReplayStore].
// Default: 10 s; at most 5 min, and not negative.
func WithLeeway(d time.Duration) Option {
	return with("WithLeeway", func(c *config) { c.leeway = d })
}

// WithNonce demands a nonce of ours in every proof (RFC 9449 section 9), in
// place of the age of iat, so that clients' clocks may be wrong. A request
// without a good one gets 401, use_dpop_nonce, and a nonce in DPoP-Nonce, with
// which the client tries again and which it keeps. Nonces are a time and an
// HMAC: replicas that share the secrets need no store for them. The first
// secret makes them, each verifies them, for 5 min. To change the secret, put
// the new one behind the old one on every replica, then in front of it, and
// drop the old one 5 min later. A secret has at least 32 bytes, all of them
// random.
func WithNonce(secrets ...[]byte) Option {
	own := make(nonces, len(secrets))
	for i, secret := range secrets {
		own[i] = bytes.Clone(secret)
	}
	return with("WithNonce", func(c *config) { c.secrets = own })
}

// WithReplayStore remembers proofs in s, in place of the memory of this
// process. A fleet behind one origin needs it: otherwise a proof passes once at
// each replica.
func WithReplayStore(s ReplayStore) Option {
	return with("WithReplayStore", func(c *config) { c.store = s })
}

// WithCapacity sets how many proofs are remembered in memory, of which one key
// gets a quarter. Default: 100,000; at least 4. A full store refuses with 503.
// By default a proof stays until 70 s after its iat, so this is enough for
// 1,428 requests a second, 357 of them with one key. An entry takes 150 to 210
// bytes. It excludes [WithReplayStore].
func WithCapacity(n int) Option {
	return with("WithCapacity", func(c *config) { c.capacity = n })
}

// read applies the options and returns all that is wrong with them.
func read(origin string, opts []Option) (*config, error) {
	c := &config{
		given:      map[string]bool{},
		algorithms: slices.Sorted(slices.Values(jose.Algorithms())),
		maxAge:     time.Minute,
		leeway:     10 * time.Second,
		capacity:   100_000,
	}
	for i, o := range opts {
		if o == nil {
			c.fault("Option", "argument %d is nil", i+1)
			continue
		}
		o.apply(c)
	}
	if origin != "" || !c.given["WithTarget"] {
		c.checkOrigin(origin)
	}
	c.checkNumbers()
	c.checkParts()
	return c, errors.Join(c.faults...)
}

func (c *config) fault(option, format string, args ...any) {
	c.faults = append(c.faults, &phantom.ConfigError{Option: "dpop." + option, Reason: fmt.Sprintf(format, args...)})
}

func (c *config) checkOrigin(origin string) {
	normal, ok := proof.Normalize(origin)
	u, err := url.Parse(origin)
	switch shown := upstream.Shown(origin); {
	case origin == "":
		c.fault("New", "no origin")
	case strings.ContainsAny(origin, "?#"):
		c.fault("New", "the origin %q has a query or a fragment", shown)
	case err != nil || !ok || u.Hostname() == "" || strings.ContainsFunc(origin, notInURL):
		c.fault("New", "the origin %q is not an absolute URL", shown)
	case u.Scheme != "https":
		c.fault("New", "the origin %q is not https", shown)
	}
	c.origin = strings.TrimSuffix(normal, "/")
}

func notInURL(c rune) bool { return c <= ' ' || c >= 0x7f }

func (c *config) checkNumbers() {
	if c.maxAge < minMaxAge || c.maxAge > maxMaxAge {
		c.fault("WithMaxAge", "%v is not between %v and %v", c.maxAge, minMaxAge, maxMaxAge)
	}
	switch {
	case c.leeway < 0 || c.leeway > maxLeeway:
		c.fault("WithLeeway", "%v is not between 0 and %v", c.leeway, maxLeeway)
	case c.leeway > 0 && c.leeway < time.Millisecond:
		c.fault("WithLeeway", "%v is less than a millisecond: a number without a unit counts nanoseconds", c.leeway)
	}
	if c.capacity < minCapacity {
		c.fault("WithCapacity", "%d is less than %d", c.capacity, minCapacity)
	}
}

func (c *config) checkParts() {
	if c.given["WithTarget"] && c.target == nil {
		c.fault("WithTarget", "nil")
	}
	if len(c.algorithms) == 0 {
		c.fault("WithAlgorithms", "no values")
	}
	for _, alg := range c.algorithms {
		if !jose.Supported(alg) {
			c.fault("WithAlgorithms", "%q is not one of RS, PS and ES 256/384/512 and EdDSA", alg)
		}
	}
	if c.given["WithNonce"] && len(c.secrets) == 0 {
		c.fault("WithNonce", "no secrets")
	}
	for i, secret := range c.secrets {
		if len(secret) < minSecret {
			c.fault("WithNonce", "secret %d has %d bytes, want at least %d", i+1, len(secret), minSecret)
		}
	}
	if c.given["WithReplayStore"] && isNil(c.store) {
		c.fault("WithReplayStore", "nil")
	}
	for _, pair := range [...][2]string{{"WithNonce", "WithMaxAge"}, {"WithReplayStore", "WithCapacity"}} {
		if c.given[pair[0]] && c.given[pair[1]] {
			c.fault(pair[0], "excludes %s", pair[1])
		}
	}
}

// isNil also sees a nil pointer inside the interface, which would make each
// request a 500.
func isNil(s ReplayStore) bool {
	switch v := reflect.ValueOf(s); v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan, reflect.Slice:
		return v.IsNil()
	}
	return false
}
