package phantom

import "net/http"

// A Binding checks that the sender of a request holds the key that its token is
// bound to (RFC 7800). Packages dpop and mtls make the two that are in use.
type Binding struct {
	// Method is the member of the token's cnf claim that the Binding is for:
	// "jkt" (RFC 9449) or "x5t#S256" (RFC 8705).
	Method string
	// Scheme is the authentication scheme that such tokens come under, "DPoP"
	// for example. They are then refused under Bearer, and other tokens are
	// refused under Scheme. Empty: they come under Bearer.
	Scheme string
	// Params are the parameters of the Scheme's challenge.
	Params map[string]string
	// Required refuses tokens whose cnf lacks the member.
	Required bool
	// Fields are the request fields that the next handler must not see, such as
	// the one with the proof.
	Fields []string
	// Check is called on every request whose verified token has the member, also
	// if the token comes from the cache. It runs after every check of the token
	// and before the requirements, at most once a request. token is what the
	// client sent, thumbprint the member's value: 43 characters, canonical
	// base64url of 32 bytes. Check must be safe for concurrent use, and must not
	// keep or log the token.
	//
	// An error refuses the request: an [*Error] as it says, one that wraps
	// [ErrUnavailable] with 503, [ErrUpstream] with 502, and any other with 401
	// and [ReasonBinding]. What Check says is never remembered.
	Check func(r *http.Request, token, thumbprint string) error
}
