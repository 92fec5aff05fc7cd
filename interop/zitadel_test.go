package interop

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/phantom-token/phantom"
)

// source is the provider as it is, for a service that has a secret.
func (s *server) source() *source {
	return &source{
		issuer:  s.URL,
		options: []phantom.Option{phantom.WithClientAuth(basic("gateway"))},
		wrong:   phantom.ClientSecretBasic("gateway", secrets["app"]),
		issue:   func(t *testing.T) (access, refresh string) { return s.issue(t, "alice", "orders:read") },
		revoke:  s.revoke,
		stop:    s.Close,
	}
}

// issueJWT has the provider make an access token that is a JWT.
func (s *server) issueJWT(t *testing.T) string {
	t.Helper()
	access, _, _, err := op.CreateAccessToken(op.ContextWithIssuer(t.Context(), s.URL),
		&grant{subject: "alice", scopes: []string{"orders:read"}}, op.AccessTokenTypeJWT, s.provider, client{}, "")
	if err != nil {
		t.Fatal(err)
	}
	return access
}

// TestZitadel finds the introspection endpoint in the provider's metadata.
func TestZitadel(t *testing.T) {
	for name, m := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tell(t, newServer(t, plain).source(), m)
		})
	}
}

// TestTokenExchange has the provider exchange the token. The client of the
// second credentials gets opaque tokens from it.
//
// Catalogue: C3, C6, C11.
func TestTokenExchange(t *testing.T) {
	const opaqueClient = "gw:odd id+%/&=ü"
	requested := func(kind string) url.Values {
		return url.Values{"audience": {upstreamName}, "requested_token_type": {"urn:ietf:params:oauth:token-type:" + kind}}
	}
	for _, tc := range []struct {
		what   string
		auth   phantom.ClientAuth
		form   url.Values
		want   string
		issued int // tokens that the exchange made
	}{
		{"an access token, by default", basic("gateway"), url.Values{"audience": {upstreamName}}, "alice of app", 1},
		{"an access token", basic("gateway"), requested("access_token"), "alice of app", 1},
		{"a JWT", basic("gateway"), requested("jwt"), "502", 0},
		{"an ID token", basic("gateway"), requested("id_token"), "502", 0},
		{"a kind that the provider does not know", basic("gateway"), requested("saml2"), "502", 0},
		{"an access token, which is opaque", basic(opaqueClient), requested("access_token"), "502", 1},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			as := newServer(t, plain)
			s := as.source()
			access, refresh := s.issue(t)
			issued := as.store.exchanged.Load
			gw := front(t, s.middleware(t, phantom.WithTokenExchange("", tc.form), phantom.WithClientAuth(tc.auth)), exchangedFor(as))

			for _, bad := range []string{refresh, "unknown"} {
				if got := call(t, gw, "GET", bad); got != "401" {
					t.Errorf("a refresh or unknown token: %s, want 401", got)
				}
			}
			if n := issued(); n != 0 {
				t.Errorf("%d exchanges of tokens that are not good", n)
			}
			for range 2 {
				if got := call(t, gw, "GET", access); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
			}
			if n := issued(); int(n) != tc.issued {
				t.Errorf("%d exchanges, want %d", n, tc.issued)
			}

			if tc.want == "502" {
				return // which is remembered for longer than a verdict here
			}
			// The provider would exchange a revoked token: it does not look.
			s.revoke(t, access)
			time.Sleep(maxTTL)
			if got := call(t, gw, "GET", access); got != "401" {
				t.Errorf("a revoked token: %s, want 401", got)
			}
			s.stop()
			if got := call(t, gw, "GET", "another"); got != "503" {
				t.Errorf("the server is down: %s, want 503", got)
			}
		})
	}
}

// exchangedFor is a service that takes the provider's JWTs with this library,
// and no other tokens.
func exchangedFor(as *server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, err := phantom.New(phantom.WithIssuer(as.URL), phantom.WithAudience(upstreamName), phantom.WithoutIntrospection())
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		token, err := m.Authenticate(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		if token.ClientID() != "gateway" {
			http.Error(w, "the JWT is of the client "+token.ClientID(), http.StatusTeapot)
			return
		}
		_, _ = w.Write([]byte(token.Subject() + " of " + r.Header.Get("Client")))
	})
}

// exchangeClient is a client that may exchange tokens. What is not defined
// here, the grant does not ask.
type exchangeClient struct {
	op.Client
	id string
}

func (c exchangeClient) GetID() string { return c.id }
func (c exchangeClient) AccessTokenType() op.AccessTokenType {
	if c.id == "gateway" {
		return op.AccessTokenTypeJWT
	}
	return op.AccessTokenTypeBearer
}
func (exchangeClient) ClockSkew() time.Duration       { return 0 }
func (exchangeClient) IDTokenLifetime() time.Duration { return lifetime }
func (exchangeClient) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeTokenExchange}
}
func (exchangeClient) IDTokenUserinfoClaimsAssertion() bool { return false }
func (exchangeClient) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return slices.Clone[[]string]
}
func (exchangeClient) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return slices.Clone[[]string]
}

// What the exchange wants of the provider's host, and JWTs as access tokens.

func (*storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if _, ok := secrets[id]; !ok {
		return nil, errUnknown
	}
	return exchangeClient{id: id}, nil
}

func (*storage) ValidateTokenExchangeRequest(_ context.Context, r op.TokenExchangeRequest) error {
	if r.GetExchangeSubjectTokenType() != oidc.AccessTokenType {
		return oidc.ErrInvalidRequest()
	}
	return nil
}

func (*storage) CreateTokenExchangeRequest(context.Context, op.TokenExchangeRequest) error {
	return nil
}

func (*storage) GetPrivateClaimsFromTokenExchangeRequest(context.Context, op.TokenExchangeRequest) (map[string]any, error) {
	return nil, nil
}

func (*storage) SetUserinfoFromTokenExchangeRequest(context.Context, *oidc.UserInfo, op.TokenExchangeRequest) error {
	return nil
}

func (s *storage) CreateAccessToken(_ context.Context, r op.TokenRequest) (id string, expiry time.Time, err error) {
	if _, ok := r.(op.TokenExchangeRequest); ok {
		s.exchanged.Add(1)
	}
	expiry = time.Now().Add(lifetime)
	return s.remember(grant{subject: r.GetSubject(), scopes: r.GetScopes(), expiry: expiry}), expiry, nil
}

func (*storage) GetPrivateClaimsFromScopes(_ context.Context, _, _ string, scopes []string) (map[string]any, error) {
	return map[string]any{"scope": strings.Join(scopes, " ")}, nil
}
