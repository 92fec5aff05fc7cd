// Package failure is the error type of everything below the root package. A
// failure says why there is no verified token: its class, the detail for the
// log, how long to wait, and the cause.
//
// A failure is either a verdict on the token or the absence of one, and only
// the failure itself says which. The root package decides HTTP status codes, in
// one table.
package failure

import (
	"errors"
	"time"
)

// A Class is a kind of failure.
type Class uint8

// The classes. Those up to Insufficient are verdicts, the others the absence of
// one.
const (
	NoCredentials Class = iota + 1 // the request carries no bearer token
	Malformed                      // the request breaks the grammar of RFC 6750
	Inactive                       // the authorization server says so
	Refused                        // a check refused the JWT or what came with it
	RefusedAnswer                  // a check refused an answer that came without a JWT
	RefusedToken                   // a check refused the client's own JWT, or no server is responsible
	Unproven                       // the sender does not prove that the token is its own
	Insufficient                   // the token does not permit the request
	Protocol                       // an answer that cannot be used
	Unavailable                    // no answer in time
	NoKeys                         // no keys to verify with
	Internal                       // a hook or this module panicked
)

// An Error is a failure. It is immutable once it has been returned. None of its
// fields ever holds a token, a JWT, a key, a secret or anything that the
// authorization server wrote, except for an address in Facts.
type Error struct {
	Class  Class
	Detail string        // names the rule or the check that failed
	Wait   time.Duration // how long the server asked us to wait; 0: it did not
	Cause  error         // safe to show; may be nil
	Issuer string        // whose token it was, if that is not plain; for the log
	Token  string        // the first digits of the token's digest, if known; for the log
	Facts  *Facts        // what else the log says; may be nil
	// Carried is the rejection that a hook returned ready-made; nil as a rule.
	Carried error

	// WaitAll: the server asked for the Wait on behalf of other tokens too.
	WaitAll bool
	// Lasting: the next answer about this token will be no other, as far as one
	// can tell. It may be remembered like the word "inactive".
	Lasting bool
	// Faulted: the server itself answered that it failed, by a status such as
	// 500. That may be the token's doing.
	Faulted bool
	// Unanswered: the server was asked about this very token, or about others
	// that were good before, and gave no answer. What is remembered of the token
	// may serve in its place (stale-if-error).
	Unanswered bool
}

// CallerLeft is the Detail of a failure that is none of ours: who asked did not
// wait for the answer.
const CallerLeft = "caller left"

// New returns a failure without a cause.
func New(class Class, detail string) *Error { return &Error{Class: class, Detail: detail} }

// Because returns a failure with a cause that is safe to show.
func Because(class Class, detail string, cause error) *Error {
	return &Error{Class: class, Detail: detail, Cause: cause}
}

// From returns the failure in err. An error that holds none becomes one of the
// fallback class. Its text is dropped, because it could contain anything.
func From(err error, fallback Class, detail string) *Error {
	if e, ok := err.(*Error); ok && e != nil { //nolint:errorlint // nearly always; errors.As would allocate
		return e
	}
	var e *Error
	if errors.As(err, &e) && e != nil {
		return e
	}
	return New(fallback, detail)
}

// Of is From for errors that are failures unless this module has a fault.
func Of(err error) *Error { return From(err, Internal, "") }

// IsVerdict reports whether e is a verdict on the request or its token.
func (e *Error) IsVerdict() bool { return e.Class <= Insufficient }

// IsOutage reports whether there was no verdict because the answer or the keys
// for it were missing.
func (e *Error) IsOutage() bool { return e.Class == Unavailable || e.Class == NoKeys }

// Error describes the failure. It is safe to show.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Detail + ": " + e.Cause.Error()
	}
	return e.Detail
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }
