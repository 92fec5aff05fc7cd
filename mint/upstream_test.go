package mint_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
)

// passOn is an Introspector that takes the token for the JWT, as an upstream
// does.
type passOn struct{}

func (passOn) Introspect(_ context.Context, jwt string) (*phantom.Introspection, error) {
	return &phantom.Introspection{Active: true, JWT: jwt}, nil
}

// An upstream that uses this library needs no more than the issuer and its
// own name. The JWT is of another replica than the key set.
//
// Catalogue: A17, A18.
func TestUpstreamVerifiesByTheServedDocuments(t *testing.T) {
	for _, path := range []string{"", "/", "/tenant/a"} {
		var replica http.Handler
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { replica.ServeHTTP(w, r) }))
		defer server.Close()
		keys := []mint.Key{{Signer: p256()}, {Signer: edKey()}}
		build := func() *mint.Minter {
			m, err := mint.New(server.URL+path, keys, mint.WithAudience(audience, "https://other.test"))
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		replica = build()
		jwt, err := build().Mint(t.Context(), "", answer(goodWith(`"scope":"read"`)))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]error{audience: nil, "https://third.test": phantom.ErrInvalidToken} {
			upstream, err := phantom.New(
				phantom.WithIssuer(server.URL+path), phantom.WithAudience(name), phantom.WithRFC9068(),
				phantom.WithIntrospector(passOn{}), phantom.WithHTTPClient(server.Client()))
			if err != nil {
				t.Fatal(err)
			}
			tok, err := upstream.Verify(t.Context(), jwt)
			if !errors.Is(err, want) {
				t.Errorf("%q, %s: %v", path, name, err)
			}
			if want == nil && (tok == nil || tok.Subject() != "alice" || tok.ClientID() != "app" || !tok.HasScope("read")) {
				t.Errorf("%q: %v", path, tok)
			}
		}
	}
}

// Within the process, the Minter itself is the key set.
func TestMinterIsAKeySet(t *testing.T) {
	m := newMinter(t, nil)
	name, keys := m.Issuer()
	auth, err := phantom.New(phantom.WithIssuer(name), phantom.WithAudience(audience),
		phantom.WithIntrospector(passOn{}), phantom.WithKeySet(keys))
	if err != nil {
		t.Fatal(err)
	}
	jwt := must(m.Mint(t.Context(), "", answer(good)))
	if _, err := auth.Verify(t.Context(), jwt); err != nil {
		t.Error(err)
	}
	if err := m.SetKeys(mint.Key{Signer: other()}); err != nil {
		t.Fatal(err)
	}
	auth.Purge()
	if _, err := auth.Verify(t.Context(), jwt); !errors.Is(err, phantom.ErrInvalidToken) {
		t.Errorf("the removed key still verifies: %v", err)
	}
}
