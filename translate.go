package phantom

import (
	"errors"
	"net/http"

	"github.com/phantom-token/phantom/internal/failure"
)

// translate makes a failure from a hook's error. An [*Error] keeps its kind and
// is carried along, as a copy: the hook may use its own again. An error that
// wraps one of the Err variables gets the kind of that one, and any other the
// fallback class; so does an Error whose Reason is none of ours, unless it is a
// requirement's own word. The text of a foreign error is for the log alone,
// without the secrets that the hook was given.
func translate(err error, fallback failure.Class, detail string, secrets ...string) *failure.Error {
	var e *Error
	switch {
	case !errors.As(err, &e):
		class := sentinelClass(err, fallback)
		f := failure.New(class, detail)
		if err == kinds[class].sentinel { //nolint:errorlint // it has no words of its own
			return f
		}
		return f.Saying(failure.Words(err.Error(), secrets...))
	case e == nil:
		return failure.New(failure.Internal, "a hook returned a nil *Error")
	}
	own := e.clone()
	own.Detail = failure.Without(own.Detail, secrets...)
	if own.Err != nil {
		if text := own.Err.Error(); failure.Without(text, secrets...) != text {
			own.Err = &cleaned{own.Err, failure.Without(text, secrets...)}
		}
	}
	if _, ok := classOf(e.Reason); !ok && (e.Reason == "" || fallback != failure.Insufficient) {
		own.Reason = kinds[sentinelClass(e.Err, fallback)].reason
	}
	f := &failure.Error{Class: own.class(), Detail: own.Detail, Carried: own, Facts: own.facts, Token: own.token}
	if !f.IsVerdict() && own.StatusCode() < http.StatusInternalServerError {
		f.Class = failure.Refused // its Status makes it a verdict
	}
	// Every 503 has some RetryAfter. Only a longer one was asked for.
	if own.RetryAfter > defaultRetryAfter {
		f.Wait, f.WaitAll = own.RetryAfter, true
	}
	return f
}

// A cleaned is a hook's error whose text had a secret in it.
type cleaned struct {
	err  error
	text string
}

func (c *cleaned) Error() string { return c.text }

func (c *cleaned) Unwrap() error { return c.err }

// sentinelClass returns the class whose Err variable err wraps.
func sentinelClass(err error, fallback failure.Class) failure.Class {
	for _, class := range []failure.Class{
		failure.NoCredentials, failure.Malformed, failure.Inactive,
		failure.Insufficient, failure.Protocol, failure.Unavailable,
	} {
		if errors.Is(err, kinds[class].sentinel) {
			return class
		}
	}
	return fallback
}
