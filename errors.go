package phantom

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/httpauth"
)

// The kinds of failure, to match with [errors.Is]. The first four are verdicts
// on the request. The last two mean that there is none: the request is not let
// through, and not blamed for the outage.
var (
	// ErrNoToken reports that a request carries no bearer token. Status 401,
	// with a challenge that names no error (RFC 6750 section 3.1).
	ErrNoToken = errors.New("phantom: no bearer token")
	// ErrInvalidRequest reports a malformed Authorization field. Status 400.
	ErrInvalidRequest = errors.New("phantom: malformed bearer request")
	// ErrInvalidToken reports a token that the authorization server calls
	// inactive, or whose JWT fails a check. Status 401.
	ErrInvalidToken = errors.New("phantom: invalid token")
	// ErrInsufficientScope reports a valid token that does not meet a
	// [Requirement]. Status 403.
	ErrInsufficientScope = errors.New("phantom: insufficient scope")
	// ErrUpstream reports that the authorization server's answer cannot be
	// used, or that it refused the introspection client's own credentials.
	// Status 502.
	ErrUpstream = errors.New("phantom: unusable answer of the authorization server")
	// ErrUnavailable reports that no answer, or no key to verify it with, came
	// in time. Status 503.
	ErrUnavailable = errors.New("phantom: authorization server unavailable")
)

// A Reason says why a request was rejected, in one word that is stable enough
// for logs and metrics.
type Reason string

// The reasons for which a Middleware rejects a request.
const (
	ReasonNoCredentials    Reason = "no_credentials"    // no bearer token: 401, ErrNoToken
	ReasonMalformedRequest Reason = "malformed_request" // not RFC 6750's grammar: 400, ErrInvalidRequest
	ReasonInactive         Reason = "inactive"          // the authorization server said so: 401, ErrInvalidToken
	ReasonJWTRejected      Reason = "jwt_rejected"      // a check refused the JWT: 401, ErrInvalidToken
	ReasonAnswerRejected   Reason = "answer_rejected"   // a check refused an answer without a JWT: 401, ErrInvalidToken
	ReasonTokenRejected    Reason = "token_rejected"    // a check refused the client's own JWT: 401, ErrInvalidToken
	ReasonBinding          Reason = "binding"           // proof or certificate missing or wrong: 401, ErrInvalidToken
	ReasonScope            Reason = "scope"             // a requirement is not met: 403, ErrInsufficientScope
	ReasonProtocol         Reason = "as_protocol"       // unusable answer: 502, ErrUpstream
	ReasonUnavailable      Reason = "as_unavailable"    // no answer: 503, ErrUnavailable
	ReasonKeysUnavailable  Reason = "keys_unavailable"  // no keys to verify with: 503, ErrUnavailable
	ReasonInternal         Reason = "internal"          // a hook or this package panicked: 500
)

// An Error is the rejection of one request. Get it with [errors.As]. To match
// its kind, use [errors.Is] with the Err variables, which an Error wraps.
//
// A [Requirement] may return an Error of its own to choose the answer. Status,
// Code and Params make the challenge that its kind of failure needs, such as
// RFC 9470's step-up.
//
// No field ever holds a token, a JWT, a key, a secret or anything that the
// authorization server wrote. What a hook puts there is its own word: Detail
// and the text of Err are logged and never sent.
type Error struct {
	// Reason says what happened and decides the status code.
	Reason Reason
	// Detail names the rule or check that failed, such as "aud" or
	// "signature". It is for operators: it is logged, never sent. Lines of one
	// Detail are paced together, so it should be one of a few texts.
	Detail string
	// Scopes are all scope tokens that the request needs. They become the
	// challenge's scope attribute.
	Scopes []string
	// RetryAfter says when to try again, for a 503. It is sent in whole seconds
	// from 1 to 30.
	RetryAfter time.Duration
	// Status, if it is 401 or 403, replaces the Reason's status code, for
	// requirements of other kinds. Any other value is ignored.
	Status int
	// Code replaces the Reason's error code (RFC 6750 section 3.1) in the
	// challenge.
	Code string
	// Params are further attributes of the challenge, such as acr_values or
	// max_age. A value that cannot be written as a quoted-string is left out.
	Params map[string]string
	// Scheme is the authentication scheme whose challenge has the error, such
	// as "DPoP". Default: the one that the request used.
	Scheme string
	// Header are further fields of the answer, such as DPoP-Nonce. Those that a
	// rejection sets itself are ignored: WWW-Authenticate, Cache-Control,
	// Retry-After, Set-Cookie, those that begin with Content-, and those of the
	// connection. So are names that are no token (RFC 9110 section 5.6.2) and
	// values that are not visible ASCII.
	Header http.Header
	// Err is the underlying error, if there is one that is safe to show.
	Err error

	// For the log: the issuer of a dispatcher's member, the token's digest, and
	// the rest.
	issuer, token string
	facts         *failure.Facts
}

