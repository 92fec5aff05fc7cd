package interop

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"sync"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	fositestore "github.com/ory/fosite/storage"
	"golang.org/x/crypto/bcrypt"

	"github.com/phantom-token/phantom"
)

// newFosite is a server made of fosite, the library behind Ory Hydra, with the
// store that comes with it.
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
	store.Clients["app"] = &fosite.DefaultClient{
		ID: "app", Secret: secret("app-secret"), RedirectURIs: []string{"http://127.0.0.1/none"},
		GrantTypes: []string{"authorization_code", "refresh_token"}, ResponseTypes: []string{"code"},
		Scopes: []string{"orders:read"}, Audience: []string{api},
	}
	store.Clients["gateway"] = &fosite.DefaultClient{ID: "gateway", Secret: secret("gateway-secret")}

	config.GlobalSecret = []byte(rand.Text() + rand.Text())
	config.AccessTokenLifespan = lifetime
	config.RefreshTokenScopes = []string{} // a refresh token with every grant
	strategy := &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(config)}
	provider := compose.Compose(config, store, strategy, compose.OAuth2AuthorizeExplicitFactory,
		compose.OAuth2TokenIntrospectionFactory, compose.OAuth2TokenRevocationFactory)

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
			code := redirected(t, newBrowser(t), server.URL+"/authorize?"+url.Values{
				"client_id": {"app"}, "response_type": {"code"}, "redirect_uri": {"http://127.0.0.1/none"},
				"scope": {"orders:read"}, "audience": {api}, "state": {"not looked at"},
			}.Encode(), "code")
			return redeem(t, server.URL+"/token", code, "http://127.0.0.1/none")
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
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		request, err := provider.NewAuthorizeRequest(r.Context(), r)
		if err != nil {
			provider.WriteAuthorizeError(r.Context(), w, request, err)
			return
		}
		for _, scope := range request.GetRequestedScopes() {
			request.GrantScope(scope)
		}
		for _, audience := range request.GetRequestedAudience() {
			request.GrantAudience(audience)
		}
		response, err := provider.NewAuthorizeResponse(r.Context(), request, &fosite.DefaultSession{Subject: "alice"})
		if err != nil {
			provider.WriteAuthorizeError(r.Context(), w, request, err)
			return
		}
		provider.WriteAuthorizeResponse(r.Context(), w, request, response)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		request, err := provider.NewAccessRequest(r.Context(), r, new(fosite.DefaultSession))
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		response, err := provider.NewAccessResponse(r.Context(), request)
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		provider.WriteAccessResponse(r.Context(), w, request, response)
	})
	var one sync.Mutex // fosite writes to a session of its memory while it answers
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		one.Lock()
		defer one.Unlock()
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
		form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
		body := post(t, s.issuer+"/introspect", "gateway", "gateway-secret", form)
		if err := json.Unmarshal([]byte(body), &answers[i]); err != nil {
			t.Fatal(err)
		}
		delete(answers[i], "iat")
		delete(answers[i], "exp")
	}
	if answers[1]["active"] != true || !reflect.DeepEqual(answers[0], answers[1]) {
		t.Errorf("fosite tells them apart now: %v, %v", answers[0], answers[1])
	}
}
