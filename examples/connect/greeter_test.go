package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

var forms = map[string]func(*phantom.Middleware, http.Handler) http.Handler{
	"handler": withHandler,
	"authn":   withAuthn,
}

var protocols = map[string][]connect.ClientOption{
	"connect":  nil,
	"grpc":     {connect.WithGRPC()},
	"grpc-web": {connect.WithGRPCWeb()},
}

type client = *connect.Client[wrapperspb.StringValue, wrapperspb.StringValue]

func callUnary(ctx context.Context, client client, authorization []string) ([]string, error) {
	req := connect.NewRequest(wrapperspb.String("hello"))
	req.Header()["Authorization"] = authorization
	answer, err := client.CallUnary(ctx, req)
	if err != nil {
		return nil, err
	}
	return []string{answer.Msg.GetValue()}, nil
}

func callStream(ctx context.Context, client client, authorization []string) ([]string, error) {
	req := connect.NewRequest(wrapperspb.String("hello"))
	req.Header()["Authorization"] = authorization
	stream, err := client.CallServerStream(ctx, req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	var answers []string
	for stream.Receive() {
		answers = append(answers, stream.Msg().GetValue())
	}
	return answers, stream.Err()
}

// serve serves on loopback until the test ends and returns a client that
// speaks HTTP/2.
func serve(t *testing.T, h http.Handler) (client *http.Client, url string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = newServer(h)
	srv.Start()
	t.Cleanup(srv.Close)
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: h2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, srv.URL
}

// Each rejection in each form, for each protocol, unary and as a stream. The
// codes are those that protect.go states.
//
// Catalogue: G5.
func TestCodes(t *testing.T) {
	for _, tc := range []struct {
		name          string
		authorization []string // nil: a good one
		requirement   phantom.Requirement
		fail          int // status of the authorization server
		handler       connect.Code
		authn         connect.Code
	}{
		{name: "good"},
		{name: "none", authorization: []string{}, handler: connect.CodeUnauthenticated, authn: connect.CodeUnauthenticated},
		{
			name: "inactive", authorization: []string{"Bearer revoked"},
			handler: connect.CodeUnauthenticated, authn: connect.CodeUnauthenticated,
		},
		{
			name: "twice", authorization: []string{"Bearer a", "Bearer a"},
			handler: connect.CodeInternal, authn: connect.CodeInvalidArgument,
		},
		{
			name: "scope", requirement: phantom.AllScopes("greet"),
			handler: connect.CodePermissionDenied, authn: connect.CodePermissionDenied,
		},
		{
			name: "panic", requirement: func(*phantom.Token) error { panic("") },
			handler: connect.CodeUnknown, authn: connect.CodeInternal,
		},
		{name: "down", fail: 503, handler: connect.CodeUnavailable, authn: connect.CodeUnavailable},
		{name: "refuses us", fail: 401, handler: connect.CodeUnavailable, authn: connect.CodeUnavailable},
	} {
		eachWay(t, tc.name, func(t *testing.T, form, protocol string, way way) {
			as := phantomtest.New()
			opts := as.Options()
			if tc.requirement != nil {
				opts = append(opts, phantom.WithRequirements(tc.requirement))
			}
			auth, err := phantom.New(opts...)
			if err != nil {
				t.Fatal(err)
			}
			as.Fail(max(tc.fail, http.StatusOK), min(tc.fail, 1))
			httpClient, url := serve(t, forms[form](auth, newGreeter()))
			client := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](
				httpClient, url+way.procedure, protocols[protocol]...)
			authorization := tc.authorization
			if authorization == nil {
				authorization = []string{"Bearer " + as.Issue(nil)}
			}

			answers, err := way.call(t.Context(), client, authorization)
			want := map[string]connect.Code{"handler": tc.handler, "authn": tc.authn}[form]
			switch {
			case want == 0:
				if err != nil || len(answers) != way.answers || answers[0] != "hello, alice" {
					t.Errorf("%q, %v", answers, err)
				}
			case connect.CodeOf(err) != want || len(answers) > 0:
				t.Errorf("%q, %v, want %v", answers, err, want)
			case strings.Contains(err.Error(), "phantom"):
				t.Errorf("%v, which is for operators", err)
			}
		})
	}
}

// A way is a kind of call. It says hello and returns the answers.
type way struct {
	procedure string
	call      func(ctx context.Context, client client, authorization []string) ([]string, error)
	answers   int
}

var ways = map[string]way{
	"unary":  {greetProcedure, callUnary, 1},
	"stream": {repeatProcedure, callStream, 3},
}

func eachWay(t *testing.T, name string, test func(t *testing.T, form, protocol string, way way)) {
	t.Helper()
	for form := range forms {
		for protocol := range protocols {
			for kind, way := range ways {
				t.Run(strings.Join([]string{name, form, protocol, kind}, "/"), func(t *testing.T) {
					test(t, form, protocol, way)
				})
			}
		}
	}
}

// What a service sees in each form, and what a client that reads HTTP gets.
func TestWhatEachFormGives(t *testing.T) {
	for _, tc := range []struct {
		form      string
		jwt       bool // in Authorization
		challenge string
	}{
		{"handler", true, `Bearer realm="api"`},
		{"authn", false, ""},
	} {
		as := phantomtest.New()
		auth, err := phantom.New(as.Options()...)
		if err != nil {
			t.Fatal(err)
		}
		token := "Bearer " + as.Issue(nil)
		h := forms[tc.form](auth, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			tok, ok := phantom.FromContext(r.Context())
			if !ok {
				t.Fatalf("%s: no token", tc.form)
			}
			want := []string{token}
			if tc.jwt {
				want = []string{"Bearer " + tok.JWT()}
			}
			if !slices.Equal(r.Header["Authorization"], want) {
				t.Errorf("%s: another Authorization", tc.form)
			}
		}))
		r := httptest.NewRequest(http.MethodPost, greetProcedure, strings.NewReader(`"hello"`))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := w.Header().Get("WWW-Authenticate"); w.Code != http.StatusUnauthorized || got != tc.challenge {
			t.Errorf("%s: %d, challenge %q", tc.form, w.Code, got)
		}
		r.Header.Set("Authorization", token)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}

// A service that is not behind the middleware answers no one.
func TestUnprotectedService(t *testing.T) {
	if _, err := greet(t.Context(), wrapperspb.String("hello")); connect.CodeOf(err) != connect.CodeInternal {
		t.Error(err)
	}
}
