package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"

	"github.com/phantom-token/phantom"
)

// plainHeader is the header of a server that has no type for access tokens.
const plainHeader = `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`

// plainJWT is a JWT of such a server: its header says nothing of its kind.
func plainJWT(changes map[string]any) string {
	return es256(plainHeader, string(must(json.Marshal(claims(changes)))))
}

// A nonce is no sign of an ID token if the JWT, or the answer around it, says
// that this is an access token. What says otherwise wins.
//
// Catalogue: V1.
func TestNonceInATokenThatSaysItIsAnAccessToken(t *testing.T) {
	const nonce = "not an access token: nonce"
	for _, tc := range []struct {
		name    string
		changes map[string]any
		answer  map[string]any // nil: a bare JWT
		want    string
		detail  string
	}{
		{"no word", nil, nil, code401T, nonce},
		{"no word in JSON", nil, map[string]any{"username": "alice"}, code401T, nonce},
		{"Keycloak's typ", map[string]any{"typ": "Bearer"}, nil, codeOK, ""},
		{"typ in another case", map[string]any{"typ": "bearer"}, nil, codeOK, ""},
		{"typ of another word", map[string]any{"typ": "JWT"}, nil, code401T, nonce},
		{"typ no text", map[string]any{"typ": []string{"Bearer"}}, nil, code401T, nonce},
		{"typ ID", map[string]any{"typ": "ID"}, map[string]any{"token_type": "Bearer"}, code401T, "not an access token: typ"},
		{"Curity's purpose", map[string]any{"purpose": "access_token"}, nil, codeOK, ""},
		{"token_use access", map[string]any{"token_use": "access"}, nil, codeOK, ""},
		{"token_use access_token", map[string]any{"token_use": "access_token"}, nil, codeOK, ""},
		{"token_use id", map[string]any{"token_use": "id"}, map[string]any{"token_type": "Bearer"}, code401T, "not an access token: token_use"},
		{"token_use null", map[string]any{"token_use": null}, nil, code401T, nonce},
		{"token_usage access_token", map[string]any{"token_usage": "access_token"}, nil, codeOK, ""},
		{"token_usage id_token", map[string]any{"token_usage": "id_token"}, nil, code401T, nonce},
		{"token_type in the JWT", map[string]any{"token_type": "Bearer"}, nil, codeOK, ""},
		{"token_type in the answer", nil, map[string]any{"token_type": "Bearer"}, codeOK, ""},
		{"token_type bearer", nil, map[string]any{"token_type": "bearer"}, codeOK, ""},
		{"token_type access_token", nil, map[string]any{"token_type": "access_token"}, codeOK, ""},
		{"token_type JWT", nil, map[string]any{"token_type": "JWT"}, code401T, nonce},
		{"token_type null", nil, map[string]any{"token_type": null}, code401T, nonce},
		{"token_type N_A", nil, map[string]any{"token_type": "N_A"}, code401T, nonce},
		{"token_type refresh_token", nil, map[string]any{"token_type": "refresh_token"}, code401T, "introspection token_type"},
		{"token_use in the answer", nil, map[string]any{"token_use": "access_token"}, codeOK, ""},
		{"token_usage in the answer", nil, map[string]any{"token_usage": "access_token"}, codeOK, ""},
		{"at_hash", map[string]any{"at_hash": "x", "typ": "Bearer"}, nil, code401T, "not an access token: at_hash"},
		{"nonce null", map[string]any{"nonce": null}, nil, codeOK, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changes := map[string]any{"nonce": "n-0S6_WzA2Mj"}
			maps.Copy(changes, tc.changes)
			as := newAS(t)
			jwt := plainJWT(changes)
			as.introspect = answerJWT(jwt)
			if tc.answer != nil {
				as.introspect = answerJSON(answerOf(jwt, tc.answer))
			}
			trialOf(t, as, jwt, tc.want, tc.detail)
		})
	}
}

