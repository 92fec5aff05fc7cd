package conformance_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/phantom-token/phantom"
)

// fuzzKey is the same in every process, so that a finding can be repeated.
var fuzzKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// claimsJudge is a Middleware whose authorization server answers with *jwt.
func claimsJudge(jwt *string, extra ...phantom.Option) *phantom.Middleware {
	return must(phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer),
		phantom.WithAudience(audience),
		phantom.WithKeySet(phantom.StaticKeys(fuzzKey.Public())),
		phantom.WithIntrospector(introspectFunc(func(context.Context, string) (*phantom.Introspection, error) {
			return &phantom.Introspection{Active: true, JWT: *jwt}, nil
		})),
		phantom.WithCacheSize(0),
	}, extra...)...))
}

// A payload that is let through is one that another reader, made of
// encoding/json and math/big, agrees to on all that decides about it.
//
// Catalogue: L294.
func FuzzClaims(f *testing.F) {
	const good = `{"iss":"https://as.test","aud":"https://rs.test","sub":"alice","exp":4102444800}`
	member := func(m string) string { return strings.TrimSuffix(good, "}") + "," + m + "}" }
	swap := func(old, text string) string { return strings.Replace(good, old, text, 1) }
	const aud, exp = `"https://rs.test"`, "4102444800"
	for _, seed := range []string{
		good, member(`"nbf":0,"iat":1`), member(`"iat":1.5e9`), member(`"nbf":4102444800`), member(`"exp":1`),
		member(`"EXP":1`), swap(aud, `["x","https://rs.test"]`), swap(aud, `["https://rs.test",1]`),
		swap(exp, "41024448e2"), swap(exp, "4102444800.999999"), swap(exp, "4102444800000"), swap(exp, "253402300799.9"),
		swap(exp, "1e99999999999"), swap(exp, `"4102444800"`), swap(exp, "-0"), swap("alice", "\\ud83d\\ude00"),
		swap("https:", "https\\u003a"), swap("alice", "al\xffce"), member(`"cnf":null`), member(`"nonce":"n"`),
		member(`"scope":["a",1]`), member(`"client_id":1`), member(`"\u0073ub":"b"`), swap("as.test", "AS.test"),
		swap("as.test", "as.test/"), swap("alice", ""), swap("rs.test", "rs.test.evil.example"), swap(aud, "[]"),
		swap(exp, fmt.Sprint(time.Now().Unix()-5)), member(`"iat":4102444800`),
		good + "{}", " " + good + "\n", "[]", "null", "", "{", "\ufeff" + good,
	} {
		f.Add([]byte(seed))
	}
	jwt := new(string)
	judges := []*phantom.Middleware{claimsJudge(jwt), claimsJudge(jwt, phantom.WithRFC9068())}
	headers := []string{`{"alg":"EdDSA"}`, `{"alg":"EdDSA","typ":"at+jwt"}`}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for i, m := range judges {
			*jwt = compact("EdDSA", fuzzKey, headers[i], string(payload))
			before := time.Now()
			tok, err := m.Verify(t.Context(), "opaque")
			after := time.Now()
			if err != nil {
				if tok != nil || !errors.Is(err, phantom.ErrInvalidToken) && !errors.Is(err, phantom.ErrUpstream) {
					t.Fatalf("%v beside %v", tok, err)
				}
				// Nothing else in it could have been refused.
				read, ok := readClaims(payload, after, before)
				if i == 0 && ok && read.plain && errors.Is(err, phantom.ErrInvalidToken) {
					t.Fatalf("refused without a reason: %v", err)
				}
				continue
			}
			read, ok := readClaims(payload, before, after)
			if !ok {
				t.Fatalf("let through: %s", payload)
			}
			if tok.Subject() != read.sub || tok.Issuer() != issuer || !slices.Equal(tok.Audience(), read.aud) ||
				tok.Expiry().Unix() != read.exp || !tok.IssuedAt().IsZero() && tok.IssuedAt().Unix() != read.iat {
				t.Fatalf("read as %q %q %v %v, not %+v", tok.Subject(), tok.Audience(), tok.Expiry(), tok.IssuedAt(), read)
			}
			var decoded map[string]json.RawMessage
			if err := tok.Decode(&decoded); err != nil || len(decoded) != read.members {
				t.Fatalf("decoded to %d members: %v", len(decoded), err)
			}
		}
	})
}

