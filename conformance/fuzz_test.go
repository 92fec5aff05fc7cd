package conformance_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/phantom-token/phantom"
)

// discard is a log that keeps nothing.
var discard = slog.New(slog.DiscardHandler)

// payloads is a KeySet that takes every signature for good.
type payloads struct{}

func (payloads) VerifySignature(_ context.Context, jwt string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[1])
}

// Any answer of the server leads to one of four outcomes. A request passes only
// with the JWT of this very moment, in an answer that an independent reading
// takes for active too. "<JWT>" in a body stands for that JWT.
//
// Catalogue: L294.
func FuzzAnswer(f *testing.F) {
	for _, tc := range dialects {
		contentType := ""
		for _, field := range tc.fields {
			if name, value, _ := strings.Cut(field, ": "); name == "Content-Type" {
				contentType = value
			}
		}
		f.Add(uint16(tc.status), contentType, "", []byte(tc.body), false)
	}
	for _, body := range []string{
		`<JWT>`, "<JWT>\r\n", `"<JWT>"`,
		`{"active":true,"jwt":"<JWT>"}`, `{"active":true,"phantom_token":"<JWT>","exp":4102444800}`,
		`{"active":false,"phantom_token":"<JWT>"}`, `{"active":true,"phantom_token":"<JWT>","phantom_token":"x"}`,
		`{}`, ``,
		`{"\u0061ctive":true,"jwt":"<JWT>","sub":"alice","cnf":null}`, `[[[[`, "\ufeff{}",
	} {
		for _, contentType := range []string{"application/jwt", "application/json; charset=utf-8", ""} {
			f.Add(uint16(200), contentType, "", []byte(body), strings.Contains(body, "exp"))
		}
	}
	f.Add(uint16(204), "", "", []byte{}, false)
	f.Add(uint16(204), "", "", []byte{}, true)
	f.Add(uint16(503), "", "gzip", []byte("\x1f\x8b"), true)
	f.Add(uint16(101), "", "", []byte("x"), true)

	f.Fuzz(func(t *testing.T, status uint16, contentType, encoding string, body []byte, member bool) {
		as := newAS(t)
		jwt := mint("ES256", claims(nil))
		text := strings.ReplaceAll(string(body), "<JWT>", jwt)
		header := http.Header{"Retry-After": {encoding}}
		if contentType != "" {
			header["Content-Type"] = strings.Split(contentType, "\n")
		}
		if encoding != "" {
			header.Set("Content-Encoding", encoding)
		}
		asked := 0
		transport := roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != endpointPath {
				return as.RoundTrip(r)
			}
			asked++
			return &http.Response{
				StatusCode: int(status), Header: header, Request: r,
				Body: io.NopCloser(strings.NewReader(text)), ContentLength: -1,
			}, nil
		})
		opts := []phantom.Option{phantom.WithHTTPClient(&http.Client{Transport: transport}), phantom.WithCacheSize(0)}
		if member {
			opts = append(opts, phantom.WithJSONResponse("phantom_token"))
		}
		m := as.middleware(opts...)
		next := &spy{}
		got := as.outcome(serve(m.Handler(next), get("Bearer tok-of-alice")), next, 0)
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		switch {
		case got == codeOK:
			if !activeByAnotherReading(int(status), text, jwt) {
				t.Errorf("passed with status %d, %q, %q", status, contentType, body)
			}
			if sent := next.last().Header["Authorization"]; !slices.Equal(sent, []string{"Bearer " + jwt}) {
				t.Errorf("passed with %q", sent)
			}
		case !slices.Contains([]string{code401T, code502A, code503A}, got):
			t.Errorf("outcome %s of status %d, %q, %q", got, status, contentType, body)
		case (got == code503A) != (status == 429 || status >= 500):
			t.Errorf("outcome %s of status %d", got, status)
		case got == code401T && status != 200 && status != 204 && status != 400:
			t.Errorf("a verdict by status %d", status)
		}
	})
}

// activeByAnotherReading reads an answer as encoding/json does, which is more
// lenient, without regard to its Content-Type.
func activeByAnotherReading(status int, text, jwt string) bool {
	if status != 200 {
		return false
	}
	if strings.TrimSpace(text) == jwt {
		return true
	}
	var members map[string]any
	return json.Unmarshal([]byte(text), &members) == nil && members["active"] == true &&
		(members["phantom_token"] == jwt || members["jwt"] == jwt)
}

// A server that decodes by RFC 6749 section 2.3.1 gets the very credentials
// that were given.
//
// Catalogue: A120.
func FuzzClientSecretBasic(f *testing.F) {
	f.Add("a:b", "p%w+d é")
	f.Add("\x00", "::")
	f.Add("\xff", "a\n")
	f.Fuzz(func(t *testing.T, id, secret string) {
		auth := phantom.ClientSecretBasic(id, secret)
		r := &http.Request{Header: http.Header{}}
		form := url.Values{}
		if err := auth.Authenticate(r, form); err != nil {
			if id != "" && secret != "" && !strings.ContainsFunc(id+secret, unicode.IsControl) {
				t.Error(err)
			}
			return
		}
		user, password, ok := r.BasicAuth()
		gotID, err1 := url.QueryUnescape(user)
		gotSecret, err2 := url.QueryUnescape(password)
		if !ok || err1 != nil || err2 != nil || gotID != id || gotSecret != secret || len(form) != 0 {
			t.Errorf("%q and %q arrive as %q and %q", id, secret, gotID, gotSecret)
		}
	})
}