// The type of a JWT is a media type, whose first half may be left out.
//
// Catalogue: V2.
func TestTypeApplicationJWTIsJWT(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"application/jwt", typed(`"application/jwt"`), codeOK, "typ", code401T},
		{"in upper case", typed(`"APPLICATION/JWT"`), codeOK, "typ", code401T},
		{"twice", typed(`"application/application/jwt"`), code401T, "typ", ""},
		{"the first half alone", typed(`"application/"`), code401T, "typ", ""},
	})
	idToken := string(must(json.Marshal(claims(map[string]any{"nonce": "n"}))))
	trial(t, es256(`{"alg":"ES256","kid":"k-ES256","typ":"application/jwt"}`, idToken), code401T, "not an access token: nonce")
}

// A null in an optional claim is as good as none. In one that is required, it
// is none either.
//
// Catalogue: V3.
func TestNullInAnOptionalClaimIsNone(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"client_id", claim("client_id", `null`), codeOK, "client_id", code401T},
		{"jti", claim("jti", `null`), codeOK, "jti", code401T},
		{"iat", claim("iat", `null`), codeOK, "iat", code401T},
		{"nbf", claim("nbf", `null`), codeOK, "", ""},
		{"azp", claim("azp", `null`), codeOK, "", ""},
		{"nonce", claim("nonce", `null`), codeOK, "", ""},
		{"token_use", claim("token_use", `null`), codeOK, "", ""},
		{"token_usage", claim("token_usage", `null`), codeOK, "", ""},
		{"token_type", claim("token_type", `null`), codeOK, "", ""},
		{"typ", claim("typ", `null`), codeOK, "", ""},
		{"purpose", claim("purpose", `null`), codeOK, "", ""},
		{"at_hash", claim("at_hash", `null`), codeOK, "", ""},
		{"c_hash", claim("c_hash", `null`), codeOK, "", ""},
		{"scope", claim("scope", `null`), codeOK, "", ""},
		{"scp", claim("scp", `null`), codeOK, "", ""},
		{"act", claim("act", `null`), codeOK, "", ""},
		{"cnf", claim("cnf", `null`), codeOK, "", ""},
		{"exp", claim("exp", `null`), code401T, "exp missing or out of range", ""},
		{"iss", claim("iss", `null`), code401T, "iss", ""},
		{"aud", claim("aud", `null`), code401T, "aud", ""},
		{"sub", claim("sub", `null`), code401T, "sub", ""},
	})
}

// Claims of null show in the token as claims that are missing.
//
// Catalogue: V3.
func TestNullClaimsAreEmptyInTheToken(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(plainJWT(map[string]any{
		"client_id": null, "jti": null, "iat": null, "nbf": null, "scope": null, "azp": "by-azp", "act": null,
	}))
	tok, err := as.middleware().Verify(t.Context(), "opaque")
	if err != nil {
		t.Fatal(err)
	}
	if tok.ClientID() != "by-azp" || tok.ID() != "" || !tok.IssuedAt().IsZero() || len(tok.Scopes()) != 0 {
		t.Errorf("client %q, ID %q, issued at %v, scopes %q", tok.ClientID(), tok.ID(), tok.IssuedAt(), tok.Scopes())
	}
}

