package phantomtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	mediaTypeJWT  = "application/jwt"
	mediaTypeJSON = "application/json"
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

// introspect is RFC 7662.
func (s *AuthorizationServer) introspect(w http.ResponseWriter, r *http.Request) {
	delay, status := s.arrive()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	if status != 0 {
		w.WriteHeader(status)
		return
	}
	if _, ok := s.authenticate(w, r); !ok {
		return
	}
	token := r.PostFormValue("token")
	if token == "" {
		writeError(w, http.StatusBadRequest, "invalid_request")
		return
	}

	g, active := s.lookup(token)
	// Keycloak and others compare the whole header with one media type.
	wantsJWT := slices.Equal(r.Header.Values("Accept"), []string{mediaTypeJWT})
	if s.dialect.member == "" && wantsJWT {
		s.answerJWT(w, g, active)
		return
	}
	s.answerJSON(w, g, active, wantsJWT)
}

// arrive counts an introspection. It returns how long the answer takes and, if
// it fails, with which status.
func (s *AuthorizationServer) arrive() (delay time.Duration, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.introspections++
	if s.failures > 0 {
		s.failures--
		status = s.failStatus
	}
	return s.delay, status
}

func (s *AuthorizationServer) answerJWT(w http.ResponseWriter, g grant, active bool) {
	if !active || g.refresh {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", mediaTypeJWT)
	if !g.expiry.IsZero() {
		w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", time.Until(g.expiry)/time.Second))
	}
	_, _ = io.WriteString(w, s.sign(g))
}

func (s *AuthorizationServer) answerJSON(w http.ResponseWriter, g grant, active, wantsJWT bool) {
	if !active {
		writeJSON(w, http.StatusOK, map[string]bool{"active": false})
		return
	}
	answer := make(map[string]any)
	var claims map[string]json.RawMessage // keeps numbers as they are
	if err := json.Unmarshal(g.payload, &claims); err != nil {
		panic(err) // it was made by json.Marshal
	}
	for name, value := range claims {
		answer[name] = value
	}
	answer["active"] = true
	answer["token_type"] = "Bearer"
	if client, ok := claims[s.dialect.clientClaim]; ok {
		answer["client_id"] = client
	}
	if s.dialect.member != "" && !g.refresh && (wantsJWT || !s.dialect.onRequest) {
		answer[s.dialect.member] = s.sign(g)
	}
	writeJSON(w, http.StatusOK, answer)
}

// token is RFC 6749 section 4.4.
func (s *AuthorizationServer) token(w http.ResponseWriter, r *http.Request) {
	id, ok := s.authenticate(w, r)
	if !ok {
		return
	}
	if r.PostFormValue("grant_type") != "client_credentials" {
		writeError(w, http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	scope := r.PostFormValue("scope")
	if scope == "" {
		scope = defaultScope
	}
	writeJSON(w, http.StatusOK, struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
		Scope       string `json:"scope"`
	}{
		AccessToken: s.Issue(map[string]any{"sub": id, s.dialect.clientClaim: id, "scope": scope}),
		TokenType:   "Bearer",
		ExpiresIn:   int(lifetime / time.Second),
		Scope:       scope,
	})
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
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                s.issuer,
		"token_endpoint":                        s.base + "/token",
		"token_endpoint_auth_methods_supported": methods,
		"introspection_endpoint":                s.base + "/introspect",
		"introspection_endpoint_auth_methods_supported": methods,
		"revocation_endpoint":                           s.base + "/revoke",
		"revocation_endpoint_auth_methods_supported":    methods,
		"jwks_uri":                 s.base + "/jwks",
		"grant_types_supported":    []string{"client_credentials"},
		"response_types_supported": []string{},
	})
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
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // everything here is strings, numbers and JSON
	}
	w.Header().Set("Content-Type", mediaTypeJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