// fuzzedClaims is what readClaims finds.
type fuzzedClaims struct {
	sub      string
	aud      []string
	exp, iat int64
	members  int
	plain    bool // no members but those that readClaims judges
}

// readClaims judges a payload on its own terms: exp at one time, nbf and iat at
// another, because the time of the real judgement lies somewhere between two
// readings of the clock.
func readClaims(payload []byte, expAt, startAt time.Time) (read fuzzedClaims, ok bool) {
	members, ok := strictMembers(payload)
	if !ok {
		return read, false
	}
	read.members, read.plain = len(members), true
	for name := range members {
		if !slices.Contains([]string{"iss", "aud", "exp", "nbf", "iat", "sub"}, name) {
			read.plain = false
		}
	}
	text := func(raw json.RawMessage) (s string, ok bool) {
		return s, bytes.HasPrefix(raw, []byte{'"'}) && json.Unmarshal(raw, &s) == nil
	}
	if iss, ok := text(members["iss"]); !ok || iss != issuer {
		return read, false
	}
	if read.sub, ok = text(members["sub"]); !ok || read.sub == "" {
		return read, false
	}
	if one, ok := text(members["aud"]); ok {
		read.aud = []string{one}
	} else {
		var list []*string
		if json.Unmarshal(members["aud"], &list) != nil || slices.Contains(list, nil) {
			return read, false
		}
		for _, s := range list {
			read.aud = append(read.aud, *s)
		}
	}
	unfit := func(s string) bool { return s == "" || strings.Contains(s, "\x00") }
	if !slices.Contains(read.aud, audience) || slices.ContainsFunc(read.aud, unfit) {
		return read, false
	}
	const leeway = 10 * time.Second
	if read.exp, ok = wholeSeconds(members["exp"]); !ok || !expAt.Before(time.Unix(read.exp, 0).Add(leeway)) {
		return read, false
	}
	for _, name := range []string{"nbf", "iat"} {
		raw, there := members[name]
		if !there {
			continue
		}
		sec, ok := wholeSeconds(raw)
		if !ok || time.Unix(sec, 0).After(startAt.Add(leeway)) {
			return read, false
		}
		if name == "iat" {
			read.iat = sec
		}
	}
	return read, true
}

// strictMembers reads the members of the one JSON object that data is.
func strictMembers(data []byte) (map[string]json.RawMessage, bool) {
	if !utf8.Valid(data) || !json.Valid(data) {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return nil, false
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, false
		}
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			return nil, false
		}
		if _, twice := members[name.(string)]; twice {
			return nil, false
		}
		members[name.(string)] = raw
	}
	return members, true
}

// wholeSeconds reads a NumericDate, rounded down.
func wholeSeconds(raw json.RawMessage) (int64, bool) {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false
	}
	mantissa, exponent := string(raw), ""
	if i := strings.IndexAny(mantissa, "eE"); i >= 0 {
		mantissa, exponent = mantissa[:i], mantissa[i+1:]
	}
	parse := func(s string) *big.Float {
		x, _, err := big.ParseFloat(s, 10, 4096, big.ToNegativeInf)
		if err != nil {
			panic(fmt.Sprintf("%q: %v", s, err))
		}
		return x
	}
	m := parse(mantissa)
	var x *big.Float
	switch negative := strings.HasPrefix(exponent, "-"); {
	case m.Sign() == 0:
		return 0, true
	case m.Sign() < 0:
		return 0, false
	case len(strings.TrimLeft(exponent, "+-0")) <= 6:
		x = parse(string(raw))
	case negative: // smaller than any number that fits
		return 0, true
	default:
		return 0, false
	}
	if x.Cmp(big.NewFloat(253402300800)) >= 0 {
		return 0, false
	}
	sec, _ := x.Int64()
	return sec, true
}

