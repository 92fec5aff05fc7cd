package interop

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	fositestore "github.com/ory/fosite/storage"
	"golang.org/x/crypto/bcrypt"

	"github.com/phantom-token/phantom"
)

// newFosite is a server made of fosite, the library behind Ory Hydra, with the
// store that comes with it. Its tokens are got by the password grant, the only
// one that gives a user's tokens in one step.
func newFosite(t *testing.T, config *fosite.Config) *source {
	t.Helper()
	secret := func(text string) []byte {
		hash, err := bcrypt.GenerateFromPassword([]byte(text), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	store := fositestore.NewMemoryStore()
	store.Users["alice"] = fositestore.MemoryUserRelation{Username: "alice", Password: "password"}
	store.Clients["app"] = &fosite.DefaultClient{ID: "app", Secret: secret("app-secret"),
		GrantTypes: []string{"password", "refresh_token"}, Scopes: []string{"orders:read"}, Audience: []string{api}}
	store.Clients["gateway"] = &fosite.DefaultClient{ID: "gateway", Secret: secret("gateway-secret")}

	config.GlobalSecret = []byte(rand.Text() + rand.Text())
	config.AccessTokenLifespan = lifetime
	config.RefreshTokenScopes = []string{} // a refresh token with every grant
	provider := compose.Compose(config, store, &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(config)},
		compose.OAuth2ResourceOwnerPasswordCredentialsFactory, compose.OAuth2TokenIntrospectionFactory, compose.OAuth2TokenRevocationFactory)

	server := httptest.NewServer(fositeEndpoints(provider))
	t.Cleanup(server.Close)
	return &source{
		issuer: server.URL,
		options: []phantom.Option{
			phantom.WithIntrospectionEndpoint(server.URL + "/introspect"),
			phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "gateway-secret")),
		},
		wrong: phantom.ClientSecretBasic("gateway", "app-secret"),
		issue: func(t *testing.T) (access, refresh string) {
			answer := post(t, server.URL+"/token", "app", "app-secret", url.Values{
				"grant_type": {"password"}, "username": {"alice"}, "password": {"password"},
				"scope": {"orders:read"}, "audience": {api},
			})
			var tokens struct {
				Access  string `json:"access_token"`
				Refresh string `json:"refresh_token"`
			}
			if err := json.Unmarshal([]byte(answer), &tokens); err != nil || tokens.Access == "" || tokens.Refresh == "" {
				t.Fatalf("no tokens: %s, %v", answer, err)
			}
			return tokens.Access, tokens.Refresh
		},
		revoke: func(t *testing.T, token string) {
			post(t, server.URL+"/revoke", "app", "app-secret", url.Values{"token": {token}})
		},
		stop: server.Close,
	}
}

// fositeEndpoints are what fosite leaves to its host, as its examples have it.
func fositeEndpoints(provider fosite.OAuth2Provider) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		request, err := provider.NewAccessRequest(r.Context(), r, new(fosite.DefaultSession))
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		// The store makes a new subject at each login.
		request.GetSession().(*fosite.DefaultSession).Subject = request.GetRequestForm().Get("username")
		for _, scope := range request.GetRequestedScopes() {
			request.GrantScope(scope)
		}
		for _, audience := range request.GetRequestedAudience() {
			request.GrantAudience(audience)
		}
		response, err := provider.NewAccessResponse(r.Context(), request)
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		provider.WriteAccessResponse(r.Context(), w, request, response)
	})
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		response, err := provider.NewIntrospectionRequest(r.Context(), r, new(fosite.DefaultSession))
		if err != nil {
			provider.WriteIntrospectionError(r.Context(), w, err)
			return
		}
		provider.WriteIntrospectionResponse(r.Context(), w, response)
	})
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		provider.WriteRevocationResponse(r.Context(), w, provider.NewRevocationRequest(r.Context(), r))
	})
	return mux
}

// post sends a form with a client's secret and returns the body of a 200.
func post(t *testing.T, endpoint, client, secret string, form url.Values) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(client, secret)
	status, body := do(t, r)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", endpoint, status, body)
	}
	return body
}

// TestFosite needs DisableRefreshTokenValidation: see the next test.
func TestFosite(t *testing.T) {
	for name, m := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tell(t, newFosite(t, &fosite.Config{DisableRefreshTokenValidation: true}), m)
		})
	}
}

// fosite writes for a refresh token what it writes for an access token: no
// resource server can tell them apart. So the option of TestFosite is needed,
// or a host that writes token_use, as Hydra does.
func TestFositeAnswersForRefreshTokensToo(t *testing.T) {
	t.Parallel()
	s := newFosite(t, new(fosite.Config))
	access, refresh := s.issue(t)
	var answers [2]map[string]any
	for i, token := range []string{access, refresh} {
		body := post(t, s.issuer+"/introspect", "gateway", "gateway-secret", url.Values{"token": {token}, "token_type_hint": {"access_token"}})
		if err := json.Unmarshal([]byte(body), &answers[i]); err != nil {
			t.Fatal(err)
		}
		delete(answers[i], "iat")
		delete(answers[i], "exp")
	}
	if len(answers[0]) != len(answers[1]) || answers[1]["active"] != true || answers[1]["token_use"] != nil || answers[1]["token_type"] != nil {
		t.Errorf("fosite tells them apart now: %v, %v", answers[0], answers[1])
	}
}
