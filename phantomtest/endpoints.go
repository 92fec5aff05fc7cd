package phantomtest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// routes registers the endpoints below path, which has no slash at its end.
func (s *AuthorizationServer) routes(path string) {
	s.mux.HandleFunc("POST "+path+"/introspect", s.introspect)
	s.mux.HandleFunc("POST "+path+"/token", s.token)
	s.mux.HandleFunc("POST "+path+"/revoke", s.revoke)
	s.mux.HandleFunc("GET "+path+"/jwks", s.jwks)

	// RFC 8414 puts the well-known part between host and path. OpenID Connect
	// Discovery puts it behind the path.
	s.mux.HandleFunc("GET /.well-known/oauth-authorization-server"+path, s.metadata)
	s.mux.HandleFunc("GET /.well-known/openid-configuration"+path, s.metadata)
	if path != "" {
		s.mux.HandleFunc("GET "+path+"/.well-known/openid-configuration", s.metadata)
	}
}

// revoke is RFC 7009.
func (s *AuthorizationServer) revoke(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.authenticate(w, r); !ok {
		return
	}
	token := r.PostFormValue("token")
	if token == "" {
		writeError(w, http.StatusBadRequest, "invalid_request")
		return
	}
	// Success does not tell whether there was such a token.
	s.Revoke(token)
}

func (s *AuthorizationServer) jwks(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"keys": []any{key.jwk()}})
}

// metadata is RFC 8414.
func (s *AuthorizationServer) metadata(w http.ResponseWriter, _ *http.Request) {
	methods := []string{"client_secret_basic", "client_secret_post"}
	metadata := map[string]any{
		"issuer":                                s.issuer,
		"token_endpoint":                        s.base + "/token",
		"token_endpoint_auth_methods_supported": methods,
		"introspection_endpoint":                s.base + "/introspect",
		"introspection_endpoint_auth_methods_supported": methods,
		"revocation_endpoint":                           s.base + "/revoke",
		"revocation_endpoint_auth_methods_supported":    methods,
		"jwks_uri":                 s.base + "/jwks",
		"grant_types_supported":    []string{grantClientCredentials, grantTokenExchange},
		"response_types_supported": []string{},
	}
	if s.signed {
		metadata["introspection_signing_alg_values_supported"] = []string{algorithm} // RFC 9701 section 7
	}
	writeJSON(w, http.StatusOK, metadata)
}

// authenticate returns the identifier of the client that sends r, or answers
// 401.
func (s *AuthorizationServer) authenticate(w http.ResponseWriter, r *http.Request) (id string, ok bool) {
	c := client{id: r.PostFormValue("client_id"), secret: r.PostFormValue("client_secret")}
	encodedID, encodedSecret, basic := r.BasicAuth()
	if basic {
		// RFC 6749 section 2.3.1: both are form-encoded before they are joined.
		var idErr, secretErr error
		c.id, idErr = url.QueryUnescape(encodedID)
		c.secret, secretErr = url.QueryUnescape(encodedSecret)
		if idErr != nil || secretErr != nil {
			c = client{}
		}
	}
	if !s.knows(c) {
		w.Header().Set("WWW-Authenticate", "Basic realm="+quote(s.issuer))
		writeError(w, http.StatusUnauthorized, "invalid_client")
		return "", false
	}
	return c.id, true
}

// quote returns s as a quoted-string of HTTP.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func writeError(w http.ResponseWriter, status int, code string) {
	writeJSON(w, status, map[string]string{"error": code})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body := mustMarshal(v)
	w.Header().Set("Content-Type", mediaTypeJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// mustMarshal writes v as JSON. What cannot be written was given by the test:
// as a claim or by a function of WithAnswer.
func mustMarshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("phantomtest: " + err.Error())
	}
	return data
}