// A metadataHost serves a metadata document to whoever asks the issuer for it,
// answers everything else as best it can, and takes note of each request.
type metadataHost struct {
	document []byte
	jwt      string
	mu       sync.Mutex
	requests []*http.Request
}

func (h *metadataHost) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.requests = append(h.requests, r)
	h.mu.Unlock()
	rec := httptest.NewRecorder()
	switch {
	case r.URL.String() == issuer+oauthPath:
		_, _ = rec.Write(h.document)
	case r.Method == http.MethodPost:
		answerJWT(h.jwt)(rec, r)
	default:
		answer(200, "application/json", jwks(jwk("", "", fuzzKey.Public())))(rec, r)
	}
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// A metadata document makes us ask no server but the issuer, unless it is the
// issuer's own and names the URL, which is https.
func FuzzDiscovery(f *testing.F) {
	for _, changes := range badMetadata {
		f.Add([]byte(metadataOf(issuer, changes)))
	}
	for _, document := range []string{
		metadataOf(issuer, nil), metadataOf(issuer, map[string]any{"jwks_uri": "https://keys.test/jwks?x=y"}),
		metadataOf(issuer, map[string]any{"introspection_endpoint": "https://user@as.test/"}),
		metadataOf(issuer, map[string]any{"introspection_endpoint": "HTTPS://AS.test:443/%2e%2e/x"}),
		`{"issuer":"https://evil.test",` + metadataOf(issuer, nil)[1:], metadataOf(issuer, nil) + "{}", "", "null", "[]",
		`{"issuer":"https:\/\/as.test","jwks_uri":"https:\/\/as.test\/jwks"}`,
		`{"issuer":"https://as.test","jwks_uri":"https://as.test/\ud800"}`,
	} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		now := time.Now().Unix()
		host := &metadataHost{document: document, jwt: compact("EdDSA", fuzzKey, `{"alg":"EdDSA"}`,
			fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"alice","exp":%d}`, issuer, audience, now+300))}
		m := must(phantom.New(
			phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithCacheSize(0),
			phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
			phantom.WithHTTPClient(&http.Client{Transport: host}),
		))
		warm := m.Warm(t.Context())
		tok, err := m.Verify(t.Context(), "opaque")
		for _, err := range []error{warm, err} {
			if err != nil && !errors.Is(err, phantom.ErrUpstream) {
				t.Fatal(err)
			}
		}
		endpoint, keys := believedURLs(document)
		if (tok != nil) != (err == nil) || err == nil && (endpoint == "" || keys == "") {
			t.Fatalf("%v, %v with %q and %q", tok, err, endpoint, keys)
		}
		for _, r := range host.requests {
			_, _, credentials := r.BasicAuth()
			switch asked := r.URL.String(); {
			case (asked == issuer+oauthPath || asked == issuer+openidPath) && r.Method == http.MethodGet && !credentials:
			case asked == keys && r.Method == http.MethodGet && !credentials:
			case asked == endpoint && r.Method == http.MethodPost:
			default:
				t.Fatalf("%s %s, with credentials: %t", r.Method, asked, credentials)
			}
			if r.URL.Scheme != "https" || r.URL.Host == "" || r.URL.User != nil {
				t.Fatalf("a request to %s", r.URL)
			}
		}
	})
}

// believedURLs returns the endpoints of a document that may be believed, as a
// request shows them.
func believedURLs(document []byte) (endpoint, keys string) {
	members, ok := strictMembers(document)
	var named string
	if !ok || json.Unmarshal(members["issuer"], &named) != nil || named != issuer {
		return "", ""
	}
	read := func(name string) string {
		var s string
		if json.Unmarshal(members[name], &s) != nil {
			return ""
		}
		r, err := http.NewRequest(http.MethodGet, s, nil)
		if err != nil || r.URL.Scheme != "https" {
			return ""
		}
		return r.URL.String()
	}
	return read("introspection_endpoint"), read("jwks_uri")
}
