package dpop

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/proof"
)

// The field with the proof, the scheme of the tokens, and the field with our
// nonce (RFC 9449 sections 4.1, 7.1 and 9).
const (
	field      = "DPoP"
	scheme     = "DPoP"
	nonceField = "DPoP-Nonce"
)

const maxID = 256 // bytes of a jti

// New returns the Binding of RFC 9449. Give it to phantom.WithBinding. To
// refuse tokens that are bound to no key, set its field Required first.
//
// origin is the scheme and the host, and the path prefix that proxies remove,
// under which clients reach this service, such as "https://api.example.com/v1".
// It must be https, without query, fragment or credentials, and may be empty
// only with [WithTarget]. The path is that of the request line. Nothing is
// taken from Host, Forwarded or X-Forwarded-Host, which a client can set.
//
// New returns all mistakes at once, as [*phantom.ConfigError] joined by
// [errors.Join].
//
// A Binding has one store of the proofs that it has seen: let the Middlewares
// of one origin share one Binding, or a proof passes once at each. Its Check is
// safe for concurrent use, starts no goroutine, and refuses as follows:
//
//   - no proof, a repeated one, or any check of it that fails, a replay too:
//     401, invalid_dpop_proof;
//   - no good nonce of ours, where [WithNonce] demands one: 401,
//     use_dpop_nonce, with a new one in DPoP-Nonce;
//   - a proof by another key than the token's: 401, invalid_token;
//   - a store of proofs that is full or fails: 503.
func New(origin string, opts ...Option) (phantom.Binding, error) {
	c, err := read(origin, opts)
	if err != nil {
		return phantom.Binding{}, err
	}
	k := &checker{config: c}
	if c.store == nil {
		k.memory = newMemory(c.capacity)
	}
	return phantom.Binding{
		Method: "jkt",
		Scheme: scheme,
		Params: map[string]string{"algs": strings.Join(c.algorithms, " ")},
		Fields: []string{field},
		Check:  k.check,
	}, nil
}

type checker struct {
	*config

	memory *memory // nil: store
}

// check is RFC 9449 section 4.3 with sections 7.1 and 11.1. What leaves a trace
// comes last, so that no proof is used up by a request that is refused.
func (c *checker) check(r *http.Request, token, thumbprint string) error {
	p, err := readProof(r, c.algorithms)
	if err != nil {
		return err
	}
	if htm, ok := p.Text("htm"); !ok || htm != r.Method {
		return refused("htm")
	}
	if err := c.checkTarget(p, r); err != nil {
		return err
	}
	until, err := c.checkTime(p, time.Now())
	if err != nil {
		return err
	}
	hash := sha256.Sum256([]byte(token))
	if ath, ok := p.Text("ath"); !ok || !equal(ath, base64URL.EncodeToString(hash[:])) {
		return refused("ath")
	}
	if !equal(thumbprint, p.Thumbprint) {
		return &phantom.Error{Reason: phantom.ReasonBinding, Detail: "dpop jkt", Scheme: scheme}
	}
	id, ok := p.Text("jti")
	if !ok || len(id) > maxID {
		return refused("jti")
	}
	return c.checkFresh(r.Context(), p.Thumbprint, id, until)
}

// readProof returns the one proof of a request.
func readProof(r *http.Request, algorithms []string) (*proof.Proof, error) {
	// net/http canonicalizes names on arrival, but an outer middleware can put
	// any key into the map.
	var values []string
	for name, lines := range r.Header {
		if strings.EqualFold(name, field) {
			values = append(values, lines...)
		}
	}
	switch len(values) {
	case 0:
		return nil, refused("missing")
	case 1:
	default:
		return nil, refused("repeated")
	}
	p, err := proof.Parse(values[0], algorithms)
	if err != nil {
		return nil, refused(err.Error())
	}
	return p, nil
}

// checkTarget compares htu with the URI that the client asked for.
func (c *checker) checkTarget(p *proof.Proof, r *http.Request) error {
	htu, _ := p.Text("htu")
	signed, ok := proof.Normalize(htu)
	if !ok {
		return refused("htu")
	}
	target := ""
	if c.target == nil {
		if path, ok := proof.Path(r); ok {
			target, _ = proof.Join(c.origin, path)
		}
	} else {
		uri, err := c.target(r)
		if err != nil {
			return ofTarget(err)
		}
		target, _ = proof.Normalize(uri)
	}
	if signed != target { // "" is none and equals no htu
		return refused("htu")
	}
	return nil
}

// ofTarget lets through what the function of [WithTarget] may say by itself.
func ofTarget(err error) error {
	var own *phantom.Error
	if errors.As(err, &own) || errors.Is(err, phantom.ErrUnavailable) || errors.Is(err, phantom.ErrUpstream) {
		return err
	}
	return refused("target")
}

// checkTime checks iat, nbf, exp, and the nonce if there must be one. It
// returns until when the proof is good.
func (c *checker) checkTime(p *proof.Proof, now time.Time) (until time.Time, err error) {
	sec, ok := p.Claims.Get("iat").NumericDate()
	if !ok {
		return until, refused("iat")
	}
	issued := time.Unix(sec, 0)
	if nbf := p.Claims.Get("nbf"); nbf.Exists() {
		if sec, ok := nbf.NumericDate(); !ok || time.Unix(sec, 0).After(now.Add(c.leeway)) {
			return until, refused("nbf")
		}
	}
	if exp := p.Claims.Get("exp"); exp.Exists() {
		if sec, ok := exp.NumericDate(); !ok || !now.Before(time.Unix(sec, 0).Add(c.leeway)) {
			return until, refused("exp")
		}
	}
	if len(c.secrets) > 0 {
		nonce, _ := p.Text("nonce")
		if until, ok = c.secrets.end(nonce, now, c.leeway); !ok {
			e := refused("nonce")
			e.Code, e.Header = "use_dpop_nonce", http.Header{}
			e.Header.Set(nonceField, c.secrets.issue(now))
			return until, e
		}
		return until, nil
	}
	until = issued.Add(c.maxAge + c.leeway)
	if now.After(until) || issued.After(now.Add(c.leeway)) {
		return until, refused("iat")
	}
	return until, nil
}

// checkFresh uses the proof up.
func (c *checker) checkFresh(ctx context.Context, thumbprint, id string, until time.Time) error {
	key := sha256.Sum256([]byte(thumbprint + id)) // the first has a fixed length
	var fresh bool
	var err error
	detail := "dpop replay store"
	if c.memory != nil {
		if fresh, err = c.memory.add(thumbprint, key, until); err != nil {
			detail += ": " + err.Error()
		}
	} else {
		// The proof is good for another replica by that one's clock, which may be
		// behind. The error could contain anything.
		fresh, err = c.store.Add(ctx, key, until.Add(c.leeway))
	}
	switch {
	case err != nil:
		return &phantom.Error{Reason: phantom.ReasonUnavailable, Detail: detail, Scheme: scheme}
	case !fresh:
		return refused("replay")
	}
	return nil
}

// refused is the rejection of a proof.
func refused(check string) *phantom.Error {
	return &phantom.Error{
		Reason: phantom.ReasonBinding, Detail: "dpop " + check, Scheme: scheme, Code: "invalid_dpop_proof",
	}
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
