package phantom

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
)

// UnverifiedIssuer returns the iss of a token that has the form of a signed
// JWT: three segments of canonical base64url, strict JSON without a name twice,
// an alg that this package supports, and an iss that is a non-empty string.
// Nothing is verified. Every other token is not ok, a JWE with its five
// segments too. It is for choosing a member of [Dispatch], and for nothing
// else.
func UnverifiedIssuer(token string) (iss string, ok bool) {
	if strings.Count(token, ".") != 2 {
		return "", false
	}
	msg, err := jose.Parse(token)
	if err != nil {
		return "", false
	}
	iss, _ = msg.Claims.Get("iss").Text()
	return iss, iss != ""
}

// Dispatch returns a Middleware that hands each token to one of the members,
// which verifies it with all its own options. It is for services that take
// tokens of several issuers, or opaque ones and JWTs side by side.
//
// The function choose names the member by the token alone: a prefix, the
// length, [UnverifiedIssuer]. It must be pure and fast, and safe for concurrent
// use. If it returns nil, or a Middleware that is no member, the token is
// invalid (401) and no server is asked. No second member is ever tried: it
// would be shown a live token of the first.
//
// The options may be [WithTokenExtractor], [WithErrorHandler], [WithRealm],
// [WithResourceMetadataURL], [WithRequirements], [WithLogger] and [WithTrace].
// Of the members' own options of this kind the requirements apply, which come
// first, and what their Traces want to know of lookups. A member's Bindings
// ([WithBinding]) check its own tokens; the schemes of all members are read,
// and excluded by an extractor. [Token.Issuer] tells which member it was. The
// token is good inside the dispatcher's handlers and inside that member's own,
// and in no other's. [Middleware.Forget], [Middleware.Purge] and
// [Middleware.Warm] act on all members.
//
// The members must be made by [New]: at least one, and none twice. Two whose
// Minters have one name must have the same [WithIssuer], or one's user could be
// taken for the other's. All mistakes come at once, each a [*ConfigError].
func Dispatch(members []*Middleware, choose func(token string) *Middleware, opts ...Option) (*Middleware, error) {
	c, err := readDispatchOptions(opts)
	faults := []error{err}
	fault := func(format string, args ...any) {
		faults = append(faults, &ConfigError{"Dispatch", fmt.Sprintf(format, args...)})
	}
	if len(members) == 0 {
		fault("no members: name at least one Middleware")
	}
	if choose == nil {
		fault("choose is nil: it must name the member for a token")
	}
	minters := map[string]string{}
	for i, member := range members {
		switch {
		case member == nil || member.parts == nil:
			fault("member %d is not made by New", i+1)
			continue
		case member.dispatcher != nil:
			fault("member %d is a dispatcher itself: name its members", i+1)
			continue
		case slices.Contains(members[:i], member):
			fault("member %d is there twice", i+1)
			continue
		}
		if c.extractor != nil && len(member.bindings.schemes) > 0 {
			fault("member %d has a Binding with the Scheme %q, which excludes WithTokenExtractor",
				i+1, member.bindings.schemes[0])
		}
		name, source := member.authority.jwtRules.Issuer, member.authority.rules.Issuer
		if name == source {
			continue
		}
		if other, ok := minters[name]; ok && other != source {
			fault("members of the issuers %q and %q mint JWTs of one issuer, %q", other, source, name)
		}
		minters[name] = source
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	bindings := bindingsOf(members)
	m := &Middleware{&parts{
		dispatcher:   newDispatcher(members, choose),
		digests:      keyOf(members),
		extract:      c.extractor,
		requirements: c.requirements,
		bindings:     bindings,
		rejecter:     newRejecter(c, bindings.offers),
		log:          &eventLog{logger: c.logger, named: c.asksForTokens()},
		hooks:        newHooks(c.traces),
		counts:       &counts{},
	}}
	m.attach(c.traces)
	return m, nil
}

// readDispatchOptions reads the options of the edge, and refuses those of an
// authorization server.
func readDispatchOptions(opts []Option) (*config, error) {
	c := defaults()
	v := &validator{config: c}
	v.apply(opts)
	edge := []string{
		"WithTokenExtractor", "WithErrorHandler", "WithRealm", "WithResourceMetadataURL", "WithRequirements", "WithLogger",
		"WithTrace",
	}
	for _, option := range slices.Sorted(maps.Keys(c.given)) {
		if !slices.Contains(edge, option) {
			v.fault(option, "is for a member of Dispatch")
		}
	}
	v.hooks()
	return c, errors.Join(v.faults...)
}

// A dispatcher hands tokens to the members of a Middleware.
type dispatcher struct {
	members []*Middleware
	choose  func(token string) *Middleware
	chosen  *cache.Cache[*Middleware] // for JWTs that were verified: to read their issuer takes long
}

func newDispatcher(members []*Middleware, choose func(token string) *Middleware) *dispatcher {
	size := 0
	for _, member := range members {
		size += member.memory.size
	}
	return &dispatcher{
		members: slices.Clone(members),
		choose:  choose,
		chosen:  cache.New(cache.Config[*Middleware]{Size: size, Retired: func(*Middleware) bool { return false }}),
	}
}

// errNoMember is the verdict on a token for which no member is responsible.
var errNoMember = failure.New(failure.RefusedToken, "no member of Dispatch")

// dispatch has the responsible member resolve the token.
func (m *Middleware) dispatch(ctx context.Context, token string, d digest) (tok *Token, outcome Outcome, err error) {
	isJWT := strings.Count(token, ".") == 2
	var member *Middleware
	if isJWT {
		member = m.dispatcher.chosen.Get(&d, clock.Instant{}).Value // an instant that ends no life
	}
	known := member != nil
	if !known {
		if err := m.checkToken(token); err != nil {
			return nil, OutcomeNone, err
		}
		if member = m.dispatcher.choose(token); !m.isMember(member) {
			return nil, OutcomeNone, errNoMember
		}
	}
	own := d
	if member.digests != m.digests && *member.digests != *m.digests {
		own = member.digests.of(token)
	}
	isChecked := func(string) error { return nil }
	tok, outcome, err = member.resolve(ctx, token, own, time.Now(), isChecked)
	if err != nil {
		return nil, outcome, m.log.about(ctx, own, m.blame(member, err))
	}
	if isJWT && !known {
		entry := cache.NewEntry(d, member)
		life := cache.NewLife(clock.Instant{}, time.Unix(math.MaxInt32, 0), math.MaxInt64)
		m.dispatcher.chosen.Put(&entry, life, func() bool { return true })
	}
	return tok, outcome, nil
}

// errOtherMember is the verdict on the JWT of another member's token.
var errOtherMember = failure.New(failure.RefusedToken, "the JWT of another member of Dispatch")

// isOfSibling reports whether the token is one that an outer dispatcher, of
// which m is a member, found to be another member's, or the JWT that stands in
// for it. It is no token of m's server, which must not see it.
func (m *Middleware) isOfSibling(ctx context.Context, token string) bool {
	for {
		outer, ok := ctx.Value(handedOnKey{}).(*handedOn)
		if !ok {
			return false
		}
		if tok := outer.token; tok != nil && tok.owner != m && outer.by.isMember(m) &&
			(token == tok.JWT() || tok.owner.digests.of(token) == tok.digest()) {
			return true
		}
		ctx = outer.Context
	}
}

// isMember reports whether m dispatches to the other Middleware.
func (m *Middleware) isMember(other *Middleware) bool {
	return other != nil && m.dispatcher != nil && slices.Contains(m.dispatcher.members, other)
}

// blame names the member in an error, for the log, unless it is m itself.
func (m *Middleware) blame(member *Middleware, err error) error {
	if err == nil || member == m {
		return err
	}
	own := *failure.Of(err)
	own.Issuer = member.log.issuer
	return &own
}

// vouchesFor reports whether m, or a member of it, verified the token.
func (m *Middleware) vouchesFor(tok *Token) bool { return tok.owner == m || m.isMember(tok.owner) }

// each calls f for m or, if it dispatches, for its members.
func (m *Middleware) each(f func(member *Middleware)) {
	if m.dispatcher == nil {
		f(m)
		return
	}
	for _, member := range m.dispatcher.members {
		f(member)
	}
}
