package mint_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/mint"
)

var _ phantom.Minter = (*mint.Minter)(nil)

// says is an Introspector that gives the same members for each token.
type says string

func (s says) Introspect(context.Context, string) (*phantom.Introspection, error) {
	return answer(string(s)), nil
}

// behind returns the Middleware of a server whose answer is that.
func behind(t *testing.T, members string, m *mint.Minter, opts ...phantom.Option) (*phantom.Middleware, error) {
	t.Helper()
	return phantom.New(append([]phantom.Option{
		phantom.WithIssuer("https://as.test"), phantom.WithAudience(audience), phantom.WithIntrospector(says(members)), phantom.WithMinter(m),
	}, opts...)...)
}

// through sends a request and returns the status, and the JWT that next got.
func through(auth *phantom.Middleware, token string) (status int, jwt string) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	auth.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		jwt = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	})).ServeHTTP(w, r)
	return w.Code, jwt
}

const goodAnswer = `{"active":true,"sub":"alice","client_id":"app","aud":"https://rs.test","token_type":"Bearer","scope":"read"}`

func TestMiddlewareHandsOnTheMintedJWT(t *testing.T) {
	d := &device{Signer: p256()}
	m := newMinter(t, []mint.Key{{ID: "older", Signer: d}})
	auth, err := behind(t, goodAnswer, m, phantom.WithRFC9068())
	if err != nil {
		t.Fatal(err)
	}
	status, first := through(auth, "opaque")
	if status != http.StatusOK {
		t.Fatal(status)
	}
	msg := must(jose.Parse(first))
	if msg.Type != "at+jwt" || text(msg, "iss") != issuer || text(msg, "sub") != "alice" || text(msg, "scope") != "read" {
		t.Errorf("%q %s", msg.Type, msg.Payload)
	}
	if _, again := through(auth, "opaque"); again != first || d.signatures.Load() != 1 {
		t.Errorf("%d signatures", d.signatures.Load())
	}

	// The key leaks. Without Purge the cache still has its JWT.
	if err := m.SetKeys(mint.Key{ID: "newer", Signer: other()}); err != nil {
		t.Fatal(err)
	}
	if _, cached := through(auth, "opaque"); cached != first {
		t.Error("the cached JWT is gone")
	}
	auth.Purge()
	if _, jwt := through(auth, "opaque"); must(jose.Parse(jwt)).KeyID != "newer" {
		t.Error("not of the new key")
	}
}

func TestMiddlewareAnswersForAMinter(t *testing.T) {
	for _, tc := range []struct {
		name, members string
		signer        error
		want          int
	}{
		{"no client_id", `{"sub":"alice","aud":"https://rs.test"}`, nil, http.StatusBadGateway},
		{"act", `{"sub":"alice","client_id":"app","aud":"https://rs.test","act":"x"}`, nil, http.StatusBadGateway},
		{"signer down", goodAnswer, errors.New("down"), http.StatusServiceUnavailable},
	} {
		auth, err := behind(t, tc.members, newMinter(t, []mint.Key{{Signer: &device{Signer: p256(), err: tc.signer}}}))
		if err != nil {
			t.Fatal(err)
		}
		if status, jwt := through(auth, "opaque"); status != tc.want || jwt != "" {
			t.Errorf("%s: %d, %q", tc.name, status, jwt)
		}
	}
}

// Catalogue: A13.
func TestMinterMayNotHaveTheServersName(t *testing.T) {
	if _, err := behind(t, goodAnswer, newMinter(t, nil), phantom.WithIssuer(issuer)); err == nil {
		t.Error("accepted")
	}
}
