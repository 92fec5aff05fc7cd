// Package mint makes the JWTs that upstreams get, by keys of yours, for
// authorization servers whose introspection endpoint gives none.
//
// Most servers answer an introspection (RFC 7662) with plain JSON. Nothing
// signed it, so it cannot be handed on. A [Minter] puts what that answer says
// into a JWT of its own issuer, in the profile of RFC 9068, and publishes the
// keys, so that upstreams can verify it without knowing the authorization
// server:
//
//	minter, err := mint.New("https://gateway.example", []mint.Key{{Signer: key}},
//		mint.WithAudience("https://orders.internal"))
//	auth, err := phantom.New(..., phantom.WithMinter(minter))
//	mux.Handle("/.well-known/", minter)
//
// # What the JWT says
//
// The claims are iss, aud, iat, exp and a jti of its own; sub, client_id (or
// else azp), scope (or else scp), acr, amr, auth_time, act,
// authorization_details, groups, roles and entitlements as the answer has them;
// the members that [WithMembers] names; and what [WithClaims] adds. A member
// that is null counts as absent. Values that are copied keep every byte, so
// that numbers are not rounded. The scope is one string, and what is no
// scope-token (RFC 6749 section 3.3) is not in it. The aud is a string if there
// is one audience, because some verifiers read nothing else, and an array if
// there are more (RFC 7519 section 4.1.3). The exp is never after the answer's.
// No JWT has cnf, which would bind it to a key that the upstream never sees
// used, or active, token_type, username and nonce, which speak of the opaque
// token.
//
// # Traps
//
// One Minter is for one authorization server. The subject "1" of two servers is
// two people, and upstreams could not tell them apart.
//
// The issuer is the Minter's own. phantom.New refuses the authorization
// server's, because whoever takes JWTs of that name would look for keys there.
//
// No key is ever made up. Replicas that made their own would publish key sets
// that do not know each other's JWTs. Give each the same keys.
//
// Keys are rotated in three steps; see [Minter.SetKeys]. A key that leaves the
// set at once takes the JWTs in the caches with it.
//
// Who gets the JWT can use it at each service that its audience names, until
// its exp. Name as few as you can, and keep the lifetime short: a revocation
// at the authorization server does not reach a JWT that was handed on.
//
// # The upstream
//
// An upstream validates it as any access token of RFC 9068: it takes the key
// set from the issuer's metadata, checks the signature with an algorithm of its
// own choice, the typ at+jwt, the iss and the exp, and that the aud has its own
// name. An upstream that skips this trusts whoever can reach it. With go-oidc
// these are three lines:
//
//	provider, err := oidc.NewProvider(ctx, "https://gateway.example")
//	config := &oidc.Config{ClientID: "https://orders.internal"} // the aud
//	token, err := provider.Verifier(config).Verify(ctx, jwt)
//
// They leave the typ to you.
package mint

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom"
)

// maxSize is the longest JWT that is made, in bytes: many servers take no more
// in all the header fields of a request.
const maxSize = 16 << 10

// A Minter makes JWTs. It is a phantom.Minter, the [phantom.KeySet] that
// verifies its JWTs, and the [http.Handler] of its key set and metadata. It is
// safe for concurrent use.
type Minter struct {
	config

	ring atomic.Pointer[ring]
}

var (
	_ phantom.KeySet = (*Minter)(nil)
	_ http.Handler   = (*Minter)(nil)
)

// New returns a Minter that signs with the first key and publishes all of them.
//
// The issuer is the iss of its JWTs: an absolute https URL without query or
// fragment (RFC 8414 section 2), or an http one on the loopback interface. It
// must not be the authorization server's. [WithAudience] is required.
//
// All mistakes come at once, each as a [*phantom.ConfigError]: no keys or more
// than 100, a first key without a Signer, a Signer whose key is not Public, two
// keys with one ID, a symmetric key, and those that the options name.
func New(issuer string, keys []Key, opts ...Option) (*Minter, error) {
	m := &Minter{}
	var faults faults
	m.config = readOptions(issuer, opts, &faults)
	ring := newRing(&m.config, keys, "mint.New", &faults)
	if err := faults.join(); err != nil {
		return nil, err
	}
	m.ring.Store(ring)
	return m, nil
}

// Mint returns a new JWT for what an introspection answer says. Its Claims, its
// Active and its Expiry are read; an exp in the Claims counts besides the
// Expiry. The token is ignored. answer is not changed, or kept.
//
// A Middleware calls Mint once for each lookup. A proxy whose upstreams have an
// audience each can call it by hand, with a Minter for each of them.
//
// An error that wraps [phantom.ErrUpstream] says that the answer has no sub or
// client_id, that one of its members is malformed, that the JWT would be longer
// than 16 KiB, or that [WithClaims] made a claim that it may not. One that
// wraps [phantom.ErrInvalidToken] says that the answer is not active, or its
// exp is past, and one that wraps [phantom.ErrUnavailable] that the Signer
// failed. An error of [WithClaims] or of ctx is returned as it is.
//
// A Signer is not given ctx. One that hangs holds its caller until it returns.
// No request that waits for it is let in meanwhile.
func (m *Minter) Mint(ctx context.Context, _ string, answer *phantom.Introspection) (string, error) {
	payload, err := m.payload(ctx, answer)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	jwt, err := m.ring.Load().signer.Sign(payload)
	switch {
	case err != nil:
		// What a Signer says could hold anything.
		return "", &phantom.Error{Reason: phantom.ReasonUnavailable, Detail: "signer of the minted JWT"}
	case len(jwt) > maxSize:
		return "", unusable("minted JWT longer than 16 KiB")
	}
	return jwt, nil
}

// Issuer returns the iss of the JWTs, and the Minter itself, which verifies
// them.
func (m *Minter) Issuer() (name string, keys phantom.KeySet) { return m.issuer, m }

// unusable is the error for an answer, or a configuration, that makes no JWT.
func unusable(detail string) error {
	return &phantom.Error{Reason: phantom.ReasonProtocol, Detail: detail}
}

// refused is the error for a token that is not active, or not any more.
func refused(detail string) error {
	return &phantom.Error{Reason: phantom.ReasonInactive, Detail: detail}
}

// config holds what the options said.
type config struct {
	issuer   string
	path     string // of the issuer, without a slash at its end
	iss, aud json.RawMessage
	lifetime time.Duration
	plain    bool
	copied   []string // members that are copied as they are
	own      func(ctx context.Context, answer map[string]json.RawMessage) (map[string]any, error)
}