// Servers that have no scope claim write the scopes into scp, as a string or
// an array. What stands in scope wins, even if it is of no use.
//
// Catalogue: V4.
func TestScopesComeFromScpToo(t *testing.T) {
	for _, tc := range []struct {
		name   string
		claims map[string]any
		want   []string
	}{
		{"a string", map[string]any{"scp": "read write"}, []string{"read", "write"}},
		{"an array", map[string]any{"scp": []string{"read", "write"}}, []string{"read", "write"}},
		{"two in one element", map[string]any{"scp": []string{"read write", " delete  all "}}, []string{"read", "write", "delete", "all"}},
		{"two in one element of scope", map[string]any{"scope": []string{"read write"}}, []string{"read", "write"}},
		{"tab in an element", map[string]any{"scp": []string{"read\twrite"}}, []string{"read\twrite"}},
		{"scope null", map[string]any{"scope": null, "scp": "read"}, []string{"read"}},
		{"beside scope", map[string]any{"scope": "read", "scp": "read admin"}, []string{"read"}},
		{"beside an empty scope", map[string]any{"scope": "", "scp": "admin"}, nil},
		{"beside an empty array", map[string]any{"scope": []string{}, "scp": "admin"}, nil},
		{"beside a malformed scope", map[string]any{"scope": 1, "scp": "admin"}, nil},
		{"null", map[string]any{"scp": null}, nil},
		{"a number", map[string]any{"scp": 1}, nil},
		{"an array with a number", map[string]any{"scp": []any{"read", 1}}, nil},
		{"an object", map[string]any{"scp": map[string]any{"read": true}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changes := map[string]any{"scope": nil}
			maps.Copy(changes, tc.claims)
			as := newAS(t)
			as.introspect = answerJWT(mint("ES256", claims(changes)))
			m := as.middleware()
			tok, err := m.Verify(t.Context(), "opaque")
			if err != nil || !slices.Equal(tok.Scopes(), tc.want) {
				t.Fatalf("%q, %v", tok.Scopes(), err)
			}
			for _, scope := range []string{"read", "admin"} {
				want := codeOK
				if !slices.Contains(tc.want, scope) {
					want = code403S
				}
				next := &spy{}
				rec := serve(m.RequireScopes(scope)(next), get("Bearer opaque"))
				if got := as.outcome(rec, next, 0); got != want {
					t.Errorf("%s for a route that needs %s, want %s", got, scope, want)
				}
			}
		})
	}
}

// foldingObjects are objects of two names that encoding/json takes for one.
var foldingObjects = []struct{ name, members string }{
	{"in another case", `"tags":["user"],"Tags":["admin"]`},
	{"the other way round", `"TAGS":["admin"],"x":1,"tags":["user"]`},
	{"in no case of either", `"tAgs":1,"taGs":2`},
	{"long s", `"tags":["user"],"tag` + "\u017f" + `":["admin"]`},
	{"Kelvin sign", `"links":1,"lin` + "\u212a" + `s":2`},
	{"escaped", `"tags":1,"\u0054ags":2`},
	{"Greek sigma", `"` + "\u03c3" + `":1,"` + "\u03c2" + `":2`},
	{"Cyrillic", `"` + "\u0436" + `":1,"` + "\u0416" + `":2`},
	{"an object deep", `"ext":{"realm":{"roles":["user"],"Roles":["admin"]}}`},
	{"in an array", `"ext":[1,[{"a":1},{"b":1,"B":2}]]`},
	{"in an object of ours", `"act":{"sub":"a","SUB":"b"}`},
	{"beside many", `"a":1,"b":1,"c":{"d":1},"e":1,"f":1,"g":1,"h":1,"E":2`},
}

// distinctObjects are objects of names that are not equal, whatever they look
// like.
var distinctObjects = []struct{ name, members string }{
	{"the same name in two objects", `"Ext":{"tags":1},"more":{"Tags":1,"Ext":2}`},
	{"one above the other", `"Tags":{"tags":{"TAGS":1}}`},
	{"in another element", `"ext":[{"a":1},{"A":1}]`},
	{"dotted i", `"i":1,"` + "\u0130" + `":2`},
	{"an accent apart", `"tags":1,"t` + "\u00e1" + `gs":2`},
	{"an underscore", `"auth_tags":1,"authTags":2`},
	{"values that differ in case", `"ext":["a","A"]`},
	{"sharp s", `"ss":1,"` + "\u00df" + `":2`},
}

// Two names of one object that are equal but for case are two values to us,
// and one to a handler that decodes with encoding/json. A JWT with such an
// object is refused, at any depth, in its header too.
//
// Catalogue: V9.
func TestNamesThatFoldTogetherInAJWTAreRefused(t *testing.T) {
	jwt := func(members string) string {
		return es256(goodHeader, goodPayload()[:len(goodPayload())-1]+","+members+"}")
	}
	var cases []jwtCase
	for _, tc := range foldingObjects {
		cases = append(cases, jwtCase{tc.name, jwt(tc.members), code401T, "ambiguous name", ""})
		cases = append(cases, jwtCase{tc.name + " in the header", headerWith(tc.members), code401T, "ambiguous header", ""})
	}
	for _, tc := range distinctObjects {
		cases = append(cases, jwtCase{tc.name, jwt(tc.members), codeOK, "", ""})
		cases = append(cases, jwtCase{tc.name + " in the header", headerWith(tc.members), codeOK, "", ""})
	}
	runJWTCases(t, cases)
}

