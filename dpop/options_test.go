package dpop_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
)

// Catalogue: E8.
func TestAnOriginIsHTTPSAndNothingElse(t *testing.T) {
	for _, fit := range []string{
		"https://api.example.com", "https://api.example.com/", "https://api.example.com/v1", "HTTPS://api.example.com:8443/v1/",
		"https://[::1]:8443", "https://127.0.0.1",
	} {
		if _, err := dpop.New(fit); err != nil {
			t.Errorf("%s: %v", fit, err)
		}
	}
	for _, unfit := range []string{
		"", "/", "api.example.com", "//api.example.com", "http://api.example.com", "http://localhost", "https://", "https:///v1",
		"https://:443", "https://api.example.com?", "https://api.example.com/?q", "https://api.example.com#", "https://api.example.com/#f",
		"https://user@api.example.com", "https://user:secret@api.example.com", "ftp://api.example.com", "https://api example.com",
		"https://api.example.com\n", "https://api.example.com/%", "https://api.example.com:x", "https://api.example.com/é", "https:api.example.com",
	} {
		b, err := dpop.New(unfit)
		var e *phantom.ConfigError
		if !errors.As(err, &e) || e.Option != "dpop.New" || b.Check != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", unfit, err)
		}
	}
}

// configErrors are the mistakes that New found, by option.
func configErrors(t *testing.T, err error) (options []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var mistake *phantom.ConfigError
		if !errors.As(e, &mistake) || mistake.Reason == "" {
			t.Errorf("not a ConfigError: %v", e)
			continue
		}
		options = append(options, strings.TrimPrefix(mistake.Option, "dpop."))
	}
	return options
}

func TestNewReturnsEachMistake(t *testing.T) {
	target := func(*http.Request) (string, error) { return "", nil }
	for _, tc := range []struct {
		name   string
		origin string
		opts   []dpop.Option
		want   []string
	}{
		{"none", origin, nil, nil},
		{"all that fit", origin, []dpop.Option{
			dpop.WithTarget(target), dpop.WithAlgorithms("RS256"), dpop.WithMaxAge(time.Second), dpop.WithLeeway(0), dpop.WithCapacity(4),
		}, nil},
		{"a target needs no origin", "", []dpop.Option{dpop.WithTarget(target)}, nil},
		{"a target saves no wrong one", "http://x", []dpop.Option{dpop.WithTarget(target)}, []string{"New"}},
		{"nil option", origin, []dpop.Option{nil}, []string{"Option"}},
		{"nil target", origin, []dpop.Option{dpop.WithTarget(nil)}, []string{"WithTarget"}},
		{"no algorithms", origin, []dpop.Option{dpop.WithAlgorithms()}, []string{"WithAlgorithms"}},
		{"unknown algorithms", origin, []dpop.Option{dpop.WithAlgorithms("none", "HS256", "es256", "")}, slices.Repeat([]string{"WithAlgorithms"}, 4)},
		{"no age", origin, []dpop.Option{dpop.WithMaxAge(0)}, []string{"WithMaxAge"}},
		{"age without a unit", origin, []dpop.Option{dpop.WithMaxAge(60)}, []string{"WithMaxAge"}},
		{"too old", origin, []dpop.Option{dpop.WithMaxAge(10*time.Minute + 1)}, []string{"WithMaxAge"}},
		{"negative leeway", origin, []dpop.Option{dpop.WithLeeway(-time.Second)}, []string{"WithLeeway"}},
		{"leeway without a unit", origin, []dpop.Option{dpop.WithLeeway(10)}, []string{"WithLeeway"}},
		{"too much leeway", origin, []dpop.Option{dpop.WithLeeway(5*time.Minute + 1)}, []string{"WithLeeway"}},
		{"no secrets", origin, []dpop.Option{dpop.WithNonce()}, []string{"WithNonce"}},
		{"short secrets", origin, []dpop.Option{dpop.WithNonce(nil, secret('a')[1:], secret('a'))}, []string{"WithNonce", "WithNonce"}},
		{"nonce and age", origin, []dpop.Option{dpop.WithNonce(secret('a')), dpop.WithMaxAge(time.Minute)}, []string{"WithNonce"}},
		{"nil store", origin, []dpop.Option{dpop.WithReplayStore(nil)}, []string{"WithReplayStore"}},
		{"nil in a store", origin, []dpop.Option{dpop.WithReplayStore((*recorder)(nil))}, []string{"WithReplayStore"}},
		{"store and capacity", origin, []dpop.Option{dpop.WithReplayStore(&recorder{}), dpop.WithCapacity(10)}, []string{"WithReplayStore"}},
		{"capacity", origin, []dpop.Option{dpop.WithCapacity(3)}, []string{"WithCapacity"}},
		{"the last one counts", origin, []dpop.Option{dpop.WithCapacity(3), dpop.WithCapacity(4)}, nil},
		{"all at once", "", []dpop.Option{dpop.WithMaxAge(0), dpop.WithNonce(), nil}, []string{"Option", "New", "WithMaxAge", "WithNonce", "WithNonce"}},
	} {
		_, err := dpop.New(tc.origin, tc.opts...)
		got := configErrors(t, err)
		slices.Sort(got)
		slices.Sort(tc.want)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v (%v)", tc.name, got, tc.want, err)
		}
	}
}

func TestNoMistakeQuotesASecret(t *testing.T) {
	_, err := dpop.New(origin, dpop.WithNonce([]byte("short-secret")))
	if err == nil || strings.Contains(err.Error(), "short") {
		t.Error(err)
	}
}
