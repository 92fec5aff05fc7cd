package phantomgrpc_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomgrpc"
	"github.com/phantom-token/phantom/phantomtest"
)

// The service sees the JWT and the token, never the opaque one.
func TestServiceGetsTheJWT(t *testing.T) {
	as := phantomtest.New()
	token := as.Issue(map[string]any{"sub": "bob"})
	eachCall(t, newMiddleware(t, as), nil, func(t *testing.T, s *service, do func(...string) error) {
		if err := do("authorization", "Bearer "+token, "x-trace", "7"); err != nil {
			t.Fatal(err)
		}
		ctx := s.calls[0]
		tok, ok := phantom.FromContext(ctx)
		if !ok || tok.Subject() != "bob" {
			t.Fatalf("token %v", tok)
		}
		got := metadata.ValueFromIncomingContext(ctx, "authorization")
		if !slices.Equal(got, []string{"Bearer " + tok.JWT()}) {
			t.Errorf("authorization: %d values, not the JWT alone", len(got))
		}
		if got := metadata.ValueFromIncomingContext(ctx, "x-trace"); !slices.Equal(got, []string{"7"}) {
			t.Errorf("x-trace %q", got)
		}
	})
}

// Without a JWT there is no authorization for the service.
func TestServiceGetsNoTokenWithoutJWT(t *testing.T) {
	as := phantomtest.New()
	m, err := phantom.New(
		phantom.WithIssuer("https://as.test"),
		phantom.WithAudience("https://rs.test"),
		phantom.WithIntrospectionEndpoint("https://as.test/introspect"),
		phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "gateway-secret")),
		phantom.WithHTTPClient(&http.Client{Transport: inMemory{as}}),
		phantom.WithoutJWT(),
	)
	if err != nil {
		t.Fatal(err)
	}
	eachCall(t, m, nil, func(t *testing.T, s *service, do func(...string) error) {
		if err := do("authorization", "Bearer "+as.Issue(nil)); err != nil {
			t.Fatal(err)
		}
		if tok, ok := phantom.FromContext(s.calls[0]); !ok || tok.Subject() != "alice" {
			t.Errorf("token %v", tok)
		}
		md, _ := metadata.FromIncomingContext(s.calls[0])
		if _, ok := md["authorization"]; ok {
			t.Error("authorization is left in the metadata")
		}
	})
}

// An inMemory transport hands requests to a handler.
type inMemory struct{ http.Handler }

func (h inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

// Catalogue: G1, G4, G7.
func TestRefusals(t *testing.T) {
	as := phantomtest.New()
	good := "Bearer " + as.Issue(map[string]any{"scope": "orders:read"})
	key := map[string]any{"jkt": strings.Repeat("A", 43)}
	bound := as.Issue(map[string]any{"scope": "orders:read", "cnf": key})
	reqs := []phantom.Requirement{phantom.AllScopes("orders:read")}
	cases := []struct {
		name  string
		pairs []string
		want  codes.Code
	}{
		{"good", []string{"authorization", good}, codes.OK},
		{"key in capitals", []string{"Authorization", good}, codes.OK},
		{"no metadata", nil, codes.Unauthenticated},
		{"empty", []string{"authorization", ""}, codes.Unauthenticated},
		{"Basic", []string{"authorization", "Basic eDp5"}, codes.Unauthenticated},
		{"no token", []string{"authorization", "Bearer"}, codes.InvalidArgument},
		{"inactive", []string{"authorization", "Bearer revoked"}, codes.Unauthenticated},
		{"two values", []string{"authorization", good, "authorization", good}, codes.InvalidArgument},
		{"Basic and bearer", []string{"authorization", "Basic eDp5", "authorization", good}, codes.InvalidArgument},
		{"no scope", []string{"authorization", "Bearer " + as.Issue(nil)}, codes.PermissionDenied},
		{"of a gateway", []string{"grpcgateway-authorization", good}, codes.Unauthenticated},
		{"bad, of a gateway", []string{"authorization", good, "grpcgateway-authorization", "Bearer revoked"}, codes.OK},
		{"binary", []string{"authorization-bin", good}, codes.Unauthenticated},
		{"bound", []string{"authorization", "Bearer " + bound}, codes.Unauthenticated},
		{"bound, DPoP", []string{"authorization", "DPoP " + bound, "dpop", "proof"}, codes.Unauthenticated},
	}
	eachCall(t, newMiddleware(t, as), reqs, func(t *testing.T, s *service, do func(...string) error) {
		for _, tc := range cases {
			s.calls = nil
			err := do(tc.pairs...)
			if got := status.Code(err); got != tc.want || (len(s.calls) == 1) != (tc.want == codes.OK) {
				t.Errorf("%s: %v, want %v; the service was called %d times", tc.name, err, tc.want, len(s.calls))
			}
		}
	})
}

// The requirements of the Middleware count beside those of the interceptor.
func TestRequirementsOfTheMiddleware(t *testing.T) {
	as := phantomtest.New()
	m := newMiddleware(t, as, phantom.WithRequirements(phantom.AllScopes("tenant")))
	eachCall(t, m, nil, func(t *testing.T, s *service, do func(...string) error) {
		err := do("authorization", "Bearer "+as.Issue(nil))
		if status.Code(err) != codes.PermissionDenied || len(s.calls) > 0 {
			t.Errorf("%v, %d calls", err, len(s.calls))
		}
	})
}

// Catalogue: G2.
func TestOutages(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int // of the authorization server
		want   codes.Code
		delay  time.Duration // of RetryInfo; 0: there is none
	}{
		{"down", http.StatusServiceUnavailable, codes.Unavailable, time.Second},
		{"refuses us", http.StatusUnauthorized, codes.Unavailable, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := phantomtest.New()
			eachCall(t, newMiddleware(t, as), nil, func(t *testing.T, s *service, do func(...string) error) {
				as.Fail(tc.status, 1)
				err := do("authorization", "Bearer "+as.Issue(nil))
				delay := retryDelay(t, err)
				if status.Code(err) != tc.want || delay != tc.delay || len(s.calls) > 0 {
					t.Errorf("%v, retry after %v, %d calls", err, delay, len(s.calls))
				}
			})
		})
	}
}

