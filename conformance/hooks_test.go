package conformance_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// waysToPanic are the ways to panic.
var waysToPanic = []struct {
	name string
	boom func()
}{
	{"a string", func() { panic("a secret value") }},
	{"an error", func() { panic(errors.New("a secret value")) }},
	{"ErrAbort", func() { panic(http.ErrAbortHandler) }},
	{"nil", func() { panic(nil) }},
	{"a runtime panic", func() { var v any = "a secret value"; _ = v.(int) }},
}

// A hookCase is an option with a function of the caller that runs while a
// request is judged.
type hookCase struct {
	name   string
	option phantom.Option
}

// hooksThat are the hooks, each of which does one thing.
func hooksThat(boom func()) []hookCase {
	transport := roundTripper(func(*http.Request) (*http.Response, error) { boom(); return nil, nil })
	verify := keySetHook(func(context.Context, string) ([]byte, error) { boom(); return nil, nil })
	credentials := phantom.BearerToken(func(context.Context) (string, error) { boom(); return "", nil })
	return []hookCase{
		{"requirement", phantom.WithRequirements(func(*phantom.Token) error { boom(); return nil })},
		{"extractor", phantom.WithTokenExtractor(func(*http.Request) (string, error) { boom(); return "", nil })},
		{"client", phantom.WithHTTPClient(&http.Client{Transport: transport})},
		{"key set", phantom.WithKeySet(verify)},
		{"client auth", phantom.WithClientAuth(credentials)},
	}
}

// A panic in any hook becomes a plain 500 and the next handler does not run.
// The log shows where it happened and never the value.
func TestHooksThatPanic(t *testing.T) {
	for _, tc := range waysToPanic {
		for _, hook := range hooksThat(tc.boom) {
			t.Run(hook.name+" with "+tc.name, func(t *testing.T) { hookThatPanics(t, hook) })
		}
	}
}

// hookThatPanics has requests and calls judged with such a hook.
func hookThatPanics(t *testing.T, hook hookCase) {
	as := newAS(t)
	as.secret("a secret value")
	opts := as.options(hook.option)
	if hook.name == "key set" {
		opts = slices.Delete(opts, 3, 4) // the URL of the key set
	}
	m := must(phantom.New(opts...))
	for _, mounting := range mountings(m) {
		next := &spy{}
		rec := serve(mounting.wrap(next), get("Bearer opaque-token"))
		delete(rec.Header(), "Vary")
		checkRejection(t, rec, code500I, false)
		if next.calls() != 0 {
			t.Errorf("%s: next ran", mounting.name)
		}
	}
	for _, call := range silentCalls(t.Context(), m, get("Bearer opaque-token"), "opaque-token") {
		if call.name == "Verify" && hook.name == "extractor" {
			continue // which is not asked
		}
		var e *phantom.Error
		_, err := call.do()
		if !errors.As(err, &e) || e.StatusCode() != 500 || e.Reason != phantom.ReasonInternal {
			t.Errorf("%s: %v", call.name, err)
		} else if as.leaks(err.Error()) != nil {
			t.Errorf("%s: the error shows the value: %v", call.name, err)
		}
	}
	log := as.logs.String()
	for _, part := range []string{"level=ERROR", "reason=internal", "hooks_test.go"} {
		if !strings.Contains(log, part) {
			t.Errorf("the log does not tell where it happened, %s: %s", part, log)
		}
	}
}

// An introspectFunc is an Introspector of one function.
type introspectFunc func(ctx context.Context, token string) (*phantom.Introspection, error)

func (f introspectFunc) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	return f(ctx, token)
}

// A keySetHook is a KeySet of one function.
type keySetHook func(context.Context, string) ([]byte, error)

func (f keySetHook) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return f(ctx, jwt)
}

// A requirement that ends its goroutine ends the request with it, unserved.
func TestRequirementThatExits(t *testing.T) {
	as := newAS(t)
	next := &spy{}
	h := as.middleware().Require(func(*phantom.Token) error { runtime.Goexit(); return nil })(next)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		serve(h, get("Bearer opaque-token"))
	}()
	<-ended
	if next.calls() != 0 {
		t.Error("next ran")
	}
}
