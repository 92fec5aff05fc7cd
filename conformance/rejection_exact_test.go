package conformance_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// exactRejections are what a Middleware with a realm and a metadata URL of its
// own answers to each kind of Error, in full.
var exactRejections = []struct {
	name       string
	err        *phantom.Error // of a requirement, for a good token; nil: the Middleware's own
	token      string         // without err
	status     int
	challenge  string // between the realm and the metadata URL; "-": there is none
	retryAfter string
	text       string
}{
	{name: "no token", status: 401, text: "A bearer token is required."},
	{name: "not a token", token: "a b", status: 400,
		challenge: `, error="invalid_request", error_description="The bearer token is malformed or sent more than once."`,
		text:      "The bearer token is malformed or sent more than once."},
	{name: "too long", token: strings.Repeat("a", 16<<10+1), status: 400,
		challenge: `, error="invalid_request", error_description="The bearer token is too long."`, text: "The bearer token is too long."},
	{name: "no credentials", err: &phantom.Error{Reason: phantom.ReasonNoCredentials}, status: 401, text: "A bearer token is required."},
	{name: "inactive", err: &phantom.Error{Reason: phantom.ReasonInactive}, status: 401,
		challenge: `, error="invalid_token"`, text: "The token is expired, revoked or not valid here."},
	{name: "JWT", err: &phantom.Error{Reason: phantom.ReasonJWTRejected, Detail: "aud"}, status: 401,
		challenge: `, error="invalid_token"`, text: "The token is expired, revoked or not valid here."},
	{name: "scope", err: &phantom.Error{Reason: phantom.ReasonScope}, status: 403,
		challenge: `, error="insufficient_scope"`, text: "The token does not permit this request."},
	{name: "scopes", err: &phantom.Error{Reason: phantom.ReasonScope, Scopes: []string{"b", "a"}}, status: 403,
		challenge: `, error="insufficient_scope", scope="b a"`, text: "The token does not permit this request."},
	{name: "another status", err: &phantom.Error{Reason: phantom.ReasonScope, Status: 401}, status: 401,
		challenge: `, error="insufficient_scope"`, text: "The token does not permit this request."},
	{name: "a status that is ignored", err: &phantom.Error{Reason: phantom.ReasonInactive, Status: 418}, status: 401,
		challenge: `, error="invalid_token"`, text: "The token is expired, revoked or not valid here."},
	{name: "another code", err: &phantom.Error{Reason: phantom.ReasonNoCredentials, Code: "step_up"}, status: 401,
		challenge: `, error="step_up"`, text: "A bearer token is required."},
	{name: "scopes, no code", err: &phantom.Error{Reason: phantom.ReasonNoCredentials, Scopes: []string{"a"}}, status: 401,
		text: "A bearer token is required."},
	{name: "parameters", err: &phantom.Error{Params: map[string]string{"max_age": "5", "acr": `a\"b`}}, status: 403,
		challenge: `, error="insufficient_scope", acr="a\\\"b", max_age="5"`, text: "The token does not permit this request."},
	{name: "parameters, no code", err: &phantom.Error{Reason: phantom.ReasonNoCredentials, Params: map[string]string{"a": "b"}}, status: 401,
		challenge: `, a="b"`, text: "A bearer token is required."},
	{name: "too long, by a hook", err: &phantom.Error{Reason: phantom.ReasonMalformedRequest, Detail: "token too long"}, status: 400,
		challenge: `, error="invalid_request", error_description="The bearer token is too long."`, text: "The bearer token is too long."},
	{name: "a refusal with the detail of another", err: &phantom.Error{Reason: phantom.ReasonInactive, Detail: "token too long"}, status: 401,
		challenge: `, error="invalid_token"`, text: "The token is expired, revoked or not valid here."},
	{name: "protocol", err: &phantom.Error{Reason: phantom.ReasonProtocol}, status: 502, challenge: "-", text: "The token could not be checked."},
	{name: "protocol as a refusal", err: &phantom.Error{Reason: phantom.ReasonProtocol, Status: 403, Params: map[string]string{"a": "b"}},
		status: 403, challenge: `, a="b"`, text: "The token could not be checked."},
	{name: "unavailable", err: &phantom.Error{Reason: phantom.ReasonUnavailable, RetryAfter: 7 * time.Second}, status: 503,
		challenge: "-", retryAfter: "7", text: "The token cannot be checked right now."},
	{name: "no keys", err: &phantom.Error{Reason: phantom.ReasonKeysUnavailable, Params: map[string]string{"a": "b"}}, status: 503,
		challenge: "-", retryAfter: "1", text: "The token cannot be checked right now."},
	{name: "internal", err: &phantom.Error{Reason: phantom.ReasonInternal}, status: 500, challenge: "-", text: "The token could not be checked."},
}

// Each kind of rejection is what it is to the byte, also when the ones before
// it were spoilt: an outer handler wrote into the values of their fields, and
// an error handler changed their Errors and then left the answer to the
// Middleware.
//
// Catalogue: P70, Q5.
func TestRejectionToTheByte(t *testing.T) {
	const metadata = "https://rs.test/.well-known/oauth-protected-resource"
	options := []phantom.Option{phantom.WithRealm(`a "realm"`), phantom.WithResourceMetadataURL(metadata)}
	spoil := phantom.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
		*e = phantom.Error{Reason: phantom.ReasonInternal, Params: map[string]string{"x": "y"}}
		spoilValues(w.Header())
	})
	for _, tc := range exactRejections {
		for body, connection := range map[string][]string{"": nil, "unread": {"close"}} {
			t.Run(tc.name+"/"+body, func(t *testing.T) {
				as, token := newAS(t), tc.token
				if tc.err != nil {
					token = "opaque-token"
				}
				options := append(options, phantom.WithRequirements(func(*phantom.Token) error { return tc.err }))
				text := fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%d,"detail":%q}`, http.StatusText(tc.status), tc.status, tc.text)
				want := http.Header{
					"Cache-Control":  {"no-store"},
					"Content-Type":   {"application/problem+json"},
					"Content-Length": {fmt.Sprint(len(text))},
				}
				if tc.challenge != "-" {
					want["Www-Authenticate"] = []string{`Bearer realm="a \"realm\""` + tc.challenge + `, resource_metadata="` + metadata + `"`}
				}
				if tc.retryAfter != "" {
					want["Retry-After"] = []string{tc.retryAfter}
				}
				if connection != nil {
					want["Connection"] = connection
				}
				plain := as.middleware(options...).Handler(&spy{})
				spoilt := as.middleware(append(options, spoil)...).Handler(&spy{})
				for range 3 {
					serve(spoilt, exactRequest(token, body))
					rec := serve(plain, exactRequest(token, body))
					if rec.Code != tc.status || !reflect.DeepEqual(rec.Header(), want) || rec.Body.String() != text {
						t.Fatalf("got  %d %v %s\nwant %d %v %s", rec.Code, rec.Header(), rec.Body, tc.status, want, text)
					}
					spoilValues(rec.Header())
				}
			})
		}
	}
}

// exactRequest returns a request with a body that was not read, unless it is
// empty.
func exactRequest(token, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://rs.test/orders", strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// spoilValues writes into the values of all fields, and behind them.
func spoilValues(h http.Header) {
	for name, values := range h {
		all := values[:cap(values)]
		for i := range all {
			all[i] = "spoilt"
		}
		h[name] = append(values, "spoilt")
	}
}
