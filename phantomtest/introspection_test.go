package phantomtest_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

const mediaTypeSigned = "application/token-introspection+jwt"

// without are the servers whose answers hold no JWT.
var without = map[string][]phantomtest.Option{
	"without JWT":           {phantomtest.WithoutJWT()},
	"exchange":              {phantomtest.WithTokenExchange(nil)},
	"Keycloak, without JWT": {phantomtest.WithKeycloak(), phantomtest.WithoutJWT()},
	"signed, without JWT":   {phantomtest.WithSignedResponse(), phantomtest.WithoutJWT()},
	"after another mode":    {phantomtest.WithTokenExchange(nil), phantomtest.WithoutJWT()},
}

// A server without JWTs gives none, whatever the request accepts.
func TestPlainAnswers(t *testing.T) {
	for name, opts := range without {
		for _, accept := range []string{"application/json", "application/jwt", "", "*/*", "application/jwt, " + mediaTypeSigned} {
			t.Run(name+" "+accept, func(t *testing.T) {
				as := phantomtest.New(opts...)
				token := as.Issue(nil)
				w := introspect(as, token, accept)
				if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
					t.Errorf("answer %d %v", w.Code, w.Header())
				}
				answer := object(t, w)
				members := slices.Sorted(maps.Keys(answer))
				members = slices.DeleteFunc(members, func(name string) bool { return name == "azp" })
				want := []string{"active", "aud", "client_id", "exp", "iat", "iss", "jti", "scope", "sub", "token_type"}
				if !slices.Equal(members, want) || answer["active"] != true || answer["client_id"] != "app" {
					t.Errorf("answer %v", answer)
				}
				if strings.Contains(w.Body.String(), token) {
					t.Error("the answer holds the token")
				}
				as.Revoke(token)
				if w := introspect(as, token, accept); w.Code != 200 || w.Body.String() != `{"active":false}` {
					t.Errorf("inactive: %d %q", w.Code, w.Body)
				}
			})
		}
	}
}

func TestSignedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New(phantomtest.WithoutJWT(), phantomtest.WithSignedResponse(), phantomtest.WithIssuer("https://as.test/one"))
		token := as.Issue(map[string]any{"uid": int64(9007199254740993)})
		ask := func(token string) map[string]any {
			w := request(as, "POST", "/one/introspect", map[string][]string{"token": {token}}, mediaTypeSigned)
			if w.Code != 200 || w.Header().Get("Content-Type") != mediaTypeSigned || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("answer %d %v", w.Code, w.Header())
			}
			header, signed := decode(t, below{as, "/one"}, w.Body.String())
			if header["typ"] != "token-introspection+jwt" {
				t.Errorf("typ %v", header["typ"])
			}
			if len(signed) != 4 || signed["iss"] != "https://as.test/one" || signed["aud"] != "gateway" ||
				signed["iat"] != float64(time.Now().Unix()) {
				t.Errorf("signed %v", signed)
			}
			return signed["token_introspection"].(map[string]any)
		}
		if inner := ask(token); inner["active"] != true || inner["sub"] != "alice" || inner["aud"] != "https://rs.test" || inner["token_type"] != "Bearer" {
			t.Errorf("active: %v", inner)
		}
		if inner := ask("unknown"); len(inner) != 1 || inner["active"] != false {
			t.Errorf("inactive: %v", inner)
		}
		time.Sleep(time.Hour) // of now, and by the key of now
		as.RotateKeys()
		ask(token)
	})
}

// A refusal is JSON, also where an answer would be signed.
func TestSignedRefusals(t *testing.T) {
	as := phantomtest.New(phantomtest.WithoutJWT(), phantomtest.WithSignedResponse())
	w := request(as, "POST", "/introspect", map[string][]string{}, mediaTypeSigned)
	if w.Code != 400 || object(t, w)["error"] != "invalid_request" {
		t.Errorf("no token: %d %q", w.Code, w.Body)
	}
	wrong := map[string][]string{"token": {"x"}, "client_id": {"gateway"}, "client_secret": {"wrong"}}
	if w := post(as, "/introspect", wrong, mediaTypeSigned); w.Code != 401 || object(t, w)["error"] != "invalid_client" {
		t.Errorf("wrong secret: %d %q", w.Code, w.Body)
	}
	as.Fail(500, 1)
	if w := introspect(as, "x", mediaTypeSigned); w.Code != 500 || w.Body.Len() > 0 {
		t.Errorf("failure: %d %q", w.Code, w.Body)
	}
}

// The aud of a signed answer is the client that asks, not the first one.
func TestSignedAnswerIsForTheClientThatAsks(t *testing.T) {
	as := phantomtest.New(phantomtest.WithoutJWT(), phantomtest.WithSignedResponse(),
		phantomtest.WithClient("one", "1"), phantomtest.WithClient("two", "2"))
	w := post(as, "/introspect", map[string][]string{"token": {as.Issue(nil)}, "client_id": {"two"}, "client_secret": {"2"}}, mediaTypeSigned)
	if _, signed := decode(t, as, w.Body.String()); signed["aud"] != "two" {
		t.Errorf("aud %v", signed["aud"])
	}
}

