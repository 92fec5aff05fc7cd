package phantomtest

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// The grants of the token endpoint.
const (
	grantClientCredentials = "client_credentials"
	grantTokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// What a token is, in the words of RFC 8693 section 3.
const (
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
)

// A tokenResponse is RFC 6749 section 5.1 and, with an IssuedTokenType, RFC
// 8693 section 2.2.1.
type tokenResponse struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int    `json:"expires_in"`
	Scope           string `json:"scope,omitempty"`
}

func (s *AuthorizationServer) token(w http.ResponseWriter, r *http.Request) {
	grantType := r.PostFormValue("grant_type")
	if grantType == grantTokenExchange {
		s.mu.Lock()
		s.exchanges++
		s.mu.Unlock()
	}
	client, ok := s.authenticate(w, r)
	if !ok {
		return
	}
	switch grantType {
	case grantClientCredentials:
		s.clientCredentials(w, client, r.PostFormValue("scope"))
	case grantTokenExchange:
		s.exchange(w, client, r.PostForm)
	default:
		writeError(w, http.StatusBadRequest, "unsupported_grant_type")
	}
}

// clientCredentials is RFC 6749 section 4.4.
func (s *AuthorizationServer) clientCredentials(w http.ResponseWriter, client, scope string) {
	if scope == "" {
		scope = defaultScope
	}
	writeJSON(w, http.StatusOK, tokenResponse{
		AccessToken: s.Issue(map[string]any{"sub": client, s.dialect.clientClaim: client, "scope": scope}),
		TokenType:   "Bearer",
		ExpiresIn:   int(lifetime / time.Second),
		Scope:       scope,
	})
}

// exchange is RFC 8693.
func (s *AuthorizationServer) exchange(w http.ResponseWriter, client string, form url.Values) {
	requested := form.Get("requested_token_type")
	if requested == "" {
		requested = typeAccessToken
	}
	g, active := s.lookup(form.Get("subject_token"))
	resources := given(form["resource"])
	switch {
	// Impersonation is all there is: with an actor it would be delegation.
	case repeats(form), form.Get("subject_token_type") != typeAccessToken, form.Get("actor_token") != "",
		requested != typeAccessToken && requested != typeJWT, !active, g.refresh:
		writeError(w, http.StatusBadRequest, "invalid_request")
		return
	case slices.ContainsFunc(resources, isNoResource):
		writeError(w, http.StatusBadRequest, "invalid_target")
		return
	}

	now := time.Now()
	expiry := now.Add(lifetime)
	if !g.expiry.IsZero() && g.expiry.Before(expiry) {
		expiry = g.expiry
	}
	claims := g.claims()
	for _, name := range []string{
		"azp", "client_id", // name the client of the subject token
		"token_type", "token_use", "token_usage", // speak of the subject token
		"cnf", // is about a key of a client that is not this one
	} {
		delete(claims, name)
	}
	claims["iss"] = s.issuer
	claims[s.dialect.clientClaim] = client
	claims["iat"] = now.Unix()
	claims["exp"] = expiry.Unix()
	claims["jti"] = rand.Text()
	switch audience := slices.Concat(given(form["audience"]), resources); len(audience) {
	case 0:
	case 1:
		claims["aud"] = audience[0]
	default:
		claims["aud"] = audience
	}
	scope := form.Get("scope")
	if scope != "" {
		claims["scope"] = scope
	}

	tokenType := "Bearer"
	if requested == typeJWT {
		tokenType = "N_A"
	}
	writeJSON(w, http.StatusOK, tokenResponse{
		AccessToken:     s.sign(s.dialect.typ, mustMarshal(claims)),
		IssuedTokenType: requested,
		TokenType:       tokenType,
		ExpiresIn:       int(expiry.Sub(now) / time.Second),
		Scope:           scope,
	})
}

// repeats reports whether a form has a parameter twice that may be there once
// (RFC 6749 section 3.2, RFC 8693 section 2.1).
func repeats(form url.Values) bool {
	for name, values := range form {
		if name != "audience" && name != "resource" && len(values) > 1 {
			return true
		}
	}
	return false
}

// given returns the values that are not empty. An empty one counts as not given
// (RFC 6749 section 3.2).
func given(values []string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
}

// isNoResource reports whether the value is something else than an absolute URI
// without a fragment (RFC 8693 section 2.1).
func isNoResource(value string) bool {
	u, err := url.Parse(value)
	return err != nil || !u.IsAbs() || u.Fragment != ""
}