// A hook that panics refuses the call and leaves the server alive. So does an
// error handler that aborts its answer, which net/http would have caught.
//
// Catalogue: G2.
func TestPanickingHooks(t *testing.T) {
	abort := func(http.ResponseWriter, *http.Request, *phantom.Error) { panic(http.ErrAbortHandler) }
	writeAndPanic := func(w http.ResponseWriter, _ *http.Request, err *phantom.Error) {
		w.WriteHeader(err.StatusCode())
		panic("secret")
	}
	for _, tc := range []struct {
		name string
		opt  phantom.Option
	}{
		{"requirement", phantom.WithRequirements(func(tok *phantom.Token) error {
			if tok.Subject() == "mallory" {
				panic("secret")
			}
			return nil
		})},
		{"error handler aborts", phantom.WithErrorHandler(abort)},
		{"error handler writes and panics", phantom.WithErrorHandler(writeAndPanic)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := phantomtest.New()
			reqs := []phantom.Requirement{phantom.AllScopes("read")}
			eachCall(t, newMiddleware(t, as, tc.opt), reqs, func(t *testing.T, s *service, do func(...string) error) {
				err := do("authorization", "Bearer "+as.Issue(map[string]any{"sub": "mallory", "scope": "none"}))
				if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") || len(s.calls) > 0 {
					t.Errorf("%v, %d calls", err, len(s.calls))
				}
				if err := do("authorization", "Bearer "+as.Issue(nil)); err != nil {
					t.Errorf("the next call: %v", err)
				}
			})
		})
	}
}

// A panic of the service is not ours to catch.
func TestPanicOfTheServicePasses(t *testing.T) {
	as := phantomtest.New()
	ctx := incoming(t.Context(), "Bearer "+as.Issue(nil))
	defer func() {
		if p := recover(); p != "service" {
			t.Errorf("recovered %v", p)
		}
	}()
	_, err := phantomgrpc.Unary(newMiddleware(t, as))(ctx, nil, &grpc.UnaryServerInfo{},
		func(context.Context, any) (any, error) { panic("service") })
	t.Error("no panic:", err)
}

// Catalogue: G4.
func TestMistakesPanicWhenMade(t *testing.T) {
	m := newMiddleware(t, phantomtest.New())
	for name, construct := range map[string]func(){
		"unary, nil":              func() { phantomgrpc.Unary(nil) },
		"unary, zero":             func() { phantomgrpc.Unary(&phantom.Middleware{}) },
		"unary, nil requirement":  func() { phantomgrpc.Unary(m, nil) },
		"stream, nil":             func() { phantomgrpc.Stream(nil) },
		"stream, zero":            func() { phantomgrpc.Stream(&phantom.Middleware{}) },
		"stream, nil requirement": func() { phantomgrpc.Stream(m, nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			construct()
		}()
	}
}

// A caller whose deadline ends during the lookup gets its own answer. The one
// lookup goes on for the other caller.
//
// Catalogue: G6.
func TestDeadlineDuringTheLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		as.Delay(time.Second)
		intercept := phantomgrpc.Unary(newMiddleware(t, as))
		call := func(ctx context.Context) error {
			_, err := intercept(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"},
				func(context.Context, any) (any, error) { return nil, nil })
			return err
		}
		ctx := incoming(t.Context(), "Bearer "+as.Issue(nil))
		other := make(chan error, 1)
		go func() { other <- call(ctx) }()

		hasty, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if err := call(hasty); status.Code(err) != codes.DeadlineExceeded || retryDelay(t, err) != 0 {
			t.Errorf("hasty: %v", err)
		}
		left, leave := context.WithCancel(ctx)
		time.AfterFunc(100*time.Millisecond, leave)
		if err := call(left); status.Code(err) != codes.Canceled {
			t.Errorf("left: %v", err)
		}
		if err := <-other; err != nil || as.Introspections() != 1 {
			t.Errorf("other: %v after %d lookups", err, as.Introspections())
		}
		// What is known needs no time. So it is over HTTP.
		if err := call(left); err != nil {
			t.Errorf("remembered: %v", err)
		}
	})
}