// Only a server that was told to signs its answers.
func TestUnsignedUnlessTold(t *testing.T) {
	for name, opts := range dialects {
		as := phantomtest.New(opts...)
		if got := introspect(as, as.Issue(nil), mediaTypeSigned).Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: Content-Type %q", name, got)
		}
	}
}

func TestIssueTokenType(t *testing.T) {
	for _, tc := range []struct {
		name   string
		claims map[string]any
		want   any // nil: no such member
	}{
		{"default", nil, "Bearer"},
		{"WSO2", map[string]any{"token_type": "JWT"}, "JWT"},
		{"Duende", map[string]any{"token_type": "access_token"}, "access_token"},
		{"bound", map[string]any{"token_type": "DPoP"}, "DPoP"},
		{"a number", map[string]any{"token_type": 1}, 1.0},
		{"absent", map[string]any{"token_type": nil}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := phantomtest.New(phantomtest.WithoutJWT())
			got, ok := object(t, introspect(as, as.Issue(tc.claims), ""))["token_type"]
			if got != tc.want || ok != (tc.want != nil) {
				t.Errorf("token_type %v, want %v", got, tc.want)
			}
		})
	}
}

func TestAnswerIsEdited(t *testing.T) {
	type members = map[string]any
	for _, tc := range []struct {
		name   string
		claims members
		edit   func(members)
		want   members // of the answer; nil: no such member
	}{
		{"member removed", nil, func(m members) { delete(m, "iss") }, members{"iss": nil, "sub": "alice"}},
		{"of clients alone", members{"sub": "app"}, func(m members) {
			if m["sub"] == m["client_id"] {
				delete(m, "sub")
			}
		}, members{"sub": nil, "client_id": "app"}},
		{"spelling variant", nil, func(m members) { m["Sub"] = "mallory" }, members{"Sub": "mallory", "sub": "alice"}},
		{"not a boolean", nil, func(m members) { m["active"] = "true" }, members{"active": "true"}},
		{"by a claim", members{"region": "eu"}, func(m members) { m["iss"] = "https://" + m["region"].(string) }, members{"iss": "https://eu"}},
		{"number", members{"uid": int64(9007199254740993)}, func(m members) {
			m["text"] = m["uid"].(json.Number).String()
		}, members{"text": "9007199254740993"}},
	} {
		for _, accept := range []string{"application/json", mediaTypeSigned} {
			t.Run(tc.name+" "+accept, func(t *testing.T) {
				as := phantomtest.New(phantomtest.WithoutJWT(), phantomtest.WithSignedResponse(), phantomtest.WithAnswer(tc.edit))
				token := as.Issue(tc.claims)
				for range 2 { // an edit does not reach the next answer
					answer := answered(t, as, token, accept)
					for name, want := range tc.want {
						if got, ok := answer[name]; got != want || ok != (want != nil) {
							t.Errorf("%s is %v, want %v", name, got, want)
						}
					}
				}
			})
		}
	}
}

// answered returns the members of an answer, signed or not.
func answered(t *testing.T, as *phantomtest.AuthorizationServer, token, accept string) map[string]any {
	t.Helper()
	w := introspect(as, token, accept)
	if accept != mediaTypeSigned {
		return object(t, w)
	}
	_, signed := decode(t, as, w.Body.String())
	return signed["token_introspection"].(map[string]any)
}

func TestEditsRunInOrder(t *testing.T) {
	add := func(s string) phantomtest.Option {
		return phantomtest.WithAnswer(func(m map[string]any) {
			before, _ := m["trail"].(string)
			m["trail"] = before + s
		})
	}
	as := phantomtest.New(phantomtest.WithoutJWT(), add("a"), add("b"))
	for _, token := range []string{as.Issue(nil), "unknown"} { // an inactive answer is edited too
		if got := object(t, introspect(as, token, ""))["trail"]; got != "ab" {
			t.Errorf("trail %v", got)
		}
	}
}

// An edit sees the JWT that is a member, and cannot change what it says.
func TestEditOfAnAnswerWithAJWT(t *testing.T) {
	as := phantomtest.New(phantomtest.WithJSONResponse("phantom_token"), phantomtest.WithAnswer(func(m map[string]any) {
		m["sub"] = "mallory"
		m["copy"] = m["phantom_token"]
	}))
	answer := object(t, introspect(as, as.Issue(nil), ""))
	if _, claims := decode(t, as, answer["copy"].(string)); claims["sub"] != "alice" || answer["sub"] != "mallory" {
		t.Errorf("answer %v, JWT %v", answer, claims)
	}
}
