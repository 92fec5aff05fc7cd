package phantom

import "context"

// contextKey is the key of the current token in a request's context.
type contextKey struct{}

// A handedOn is the context of a request that is handed on. Its token is nil if
// the request is anonymous.
type handedOn struct {
	context.Context
	token *Token
	by    *Middleware
}

// handedOnKey is the key of the latest handedOn itself.
type handedOnKey struct{}

// newHandedOn returns the context for next, and the values of Authorization:
// nil if next is to get none.
func newHandedOn(parent context.Context, tok *Token, by *Middleware) (ctx *handedOn, authorization []string) {
	// In one allocation, but not in one type: what prints a context, as fmt can
	// from an unexported field, does not print the JWT.
	made := &struct {
		ctx           handedOn
		authorization [1]string // next may write to it
	}{ctx: handedOn{Context: parent, token: tok, by: by}}
	if tok != nil {
		if made.authorization[0] = tok.header(); made.authorization[0] != "" {
			authorization = made.authorization[:]
		}
	}
	return &made.ctx, authorization
}

// Value returns the token, or the handedOn itself, for its key.
func (c *handedOn) Value(key any) any {
	switch key {
	case contextKey{}:
		return c.token
	case handedOnKey{}:
		return c
	}
	return c.Context.Value(key)
}

// NewContext returns a context that carries the token. It is for tests of
// handlers and for servers other than net/http's. A nil token hides one that
// ctx carries. The Middleware that verified the token accepts it from the
// context, until it expires, for a request that brings no other. It does not
// check again that the sender of such a request has the key of a bound token.
func NewContext(ctx context.Context, tok *Token) context.Context {
	return context.WithValue(ctx, contextKey{}, tok)
}

// FromContext returns the token that a Middleware verified for the request.
func FromContext(ctx context.Context) (*Token, bool) {
	tok, _ := ctx.Value(contextKey{}).(*Token)
	return tok, tok != nil
}

// Claims decodes the verified payload of the context's token into a T, as
// [Token.Decode] does. Without a token it returns [ErrNoToken], never an empty
// T alone.
func Claims[T any](ctx context.Context) (T, error) {
	var claims T
	tok, ok := FromContext(ctx)
	if !ok {
		return claims, ErrNoToken
	}
	if err := tok.Decode(&claims); err != nil {
		return *new(T), err
	}
	return claims, nil
}
