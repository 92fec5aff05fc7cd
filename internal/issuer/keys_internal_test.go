package issuer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/upstream"
)

// A host answers each request for a document in the same way, until that is
// changed.
type host struct {
	status     int
	retryAfter string
	body       string
	requests   int
}

// RoundTrip implements [http.RoundTripper].
func (h *host) RoundTrip(r *http.Request) (*http.Response, error) {
	h.requests++
	return &http.Response{
		StatusCode: h.status,
		Header:     http.Header{"Retry-After": {h.retryAfter}},
		Body:       io.NopCloser(strings.NewReader(h.body)),
		Request:    r,
	}, nil
}

func (h *host) config() Config {
	return Config{
		Issuer:   "https://as.test",
		Timeout:  time.Second,
		Upstream: upstream.New(h, 1),
		Events: Events{
			NotRenewed:  func(string, *failure.Error) {},
			Again:       func(string, time.Duration) {},
			KeysDropped: func([]error) {},
		},
	}
}

// A key of RFC 8037, appendix A.2.
const keySet = `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

// Keys are unavailable from a failed attempt to the next one, if there are none
// in use. To say so takes no request.
func TestUnavailableLastsUntilTheNextAttempt(t *testing.T) {
	for _, tc := range []struct {
		name  string
		keys  func(h *host) *Keys
		class failure.Class
	}{
		{"key set", func(h *host) *Keys { return NewKeys(h.config(), fixed) }, failure.NoKeys},
		{"metadata", func(h *host) *Keys { return NewKeys(h.config(), NewMetadata(h.config()).Endpoint(JWKSURI)) }, failure.NoKeys},
		{"no metadata", func(h *host) *Keys {
			h.status = http.StatusNotFound
			return NewKeys(h.config(), NewMetadata(h.config()).Endpoint(JWKSURI))
		}, failure.Protocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &host{status: http.StatusServiceUnavailable, body: "{}"}
				keys := tc.keys(h)
				if err := keys.Unavailable(); err != nil {
					t.Errorf("before the first attempt: %v", err)
				}
				for _, wait := range []time.Duration{time.Second, 20 * time.Second} {
					if h.retryAfter = ""; wait > time.Second {
						h.retryAfter = "20"
					}
					if h.status == http.StatusNotFound {
						wait = time.Second // a 404 asks nobody to wait
					}
					if err := keys.Fetch(t.Context()); err == nil {
						t.Fatal("fetched")
					}
					before := h.requests
					checkUnavailable(t, keys, tc.class, wait)
					time.Sleep(wait - time.Millisecond)
					checkUnavailable(t, keys, tc.class, time.Millisecond)
					time.Sleep(time.Millisecond)
					if err := keys.Unavailable(); err != nil || h.requests != before {
						t.Errorf("when the next attempt is due: %v, %d requests", err, h.requests-before)
					}
				}
			})
		})
	}
}

func fixed(context.Context) (string, error) { return "https://as.test/jwks", nil }

func checkUnavailable(t *testing.T, keys *Keys, class failure.Class, wait time.Duration) {
	t.Helper()
	var f *failure.Error
	if err := keys.Unavailable(); !errors.As(err, &f) || f.Class != class || f.Wait != wait {
		t.Errorf("%+v, want class %d and a wait of %v", f, class, wait)
	}
}

// Keys in use are available however often their renewal fails, until they are
// too old.
func TestKeysInUseAreAvailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{status: http.StatusOK, body: keySet}
		keys := NewKeys(h.config(), fixed)
		if err := keys.Fetch(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.status = http.StatusInternalServerError
		for range 64 {
			time.Sleep(time.Minute)
			if err := keys.Fetch(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := keys.Unavailable(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if err := keys.Unavailable(); err != nil { // the next attempt is due
			t.Error(err)
		}
		if err := keys.Fetch(t.Context()); err == nil {
			t.Error("keys are used beyond their time")
		}
		checkUnavailable(t, keys, failure.NoKeys, time.Second)
	})
}
