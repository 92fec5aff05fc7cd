package phantomgrpc

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/phantom-token/phantom"
)

// The messages for clients, which are those of the HTTP bodies.
const (
	textNoToken      = "A bearer token is required."
	textMalformed    = "The bearer token is malformed or sent more than once."
	textTooLong      = "The bearer token is too long."
	textInvalid      = "The token is expired, revoked or not valid here."
	textInsufficient = "The token does not permit this request."
	textUnavailable  = "The token cannot be checked right now."
	textUnchecked    = "The token could not be checked."
)

// Status returns the gRPC status error for an error of
// [phantom.Middleware.Authenticate] or [phantom.Middleware.Verify]. By the
// [phantom.Error]'s status code it is
//
//	400       InvalidArgument
//	401       Unauthenticated
//	403       PermissionDenied
//	500       Internal
//	502       Unavailable
//	503       Unavailable, with RetryInfo (from 1 to 30 s)
//
// A 503 because the caller's own context has ended is DeadlineExceeded or
// Canceled. Any other error is Internal. Status(nil) is nil.
//
// An Unavailable without RetryInfo means that an operator has to mend
// something. A retry policy must not hammer on it: retry with backoff, and at
// once only where RetryInfo says when.
//
// The message is a constant. Nothing of err's text is in it.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var e *phantom.Error
	if !errors.As(err, &e) || e == nil {
		return status.Error(codes.Internal, textUnchecked)
	}
	if e.Detail == "caller left" && e.Err != nil {
		return callerLeft(e.Err)
	}
	return rejection(e.StatusCode(), text(e), e.RetryAfter)
}

// text returns the message for clients.
func text(e *phantom.Error) string {
	kind := *e
	kind.Err = nil // what it wraps may be of another kind
	is := func(sentinel error) bool { return errors.Is(&kind, sentinel) }
	switch {
	case is(phantom.ErrNoToken):
		return textNoToken
	case is(phantom.ErrInvalidRequest) && e.Detail == "token too long":
		return textTooLong
	case is(phantom.ErrInvalidRequest):
		return textMalformed
	case is(phantom.ErrInvalidToken):
		return textInvalid
	case is(phantom.ErrInsufficientScope):
		return textInsufficient
	case is(phantom.ErrUnavailable):
		return textUnavailable
	}
	return textUnchecked
}

// callerLeft returns the status error for a context that has ended.
func callerLeft(err error) error { return status.FromContextError(err).Err() }

// rejection returns the status error for an HTTP status.
func rejection(code int, text string, retryAfter time.Duration) error {
	s := status.New(grpcCode(code), text)
	if code != http.StatusServiceUnavailable {
		return s.Err()
	}
	retryAfter = min(max(retryAfter, time.Second), 30*time.Second)
	// Whole seconds, as in Retry-After.
	retryAfter = (retryAfter + time.Second - 1).Truncate(time.Second)
	detailed, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	if err != nil {
		return s.Err() // cannot happen: a RetryInfo always encodes
	}
	return detailed.Err()
}

func grpcCode(code int) codes.Code {
	switch code {
	case http.StatusBadRequest:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return codes.Unavailable
	}
	return codes.Internal // 500, or an error handler's own idea
}

// maxProblem is how much of an answer's body is kept. Ours are shorter.
const maxProblem = 4 << 10

// An answer is what the Middleware makes of a call: the request that it hands
// on, or what it writes for a call that it refuses.
type answer struct {
	admitted *http.Request // nil: refused
	header   http.Header
	status   int
	body     []byte
}

func (a *answer) Header() http.Header { return a.header }

// WriteHeader ignores informational statuses and all but the first final one,
// as net/http does.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if len(a.body)+len(p) <= maxProblem {
		a.body = append(a.body, p...)
	}
	return len(p), nil
}

// rejection returns the status error for the answer.
func (a *answer) rejection() error {
	seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
	return rejection(a.status, a.detail(), time.Duration(seconds)*time.Second)
}

// detail returns the detail of the problem that the body is. The body of an
// error handler may be none.
func (a *answer) detail() string {
	var problem struct {
		Detail string `json:"detail"`
	}
	mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if mediaType == "application/problem+json" && json.Unmarshal(a.body, &problem) == nil && problem.Detail != "" {
		return problem.Detail
	}
	return http.StatusText(a.status)
}
