package phantom

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpauth"
)

// A Requirement decides whether a verified token permits a request. An error
// refuses the request. An [*Error] chooses the answer, an error that wraps an
// Err variable of this package gets the status of that one, and any other gets
// 403. The error's text is logged, up to 512 bytes, and never sent. A
// Requirement runs on every request, also when the token comes from the
// cache, and must be safe for concurrent use. Once a request is refused, the
// others are asked what they need besides, and may see a copy of the token
// without its scopes: a Requirement must change nothing and answer at once.
type Requirement func(*Token) error

// AllScopes requires every one of the scopes. The challenge names all of them
// (RFC 6750 section 3.1), because clients ask for just those that it names. It
// panics if there are none or one is not a scope-token (RFC 6749 section 3.3),
// because such a requirement has no meaning.
func AllScopes(scopes ...string) Requirement {
	scopes = mustScopes("AllScopes", scopes)
	return func(t *Token) error {
		if !slices.ContainsFunc(scopes, func(s string) bool { return !t.HasScope(s) }) {
			return nil
		}
		return insufficientScope(slices.Clone(scopes))
	}
}

// AnyScope requires at least one of the scopes. The challenge names all of
// them. It panics as [AllScopes] does.
func AnyScope(scopes ...string) Requirement {
	scopes = mustScopes("AnyScope", scopes)
	return func(t *Token) error {
		if slices.ContainsFunc(scopes, t.HasScope) {
			return nil
		}
		return insufficientScope(slices.Clone(scopes))
	}
}

// refusal is the rejection by the first requirement that is not met. It also
// says what the others need that refuse alike, so that a client that does as
// the challenge says need not come back for more. After a refusal for scope,
// those that are met name their scopes as well: the client may replace the ones
// it has.
func refusal(tok *Token, err error, met, rest []Requirement) error {
	first := translate(err, failure.Insufficient, "requirement", tok.JWT())
	first.Token = shortDigest(tok.digest())
	merged := rejection(first)
	if merged.StatusCode() >= http.StatusInternalServerError {
		return first
	}
	forScope := merged.kind().code == kinds[failure.Insufficient].code
	var all []*Error
	if forScope {
		for _, requirement := range met {
			all = append(all, ask(requirement, tok.withoutScopes()))
		}
	}
	all = append(all, merged)
	for _, requirement := range rest {
		e := ask(requirement, tok)
		if e == nil && forScope {
			e = ask(requirement, tok.withoutScopes())
		}
		all = append(all, e)
	}
	scopes, params := []string(nil), map[string]string{}
	for _, e := range all {
		if e == nil || e.StatusCode() != merged.StatusCode() || e.kind().code != merged.kind().code {
			continue
		}
		for _, scope := range e.Scopes {
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
		for name, value := range e.Params {
			if before, ok := params[name]; !ok || isStricter(name, value, before) {
				params[name] = value
			}
		}
	}
	merged.Scopes, merged.Params = scopes, params
	own := *first
	own.Carried = merged
	return &own
}

// ask returns what a requirement says against the token. A panic says nothing.
func ask(requirement Requirement, tok *Token) (e *Error) {
	defer func() {
		if recover() != nil {
			e = nil
		}
	}()
	err := requirement(tok)
	if err == nil {
		return nil
	}
	return rejection(translate(err, failure.Insufficient, "requirement"))
}

// isStricter reports whether a parameter's value demands more than the one
// before, if that can be told: a smaller max_age does (RFC 9470).
func isStricter(name, value, before string) bool {
	a, err1 := strconv.ParseUint(value, 10, 63)
	b, err2 := strconv.ParseUint(before, 10, 63)
	return name == "max_age" && err1 == nil && err2 == nil && a < b
}

func mustScopes(caller string, scopes []string) []string {
	if len(scopes) == 0 {
		panic("phantom: " + caller + ": no scopes")
	}
	for _, scope := range scopes {
		if !httpauth.IsScopeToken(scope) {
			panic(fmt.Sprintf("phantom: %s: %q is not a scope-token", caller, scope))
		}
	}
	return slices.Clone(scopes)
}
