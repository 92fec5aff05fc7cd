package mint_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
)

type claimsFunc = func(context.Context, map[string]json.RawMessage) (map[string]any, error)

// adding returns a function that adds one claim.
func adding(name string, value any) claimsFunc {
	return func(context.Context, map[string]json.RawMessage) (map[string]any, error) {
		return map[string]any{name: value}, nil
	}
}

func TestWithClaimsAddsClaims(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "of the request")
	m := newMinter(t, nil, mint.WithClaims(func(ctx context.Context, answer map[string]json.RawMessage) (map[string]any, error) {
		answer["sub"][1] = 'X' // it is a copy
		return map[string]any{
			"tenant": answer["ext"], "n": json.Number("1152921504606846976"), "html": "<&>", "ctx": ctx.Value(key{}),
			"groups": []string{"from f"}, "roles": nil, "list": []string(nil),
		}, nil
	}))
	jwt, err := m.Mint(ctx, "", answer(goodWith(`"ext":{"t":[1152921504606846976]},"groups":["of the answer"],"roles":["r"]`)))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := m.VerifySignature(ctx, jwt)
	if err != nil {
		t.Fatal(err)
	}
	want := `"ctx":"of the request","groups":["from f"],"html":"<&>","n":1152921504606846976,"tenant":{"t":[1152921504606846976]}}`
	if !strings.HasSuffix(string(payload), want) || !strings.Contains(string(payload), `"sub":"alice"`) {
		t.Errorf("%s", payload)
	}
	if strings.Contains(string(payload), "roles") || strings.Contains(string(payload), "list") {
		t.Errorf("a nil stayed in: %s", payload)
	}
}

func TestWithClaimsMayNotSetWhatIsTheMinters(t *testing.T) {
	for _, name := range []string{
		"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "cnf", "Sub", "CLIENT_ID", "\u017fub",
	} {
		for _, value := range []any{"x", nil} {
			jwt, err := newMinter(t, nil, mint.WithClaims(adding(name, value))).Mint(t.Context(), "", answer(good))
			if jwt != "" {
				t.Errorf("%s: a JWT", name)
			}
			wantUpstream(t, err, "mint.WithClaims set a claim that is not its own")
		}
	}
}

func TestWithClaimsMakesStrictJSON(t *testing.T) {
	for _, tc := range []struct {
		name   string
		value  any
		detail string
	}{
		{"n", math.NaN(), "mint.WithClaims: no JSON"},
		{"f", func() {}, "mint.WithClaims: no JSON"},
		{"raw", json.RawMessage(`{`), "mint.WithClaims: no JSON"},
		{"raw", json.RawMessage(`{"a":1,"a":2}`), "minted claims: ambiguous name"},
		{"raw", json.RawMessage(`{"a":1,"A":2}`), "minted claims: ambiguous name"},
		{"Groups", []string{"admin"}, "minted claims: ambiguous name"},
		{"deep", json.RawMessage(strings.Repeat("[", 70) + strings.Repeat("]", 70)), "minted claims: ambiguous name"},
	} {
		m := newMinter(t, nil, mint.WithClaims(adding(tc.name, tc.value)))
		jwt, err := m.Mint(t.Context(), "", answer(goodWith(`"groups":["user"]`)))
		if jwt != "" {
			t.Errorf("%s: a JWT", tc.name)
		}
		wantUpstream(t, err, tc.detail)
	}
}

func TestErrorOfWithClaimsIsTheMinters(t *testing.T) {
	d := &device{Signer: p256()}
	for _, want := range []error{phantom.ErrUnavailable, phantom.ErrInvalidToken, errors.New("the directory is down")} {
		m := newMinter(t, []mint.Key{{Signer: d}}, mint.WithClaims(
			func(context.Context, map[string]json.RawMessage) (map[string]any, error) {
				return map[string]any{"a": 1}, want
			}))
		if jwt, err := m.Mint(t.Context(), "", answer(good)); !errors.Is(err, want) || jwt != "" {
			t.Errorf("%q, %v", jwt, err)
		}
	}
	if n := d.signatures.Load(); n != 0 {
		t.Errorf("%d signatures", n)
	}
}

// A panic reaches the Middleware, which knows it for one (500).
func TestPanicOfWithClaimsIsNotHidden(t *testing.T) {
	m := newMinter(t, nil, mint.WithClaims(func(context.Context, map[string]json.RawMessage) (map[string]any, error) { panic("f") }))
	defer func() {
		if recover() != "f" {
			t.Error("the panic is gone")
		}
	}()
	_, _ = m.Mint(t.Context(), "", answer(good))
}