// A kind is what follows from a class of failure.
type kind struct {
	reason   Reason
	status   int
	sentinel error
	code     string // RFC 6750 section 3.1
	text     string // for clients: the body, and error_description of invalid_request
	level    slog.Level
}

// kinds is the one table that says what is answered and logged for each class.
var kinds = [...]kind{
	failure.NoCredentials: {
		reason:   ReasonNoCredentials,
		status:   http.StatusUnauthorized,
		sentinel: ErrNoToken,
		text:     "A bearer token is required.",
		level:    slog.LevelDebug,
	},
	failure.Malformed: {
		reason:   ReasonMalformedRequest,
		status:   http.StatusBadRequest,
		sentinel: ErrInvalidRequest,
		code:     "invalid_request",
		text:     "The bearer token is malformed or sent more than once.",
		level:    slog.LevelDebug,
	},
	failure.Inactive: {
		reason:   ReasonInactive,
		status:   http.StatusUnauthorized,
		sentinel: ErrInvalidToken,
		code:     "invalid_token",
		text:     "The token is expired, revoked or not valid here.",
		level:    slog.LevelDebug,
	},
	failure.Refused: {
		reason:   ReasonJWTRejected,
		status:   http.StatusUnauthorized,
		sentinel: ErrInvalidToken,
		code:     "invalid_token",
		text:     "The token is expired, revoked or not valid here.",
		level:    slog.LevelWarn,
	},
	failure.RefusedAnswer: {
		reason:   ReasonAnswerRejected,
		status:   http.StatusUnauthorized,
		sentinel: ErrInvalidToken,
		code:     "invalid_token",
		text:     "The token is expired, revoked or not valid here.",
		level:    slog.LevelWarn,
	},
	failure.RefusedToken: {
		reason:   ReasonTokenRejected,
		status:   http.StatusUnauthorized,
		sentinel: ErrInvalidToken,
		code:     "invalid_token",
		text:     "The token is expired, revoked or not valid here.",
		level:    slog.LevelDebug,
	},
	failure.Unproven: {
		reason:   ReasonBinding,
		status:   http.StatusUnauthorized,
		sentinel: ErrInvalidToken,
		code:     "invalid_token",
		text:     "The request does not prove that the token is its sender's.",
		level:    slog.LevelDebug,
	},
	failure.Insufficient: {
		reason:   ReasonScope,
		status:   http.StatusForbidden,
		sentinel: ErrInsufficientScope,
		code:     "insufficient_scope",
		text:     "The token does not permit this request.",
		level:    slog.LevelDebug,
	},
	failure.Protocol: {
		reason:   ReasonProtocol,
		status:   http.StatusBadGateway,
		sentinel: ErrUpstream,
		text:     "The token could not be checked.",
		level:    slog.LevelError,
	},
	failure.Unavailable: {
		reason:   ReasonUnavailable,
		status:   http.StatusServiceUnavailable,
		sentinel: ErrUnavailable,
		text:     "The token cannot be checked right now.",
		level:    slog.LevelError,
	},
	failure.NoKeys: {
		reason:   ReasonKeysUnavailable,
		status:   http.StatusServiceUnavailable,
		sentinel: ErrUnavailable,
		text:     "The token cannot be checked right now.",
		level:    slog.LevelError,
	},
	failure.Internal: {
		reason: ReasonInternal,
		status: http.StatusInternalServerError,
		text:   "The token could not be checked.",
		level:  slog.LevelError,
	},
}

