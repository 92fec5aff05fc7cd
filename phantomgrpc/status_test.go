package phantomgrpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomgrpc"
	"github.com/phantom-token/phantom/phantomtest"
)

// retryDelay returns the delay of the RetryInfo, or 0 if there is none.
func retryDelay(t *testing.T, err error) time.Duration {
	t.Helper()
	s, ok := status.FromError(err)
	if !ok {
		t.Fatalf("no status: %v", err)
	}
	switch details := s.Details(); len(details) {
	case 0:
		return 0
	case 1:
		if info, ok := details[0].(*errdetails.RetryInfo); ok && info.GetRetryDelay().AsDuration() > 0 {
			return info.GetRetryDelay().AsDuration()
		}
	}
	t.Fatalf("details %v", s.Details())
	return 0
}

// A call is refused with the same words over HTTP, through an interceptor and
// through Status.
func TestOneMessageOnEachWay(t *testing.T) {
	refuseWith := func(e phantom.Error) phantom.Requirement {
		return func(*phantom.Token) error { return &e }
	}
	stepUp := phantom.Error{Status: 401, Code: "insufficient_user_authentication"}
	wraps := phantom.Error{Reason: phantom.ReasonScope, Err: phantom.ErrNoToken}
	down := phantom.Error{Reason: phantom.ReasonUnavailable, RetryAfter: 1500 * time.Millisecond}
	downForLong := phantom.Error{Reason: phantom.ReasonKeysUnavailable, RetryAfter: time.Hour}
	for _, tc := range []struct {
		name          string
		authorization []string
		requirement   phantom.Requirement
		fail          int // status of the authorization server
		want          codes.Code
	}{
		{name: "none", want: codes.Unauthenticated},
		{name: "malformed", authorization: []string{"Bearer a b"}, want: codes.InvalidArgument},
		{name: "twice", authorization: []string{"Bearer a", "Bearer a"}, want: codes.InvalidArgument},
		{name: "too long", authorization: []string{"Bearer " + strings.Repeat("a", 1<<15)}, want: codes.InvalidArgument},
		{name: "inactive", authorization: []string{"Bearer a"}, want: codes.Unauthenticated},
		{name: "scope", requirement: phantom.AllScopes("orders:read"), want: codes.PermissionDenied},
		{name: "foreign", requirement: func(*phantom.Token) error { return io.EOF }, want: codes.PermissionDenied},
		{name: "step-up", requirement: refuseWith(stepUp), want: codes.Unauthenticated},
		{name: "own reason", requirement: refuseWith(phantom.Error{Reason: "tenant"}), want: codes.PermissionDenied},
		{name: "wraps another", requirement: refuseWith(wraps), want: codes.PermissionDenied},
		{name: "down for a while", requirement: refuseWith(down), want: codes.Unavailable},
		{name: "down for long", requirement: refuseWith(downForLong), want: codes.Unavailable},
		{name: "down", fail: 500, want: codes.Unavailable},
		{name: "refuses us", fail: 401, want: codes.Unavailable},
		{name: "panic", requirement: func(*phantom.Token) error { panic("") }, want: codes.Internal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := phantomtest.New()
			var opts []phantom.Option
			if tc.requirement != nil {
				opts = append(opts, phantom.WithRequirements(tc.requirement))
			}
			if tc.authorization == nil && tc.name != "none" {
				tc.authorization = []string{"Bearer " + as.Issue(nil)}
			}
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			if tc.authorization != nil {
				r.Header["Authorization"] = tc.authorization
			}
			// Each way has a Middleware of its own: an outage is remembered.
			fresh := func() *phantom.Middleware {
				as.Fail(max(tc.fail, http.StatusOK), min(tc.fail, 1))
				return newMiddleware(t, as, opts...)
			}

			_, authErr := fresh().Authenticate(r)
			byStatus := phantomgrpc.Status(fmt.Errorf("wrapped: %w", authErr))
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": tc.authorization})
			_, byCall := phantomgrpc.Unary(fresh())(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, nil)
			w := httptest.NewRecorder()
			fresh().Handler(http.NotFoundHandler()).ServeHTTP(w, r)
			var problem struct{ Detail string }
			if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || problem.Detail == "" {
				t.Fatalf("body %s: %v", w.Body, err)
			}

			for way, err := range map[string]error{"Status": byStatus, "call": byCall} {
				s, _ := status.FromError(err)
				if s.Code() != tc.want || s.Message() != problem.Detail {
					t.Errorf("%s: %v, want %v, %q", way, err, tc.want, problem.Detail)
				}
				seconds := ""
				if d := retryDelay(t, err); d > 0 {
					seconds = fmt.Sprint(d.Seconds())
				}
				if want := w.Header().Get("Retry-After"); seconds != want {
					t.Errorf("%s: retry after %q, want %q", way, seconds, want)
				}
			}
		})
	}
}

