package phantomtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

const (
	mediaTypeJWT    = "application/jwt"
	mediaTypeJSON   = "application/json"
	mediaTypeSigned = "application/" + typeSigned
)

// typeSigned is the type of a signed answer (RFC 9701 section 5).
const typeSigned = "token-introspection+jwt"

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
	client, ok := s.authenticate(w, r)
	if !ok {
		return
	}
	token := r.PostFormValue("token")
	if token == "" {
		writeError(w, http.StatusBadRequest, "invalid_request")
		return
	}

	g, active := s.lookup(token)
	// Keycloak and others compare the whole header with one media type.
	accepts := func(mediaType string) bool {
		return slices.Equal(r.Header.Values("Accept"), []string{mediaType})
	}
	switch wantsJWT := accepts(mediaTypeJWT); {
	case s.signed && accepts(mediaTypeSigned):
		s.answerSigned(w, client, s.members(g, active, false))
	case s.jwtFrom == fromAnswer && s.dialect.member == "" && wantsJWT:
		s.answerJWT(w, g, active)
	default:
		writeJSON(w, http.StatusOK, s.members(g, active, wantsJWT))
	}
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
	_, _ = io.WriteString(w, s.sign(s.dialect.typ, g.payload))
}

// answerSigned is RFC 9701 section 5. The audience is the client that asks.
func (s *AuthorizationServer) answerSigned(w http.ResponseWriter, client string, members map[string]any) {
	payload := mustMarshal(map[string]any{
		"iss":                 s.issuer,
		"aud":                 client,
		"iat":                 time.Now().Unix(),
		"token_introspection": members,
	})
	w.Header().Set("Content-Type", mediaTypeSigned)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, s.sign(typeSigned, payload))
}

// members returns the members of an answer, as the functions of WithAnswer
// leave them.
func (s *AuthorizationServer) members(g grant, active, wantsJWT bool) map[string]any {
	members := map[string]any{"active": false}
	if active {
		members = s.activeMembers(g, wantsJWT)
	}
	for _, edit := range s.edits {
		edit(members)
	}
	return members
}

func (s *AuthorizationServer) activeMembers(g grant, wantsJWT bool) map[string]any {
	members := g.claims()
	members["active"] = true
	if g.bearer {
		members["token_type"] = "Bearer"
	}
	if client, ok := members[s.dialect.clientClaim]; ok {
		members["client_id"] = client
	}
	if name := s.dialect.member; name != "" && s.jwtFrom == fromAnswer && !g.refresh &&
		(wantsJWT || !s.dialect.onRequest) {
		members[name] = s.sign(s.dialect.typ, g.payload)
	}
	return members
}

// claims returns the claims of a grant, with each number as it was given.
func (g grant) claims() map[string]any {
	claims := make(map[string]any)
	decoder := json.NewDecoder(bytes.NewReader(g.payload))
	decoder.UseNumber()
	if err := decoder.Decode(&claims); err != nil {
		panic(err) // it was made by json.Marshal
	}
	return claims
}
