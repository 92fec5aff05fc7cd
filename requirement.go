package phantom

import (
	"fmt"
	"slices"

	"github.com/phantom-token/phantom/internal/httpauth"
)

// A Requirement decides whether a verified token permits a request. An error
// refuses the request. An [*Error] chooses the answer, an error that wraps an
// Err variable of this package gets the status of that one, and any other gets
// 403. A Requirement runs on every request, also when the token comes from the
// cache, and must be safe for concurrent use.
type Requirement func(*Token) error

// AllScopes requires every one of the scopes. The challenge names those that
// the token lacks. It panics if there are none or one is not a scope-token (RFC
// 6749 section 3.3), because such a requirement has no meaning.
func AllScopes(scopes ...string) Requirement {
	scopes = mustScopes("AllScopes", scopes)
	return func(t *Token) error {
		if !slices.ContainsFunc(scopes, func(s string) bool { return !t.HasScope(s) }) {
			return nil
		}
		missing := slices.DeleteFunc(slices.Clone(scopes), t.HasScope)
		return insufficientScope(missing)
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
