package mint_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
)

// configErrors returns all mistakes in err.
func configErrors(err error) []*phantom.ConfigError {
	var all []*phantom.ConfigError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = append(all, configErrors(e)...)
		}
	}
	if e, ok := err.(*phantom.ConfigError); ok {
		all = append(all, e)
	}
	return all
}

// wantConfig wants one mistake in that option.
func wantConfig(t *testing.T, err error, option, reason string) {
	t.Helper()
	for _, e := range configErrors(err) {
		if e.Option == option && strings.Contains(e.Reason, reason) {
			return
		}
	}
	t.Errorf("got %v, want %s: %s", err, option, reason)
}

// Catalogue: A13.
func TestNewRefuses(t *testing.T) {
	aud := mint.WithAudience(audience)
	for _, tc := range []struct {
		name, issuer   string
		opts           []mint.Option
		option, reason string
	}{
		{"http issuer", "http://gateway.test", []mint.Option{aud}, "mint.New", `"http://gateway.test" is not https`},
		{"issuer with query", issuer + "?a=secret", []mint.Option{aud}, "mint.New", `"https://gateway.test" has a query`},
		{"issuer with empty query", issuer + "?", []mint.Option{aud}, "mint.New", "has a query"},
		{"issuer with fragment", issuer + "#a", []mint.Option{aud}, "mint.New", "has a fragment"},
		{"empty issuer", "", []mint.Option{aud}, "mint.New", "is not an absolute URL"},
		{"relative issuer", "/gateway", []mint.Option{aud}, "mint.New", "is not an absolute URL"},
		{"issuer without scheme", "gateway.test", []mint.Option{aud}, "mint.New", "is not an absolute URL"},
		{"issuer with credentials", "https://u:secret@gateway.test", []mint.Option{aud}, "mint.New", "has credentials"},
		{"issuer with control", "https://gateway.test\n", []mint.Option{aud}, "mint.New", "not a URL"},
		{"issuer of bytes", "https://gateway.test/\xff", []mint.Option{aud}, "mint.New", "is not UTF-8"},
		{"no audience", issuer, nil, "mint.WithAudience", "is required"},
		{"no audiences", issuer, []mint.Option{mint.WithAudience()}, "mint.WithAudience", "no values"},
		{"empty audience", issuer, []mint.Option{mint.WithAudience("a", "")}, "mint.WithAudience", "an empty value"},
		{"audience from a file", issuer, []mint.Option{mint.WithAudience("a\n")}, "mint.WithAudience", "control character"},
		{"audience of bytes", issuer, []mint.Option{mint.WithAudience("\xff")}, "mint.WithAudience", "not UTF-8"},
		{"no unit", issuer, []mint.Option{aud, mint.WithLifetime(60)}, "mint.WithLifetime", "60 seconds are 60*time.Second"},
		{"lifetime too short", issuer, []mint.Option{aud, mint.WithLifetime(999 * time.Millisecond)}, "mint.WithLifetime", "999ms is not from 1s to 1h"},
		{"lifetime too long", issuer, []mint.Option{aud, mint.WithLifetime(time.Hour + 1)}, "mint.WithLifetime", "is not from 1s to 1h"},
		{"no lifetime", issuer, []mint.Option{aud, mint.WithLifetime(0)}, "mint.WithLifetime", "0s is not"},
		{"negative lifetime", issuer, []mint.Option{aud, mint.WithLifetime(-time.Minute)}, "mint.WithLifetime", "-1m0s is not"},
		{"no members", issuer, []mint.Option{aud, mint.WithMembers()}, "mint.WithMembers", "no names"},
		{"member without name", issuer, []mint.Option{aud, mint.WithMembers("ext", "")}, "mint.WithMembers", `"" is no name`},
		{"member with control", issuer, []mint.Option{aud, mint.WithMembers("a\n")}, "mint.WithMembers", "control character"},
		{"nil function", issuer, []mint.Option{aud, mint.WithClaims(nil)}, "mint.WithClaims", "nil"},
		{"nil option", issuer, []mint.Option{aud, nil}, "mint.Option", "argument 2 is nil"},
	} {
		m, err := mint.New(tc.issuer, []mint.Key{{Signer: p256()}}, tc.opts...)
		if m != nil || len(configErrors(err)) != 1 {
			t.Errorf("%s: %v", tc.name, err)
		}
		wantConfig(t, err, tc.option, tc.reason)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestNewRefusesMembersThatAreNotCopied(t *testing.T) {
	for reason, names := range map[string][]string{
		"is a claim that a Minter sets itself": {"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "Sub", "SCOPE"},
		"is never copied":                      {"cnf", "active", "token_type", "username", "nonce", "phantom_token", "jwt", "token_string", "CNF", "Token_Type"},
	} {
		for _, name := range names {
			_, err := mint.New(issuer, []mint.Key{{Signer: p256()}}, mint.WithAudience(audience), mint.WithMembers(name))
			wantConfig(t, err, "mint.WithMembers", reason)
		}
	}
	if got := names(minted(t, newMinter(t, nil, mint.WithMembers("groups", "groups")), answer(goodWith(`"groups":[]`)))); strings.Count(got, "groups") != 1 {
		t.Errorf("claims %s", got)
	}
}

func TestNewNamesAllMistakesAtOnce(t *testing.T) {
	_, err := mint.New("http://gateway.test", []mint.Key{{ID: "k"}, {ID: "j", Algorithm: "HS256", Public: p256().Public()}},
		mint.WithLifetime(0), mint.WithMembers("cnf", "sub"), nil)
	if all := configErrors(err); len(all) != 8 {
		t.Errorf("%d mistakes: %v", len(all), err)
	}
	for _, want := range [][2]string{
		{"mint.New", "is not https"}, {"mint.New", `key 1 (ID "k")`}, {"mint.New", `key 2 (ID "j")`}, {"mint.WithAudience", "is required"},
		{"mint.WithLifetime", "0s"}, {"mint.WithMembers", "cnf"}, {"mint.WithMembers", "sub"}, {"mint.Option", "argument 3"},
	} {
		wantConfig(t, err, want[0], want[1])
	}
	var one *phantom.ConfigError
	if !errors.As(err, &one) {
		t.Error("no *phantom.ConfigError")
	}
}

func TestLoopbackIssuerMayBeHTTP(t *testing.T) {
	for _, loopback := range []string{"http://127.0.0.1:8080", "http://localhost/a", "http://[::1]"} {
		if _, err := mint.New(loopback, []mint.Key{{Signer: p256()}}, mint.WithAudience(audience)); err != nil {
			t.Error(err)
		}
	}
}