// classOf returns the class that has the reason.
func classOf(reason Reason) (failure.Class, bool) {
	for class := range kinds {
		if k := &kinds[class]; k.reason == reason && k.status != 0 {
			return failure.Class(class), true
		}
	}
	return failure.Insufficient, false
}

// class returns the class of e's Reason. One that is none of ours comes from a
// requirement, as a refusal like any other.
func (e *Error) class() failure.Class {
	class, _ := classOf(e.Reason)
	return class
}

// kind returns what follows from e's class, Status and Code. A token that is
// too long has a text of its own: it is no use to look for another mistake.
func (e *Error) kind() kind {
	k := kinds[e.class()]
	if e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden {
		k.status = e.Status
	}
	if e.Code != "" {
		k.code = e.Code
	}
	if e.isTooLong() {
		k.text = "The bearer token is too long."
	}
	return k
}

// isPlain reports whether e's class alone decides what the client is told,
// RetryAfter aside.
func (e *Error) isPlain() bool {
	return e.Status == 0 && e.Code == "" && len(e.Scopes) == 0 && len(e.Params) == 0 && !e.isTooLong()
}

func (e *Error) isTooLong() bool {
	return e.Reason == ReasonMalformedRequest && e.Detail == httpauth.TooLong
}

// Error describes the rejection. It is safe to log: it may name endpoints of
// the authorization server, and what differs from the configuration.
func (e *Error) Error() string {
	s := "phantom: " + string(e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.facts != nil {
		s += e.facts.String()
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the sentinel of e's kind and e.Err.
func (e *Error) Unwrap() []error {
	var errs []error
	if s := e.kind().sentinel; s != nil {
		errs = append(errs, s)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// StatusCode returns the HTTP status code of the rejection: 400, 401, 403,
// 500, 502 or 503.
func (e *Error) StatusCode() int { return e.kind().status }

// TokenDigest returns eight digits of the digest of the token that the error is
// about, the same as in phantom's own log, to follow a token through yours. The
// token cannot be found from them. They differ from process to process unless
// there is a [Store]. An [ErrorHandler] and Decided of a [Trace] get them; for
// other callers they may be missing. Without a token they are empty.
func (e *Error) TokenDigest() string { return e.token }

// defaultRetryAfter is the RetryAfter of a 503 when the authorization server
// did not ask for more.
const defaultRetryAfter = time.Second

// rejection makes a new Error from what stopped a request. Apart from
// insufficientScope, it is the only maker of Errors in this package.
func rejection(err error) *Error {
	f := failure.Of(err)
	if carried, ok := f.Carried.(*Error); ok { //nolint:errorlint // only translate sets it
		own := carried.clone()
		own.issuer, own.token = cmp.Or(f.Issuer, own.issuer), cmp.Or(f.Token, own.token)
		own.facts = cmp.Or(f.Facts, own.facts)
		return own
	}
	k := kinds[f.Class]
	e := &Error{Reason: k.reason, Detail: f.Detail, Err: f.Cause, issuer: f.Issuer, token: f.Token, facts: f.Facts}
	if k.status == http.StatusServiceUnavailable {
		e.RetryAfter = max(f.Wait, defaultRetryAfter)
	}
	return e
}

// clone returns a copy that shares nothing with e, so that one request's Error
// can be changed while others read theirs.
func (e *Error) clone() *Error {
	own := *e
	own.Scopes, own.Params, own.Header = slices.Clone(e.Scopes), maps.Clone(e.Params), e.Header.Clone()
	return &own
}

// insufficientScope is the rejection of a token that lacks scopes.
func insufficientScope(scopes []string) *Error {
	return &Error{Reason: ReasonScope, Scopes: scopes}
}

// A ConfigError is one mistake in the options given to [New]. New joins all of
// them with [errors.Join].
type ConfigError struct {
	Option string // the option's name, such as "WithIssuer"
	Reason string // what is wrong; quotes the offending value, never a secret
}

// Error describes the mistake.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("phantom: %s: %s", e.Option, e.Reason)
}