// The same through a server and a client.
//
// Catalogue: G6.
func TestDeadlineOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		as.Delay(time.Second)
		s := &service{}
		register := func(r *grpc.Server) { testpb.RegisterTestServiceServer(r, s) }
		conn := serve(t, register, protected(newMiddleware(t, as))...)
		client := testpb.NewTestServiceClient(conn)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+as.Issue(nil))
		hasty, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if err := calls["unary"](hasty, client); status.Code(err) != codes.DeadlineExceeded {
			t.Error(err)
		}
		if err := calls["unary"](ctx, client); err != nil || as.Introspections() != 1 || len(s.calls) != 1 {
			t.Errorf("%v after %d lookups, %d calls", err, as.Introspections(), len(s.calls))
		}
	})
}

// Two interceptors of one Middleware make one lookup. A chain may narrow what
// the outer one lets in.
func TestInterceptorsInARow(t *testing.T) {
	as := phantomtest.New()
	m := newMiddleware(t, as, phantom.WithCacheSize(0))
	s := &service{}
	conn := serve(t, func(r *grpc.Server) { testpb.RegisterTestServiceServer(r, s) },
		grpc.ChainUnaryInterceptor(phantomgrpc.Unary(m), phantomgrpc.Unary(m, phantom.AllScopes("orders:read"))))
	client := testpb.NewTestServiceClient(conn)
	for scope, want := range map[string]codes.Code{"orders:read": codes.OK, "profile": codes.PermissionDenied} {
		before := as.Introspections()
		token := as.Issue(map[string]any{"scope": scope})
		err := calls["unary"](metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token), client)
		if n := as.Introspections() - before; status.Code(err) != want || n != 1 {
			t.Errorf("%s: %v after %d lookups", scope, err, n)
		}
	}
}

// A client cannot get past the check with another spelling of the key, which
// only a caller in the process can send.
func TestSpellingsOfTheKey(t *testing.T) {
	as := phantomtest.New()
	good := "Bearer " + as.Issue(nil)
	for name, md := range map[string]metadata.MD{
		"good below": {"authorization": {"Bearer bad"}, "Authorization": {good}},
		"no values":  {"authorization": {}},
	} {
		_, err := phantomgrpc.Unary(newMiddleware(t, as))(metadata.NewIncomingContext(t.Context(), md), nil,
			&grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) {
				t.Error(name, "passed")
				return nil, nil
			})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Calls are logged as requests are. Neither the log nor the client sees a token.
func TestNoSecretLeaks(t *testing.T) {
	var log bytes.Buffer
	as := phantomtest.New()
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m := newMiddleware(t, as, phantom.WithLogger(logger))
	reqs := []phantom.Requirement{phantom.AllScopes("orders:read")}
	tokens := []string{as.Issue(nil), as.Issue(map[string]any{"scope": "orders:read"}), "sEcReT-inactive"}
	eachCall(t, m, reqs, func(t *testing.T, s *service, do func(...string) error) {
		var jwts, errs []string
		for _, token := range tokens {
			if err := do("authorization", "Bearer "+token); err != nil {
				errs = append(errs, err.Error())
			}
		}
		for _, ctx := range s.calls {
			tok, _ := phantom.FromContext(ctx)
			jwts = append(jwts, tok.JWT())
		}
		if len(errs) != 2 || len(jwts) != 1 {
			t.Fatalf("errors %q, %d calls", errs, len(jwts))
		}
		for _, secret := range append(jwts, tokens...) {
			if strings.Contains(log.String(), secret) || strings.Contains(strings.Join(errs, "\n"), secret) {
				t.Error("a token leaked")
			}
		}
	})
	if !strings.Contains(log.String(), "scope") {
		t.Errorf("log %s", &log)
	}
}

func incoming(ctx context.Context, authorization string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", authorization))
}

// With the selector, the health service is reachable and every other method is
// checked, streams and methods of no service included.
//
// Catalogue: G8.
func TestHealthLeftOut(t *testing.T) {
	m := newMiddleware(t, phantomtest.New())
	checked := selector.MatchFunc(func(_ context.Context, call interceptors.CallMeta) bool {
		return call.Service != healthpb.Health_ServiceDesc.ServiceName
	})
	conn := serve(t,
		func(r *grpc.Server) {
			testpb.RegisterTestServiceServer(r, &service{})
			healthpb.RegisterHealthServer(r, health.NewServer())
			reflection.Register(r)
		},
		grpc.ChainUnaryInterceptor(selector.UnaryServerInterceptor(phantomgrpc.Unary(m), checked)),
		grpc.ChainStreamInterceptor(selector.StreamServerInterceptor(phantomgrpc.Stream(m), checked)),
	)
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Error(err)
	}
	for name, call := range calls {
		if err := call(t.Context(), testpb.NewTestServiceClient(conn)); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	reflect, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err == nil {
		_, err = reflect.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("reflection: %v", err)
	}
}