func TestStatusOfOtherErrors(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancelLate()
	m := newMiddleware(t, phantomtest.New())
	verify := func(ctx context.Context) error {
		_, err := m.Verify(ctx, "some-token")
		return err
	}
	var none *phantom.Error
	tooLong := &phantom.Error{Reason: phantom.ReasonUnavailable, Detail: "timeout", Err: context.DeadlineExceeded}
	for _, tc := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"nil", nil, codes.OK},
		{"foreign", errors.New("secret"), codes.Internal},
		{"nil Error", none, codes.Internal},
		{"foreign deadline", context.DeadlineExceeded, codes.Internal},
		{"status", status.Error(codes.NotFound, "secret"), codes.Internal},
		{"canceled", verify(ended), codes.Canceled},
		{"late", verify(late), codes.DeadlineExceeded},
		{"lookup took too long", tooLong, codes.Unavailable},
	} {
		got := phantomgrpc.Status(tc.err)
		if status.Code(got) != tc.want || strings.Contains(fmt.Sprint(got), "secret") {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// An error handler writes for HTTP. What it says as a problem reaches the
// client of a call too; a page does not.
func TestErrorHandlers(t *testing.T) {
	write := func(contentType, body string) phantom.ErrorHandler {
		return func(w http.ResponseWriter, r *http.Request, err *phantom.Error) {
			if r.Method != http.MethodPost || r.URL.Path != "/a.B/C" {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(err.StatusCode())
			_, _ = io.WriteString(w, body)
		}
	}
	statuses := func(codes ...int) phantom.ErrorHandler {
		return func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			for _, code := range codes {
				w.WriteHeader(code)
			}
		}
	}
	const problem = "application/problem+json"
	long := `{"detail": "` + strings.Repeat("a", 1<<16) + `"}`
	for _, tc := range []struct {
		name    string
		handler phantom.ErrorHandler
		code    codes.Code
		message string
	}{
		{"problem", write(problem+"; charset=utf-8", `{"detail": "Log in."}`), codes.Unauthenticated, "Log in."},
		{"page", write("text/html", "<h1>Log in.</h1>"), codes.Unauthenticated, "Unauthorized"},
		{"broken problem", write(problem, `{"detail": 7}`), codes.Unauthenticated, "Unauthorized"},
		{"long problem", write(problem, long), codes.Unauthenticated, "Unauthorized"},
		{"other status", statuses(404), codes.Internal, "Not Found"},
		{"success", statuses(200), codes.Unauthenticated, "Unauthorized"},
		{"early hints", statuses(103, 401, 500), codes.Unauthenticated, "Unauthorized"},
		{"nothing", statuses(), codes.Unauthenticated, "A bearer token is required."},
	} {
		m := newMiddleware(t, phantomtest.New(), phantom.WithErrorHandler(tc.handler))
		_, err := phantomgrpc.Unary(m)(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, nil)
		if s, _ := status.FromError(err); s.Code() != tc.code || s.Message() != tc.message {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
