package interop

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A dialect puts the JWT into the provider's answers as another server would.
// It knows of the token only what the provider said.
type dialect func(provider http.Handler, keys *storage) http.Handler

// plain is the provider as it is: it never answers with a JWT.
func plain(provider http.Handler, _ *storage) http.Handler { return provider }

// curity answers with the JWT as the body, and 204 for an inactive token.
func curity(provider http.Handler, keys *storage) http.Handler {
	return translated(provider, func(w http.ResponseWriter, r *http.Request, answer map[string]any) {
		switch {
		case r.Header.Get("Accept") != "application/jwt":
			writeJSON(w, answer)
		case answer["active"] != true:
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusNoContent)
		default:
			claims := claimsOf(answer)
			claims["purpose"] = kind(answer, "access_token", "refresh_token")
			delete(claims, "client_id")
			w.Header().Set("Content-Type", "application/jwt")
			w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", int(lifetime/time.Second)))
			fmt.Fprint(w, keys.sign("at+jwt", claims))
		}
	})
}

// tokenProcedure is Curity's other way: JSON with a member phantom_token.
func tokenProcedure(provider http.Handler, keys *storage) http.Handler {
	return translated(provider, func(w http.ResponseWriter, _ *http.Request, answer map[string]any) {
		if answer["active"] == true {
			answer["phantom_token"] = keys.sign("at+jwt", claimsOf(answer))
		}
		writeJSON(w, answer)
	})
}

// keycloak answers with a member jwt if it is asked for application/jwt and
// nothing else.
func keycloak(provider http.Handler, keys *storage) http.Handler {
	return translated(provider, func(w http.ResponseWriter, r *http.Request, answer map[string]any) {
		if answer["active"] == true && r.Header.Get("Accept") == "application/jwt" {
			claims := claimsOf(answer)
			claims["typ"] = kind(answer, "Bearer", "Refresh")
			claims["azp"] = claims["client_id"]
			delete(claims, "client_id")
			answer["jwt"] = keys.sign("JWT", claims)
		}
		writeJSON(w, answer)
	})
}

// kind tells a refresh token by what the provider leaves out of the answer.
func kind(answer map[string]any, access, refresh string) string {
	if answer["token_type"] == nil {
		return refresh
	}
	return access
}

func translated(provider http.Handler, speak func(http.ResponseWriter, *http.Request, map[string]any)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		provider.ServeHTTP(recorder, r)
		var answer map[string]any
		if recorder.Code == http.StatusOK && json.Unmarshal(recorder.Body.Bytes(), &answer) == nil {
			speak(w, r, answer)
			return
		}
		maps.Copy(w.Header(), recorder.Header())
		w.WriteHeader(recorder.Code)
		_, _ = recorder.Body.WriteTo(w)
	})
}

func claimsOf(answer map[string]any) map[string]any {
	claims := maps.Clone(answer)
	delete(claims, "active")
	delete(claims, "token_type")
	claims["jti"] = rand.Text()
	return claims
}

func writeJSON(w http.ResponseWriter, answer map[string]any) {
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *storage) sign(typ string, claims map[string]any) string {
	key := s.signingKey()
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: key.Algorithm(), Key: jose.JSONWebKey{KeyID: key.id, Key: key.key}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		panic(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		panic(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return compact
}
