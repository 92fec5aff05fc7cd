package phantom

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// The kinds of failure, to be matched with [errors.Is]. Each is either a
// verdict on the request (the first four) or the absence of one (the last
// two): a request is never let through and never blamed for an outage.
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
	// ErrUpstream reports an answer of the authorization server that cannot be
	// used, its refusal of the introspection client's own credentials
	// included. Status 502.
	ErrUpstream = errors.New("phantom: unusable answer of the authorization server")
	// ErrUnavailable reports that no answer, or no key to judge it with, was
	// to be had in time. Status 503.
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
	ReasonScope            Reason = "scope"             // a requirement is not met: 403, ErrInsufficientScope
	ReasonProtocol         Reason = "as_protocol"       // unusable answer: 502, ErrUpstream
	ReasonUnavailable      Reason = "as_unavailable"    // no answer: 503, ErrUnavailable
	ReasonKeysUnavailable  Reason = "keys_unavailable"  // no keys to judge with: 503, ErrUnavailable
	ReasonInternal         Reason = "internal"          // a hook or this package panicked: 500
)

// An Error is the rejection of one request. Get at it with [errors.As]; match
// its kind with [errors.Is] and the Err variables, which an Error wraps.
//
// A [Requirement] may return an Error of its own to choose the answer: with
// Status, Code and Params it brings the challenge along that its kind of
// failure needs, such as RFC 9470's step-up.
//
// No field ever holds a token, a JWT, a key, a secret or anything that the
// authorization server wrote.
type Error struct {
	// Reason says what happened and decides the status code.
	Reason Reason
	// Detail names the rule or check that failed, such as "aud" or
	// "signature". It is for operators: it is logged, never sent.
	Detail string
	// Scopes are the scope tokens that the request needs and its token lacks.
	// They become the challenge's scope attribute.
	Scopes []string
	// RetryAfter is when to come again, for a 503. It is sent in whole seconds
	// from 1 to 30.
	RetryAfter time.Duration
	// Status replaces the Reason's status code when it is 401 or 403, for
	// requirements of other kinds. Any other value is ignored.
	Status int
	// Code replaces the Reason's error code (RFC 6750 section 3.1) in the
	// challenge.
	Code string
	// Params are further attributes of the challenge, such as acr_values or
	// max_age. A value that cannot be written as a quoted-string is left out.
	Params map[string]string
	// Err is the underlying error, if there is one that is safe to show.
	Err error
}

// kind is what follows from a Reason.
type kind struct {
	status   int
	sentinel error
	code     string // RFC 6750 section 3.1
	text     string // for clients, in the body and as error_description
	level    slog.Level
}

var kinds = map[Reason]kind{
	ReasonNoCredentials:    {http.StatusUnauthorized, ErrNoToken, "", "A bearer token is required.", slog.LevelDebug},
	ReasonMalformedRequest: {http.StatusBadRequest, ErrInvalidRequest, "invalid_request", "The bearer token is malformed or sent more than once.", slog.LevelInfo},
	ReasonInactive:         {http.StatusUnauthorized, ErrInvalidToken, "invalid_token", "The token is expired, revoked or not valid here.", slog.LevelInfo},
	ReasonJWTRejected:      {http.StatusUnauthorized, ErrInvalidToken, "invalid_token", "The token is expired, revoked or not valid here.", slog.LevelError},
	ReasonScope:            {http.StatusForbidden, ErrInsufficientScope, "insufficient_scope", "The token does not permit this request.", slog.LevelInfo},
	ReasonProtocol:         {http.StatusBadGateway, ErrUpstream, "", "The token could not be checked.", slog.LevelError},
	ReasonUnavailable:      {http.StatusServiceUnavailable, ErrUnavailable, "", "The token cannot be checked right now.", slog.LevelError},
	ReasonKeysUnavailable:  {http.StatusServiceUnavailable, ErrUnavailable, "", "The token cannot be checked right now.", slog.LevelError},
	ReasonInternal:         {http.StatusInternalServerError, nil, "", "The token could not be checked.", slog.LevelError},
}

// kind returns what follows from e's Reason; an unknown one that comes from a
// requirement is a refusal like any other.
func (e *Error) kind() kind {
	k, ok := kinds[e.Reason]
	if !ok {
		k = kinds[ReasonScope]
	}
	if e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden {
		k.status = e.Status
	}
	if e.Code != "" {
		k.code = e.Code
	}
	return k
}

// Error describes the rejection. It is safe to log.
func (e *Error) Error() string {
	s := "phantom: " + string(e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
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

// retryAfterDefault is what a 503 says when the authorization server did not
// say anything better.
const retryAfterDefault = time.Second

func rejection(reason Reason, detail string) *Error {
	e := &Error{Reason: reason, Detail: detail}
	if k := kinds[reason]; k.status == http.StatusServiceUnavailable {
		e.RetryAfter = retryAfterDefault
	}
	return e
}

func rejectionOf(reason Reason, detail string, cause error) *Error {
	e := rejection(reason, detail)
	e.Err = cause
	return e
}

// asError turns any error into an Error of the caller's own: one that wraps an
// Error or one of the sentinels keeps its kind, everything else is given the
// fallback. The text of a foreign error is dropped, because nobody can say
// what is in it.
func asError(err error, fallback Reason, detail string) *Error {
	var e *Error
	if errors.As(err, &e) && e != nil {
		own := *e
		return &own
	}
	for _, reason := range []Reason{
		ReasonNoCredentials, ReasonMalformedRequest, ReasonInactive,
		ReasonScope, ReasonProtocol, ReasonUnavailable,
	} {
		if errors.Is(err, kinds[reason].sentinel) {
			return rejection(reason, detail)
		}
	}
	return rejection(fallback, detail)
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