// An answer with two names that are equal but for case is of no use, whether
// the server or an Introspector brought it. One that says inactive is a verdict
// all the same.
//
// Catalogue: V9.
func TestNamesThatFoldTogetherInAnAnswerAreRefused(t *testing.T) {
	for _, list := range []struct {
		cases []struct{ name, members string }
		want  string
	}{{foldingObjects, code502A}, {distinctObjects, codeOK}} {
		for _, tc := range list.cases {
			t.Run(tc.name, func(t *testing.T) {
				thrice(t, rawJSON(`{"active":true,"phantom_token":"JWT",`+tc.members+`}`), list.want, list.want == codeOK)
			})
			t.Run(tc.name+" of an Introspector", func(t *testing.T) {
				answer := unsigned(nil)
				answer.Claims = []byte(`{` + tc.members + `}`)
				o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return answer, nil }}
				as := newAS(t)
				if got := as.try(o.middleware(t), "opaque"); got != list.want {
					t.Errorf("%s, want %s", got, list.want)
				}
			})
		}
	}
	thrice(t, answerJSON(`{"active":false,"tags":1,"Tags":2}`), code401T, true)
}

// A claim that handlers decide by must not come in other letters, not even
// alone: encoding/json would take it for the one that they mean.
//
// Catalogue: V9.
func TestClaimOfRightsInOtherLettersIsRefused(t *testing.T) {
	for _, name := range []string{
		"roles", "groups", "entitlements", "acr", "amr", "auth_time", "email", "may_act", "authorization_details", "scp",
	} {
		odd := string(name[0]-'a'+'A') + name[1:]
		t.Run(odd, func(t *testing.T) {
			trial(t, mint("ES256", claims(map[string]any{odd: "x"})), code401T, "ambiguous "+name)
			thrice(t, withMembers(map[string]any{odd: "x"}), code502A, false)
			trial(t, mint("ES256", claims(map[string]any{name: "x"})), codeOK, "")
		})
	}
}

// The key set and the metadata are not for handlers, so names in them may be
// equal but for case.
//
// Catalogue: V9.
func TestNamesThatFoldTogetherInKeysAndMetadataAreRead(t *testing.T) {
	as := newAS(t)
	as.jwks = answer(200, "application/json", `{"KEYS":[],`+
		jwks(with(jwk("k-ES256", "ES256", p256Key().Public()), member{"X": "", "KID": "x"}))[1:])
	as.metadata = answer(200, "application/json", metadataOf(issuer, map[string]any{"ISSUER": "x", "Jwks_URI": 1}))
	if got := as.try(as.discoverer(), "opaque"); got != codeOK {
		t.Error(got)
	}
}

// No part of a name that was refused is in the log.
//
// Catalogue: V9.
func TestAmbiguousNamesAreNotLogged(t *testing.T) {
	as := newAS(t)
	book := as.logBook()
	const name = "name-of-the-server"
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{as.secret(name): 1, as.secret("Name-of-the-server"): 2})))
	if got := as.try(as.middleware(phantom.WithLogger(slog.New(book))), "opaque"); got != code401T {
		t.Error(got)
	}
	checkLine(t, book.take(), code401T, "ambiguous name")
	as.introspect = withMembers(map[string]any{name: 1, "Name-of-the-server": 2})
	if got := as.try(as.middleware(phantom.WithLogger(slog.New(book))), "opaque"); got != code502A {
		t.Error(got)
	}
	if lines := book.take(); len(lines) != 1 || lines[0].attrs["detail"] != "introspection claims: ambiguous name" {
		t.Error(fmt.Sprint(lines))
	}
}
