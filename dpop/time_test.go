package dpop_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/phantomtest"
)

// The clock of a bubble begins at the first moment of a second, as iat does.

// Catalogue: E9.
func TestAProofIsGoodForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := phantomtest.NewProofKey()
		now := time.Now()
		at := func(d time.Duration) int64 { return now.Add(d).Unix() }
		wide := []dpop.Option{dpop.WithMaxAge(10 * time.Minute), dpop.WithLeeway(5 * time.Minute)}
		narrow := []dpop.Option{dpop.WithMaxAge(time.Second), dpop.WithLeeway(0)}
		for _, tc := range []struct {
			name   string
			opts   []dpop.Option
			claims claims
			want   string
		}{
			{"10 s ago", nil, claims{"iat": at(-10 * time.Second)}, "OK"},
			{"in 10 s", nil, claims{"iat": at(10 * time.Second)}, "OK"},
			{"in 11 s", nil, claims{"iat": at(11 * time.Second)}, "401D iat"},
			{"70 s ago", nil, claims{"iat": at(-70 * time.Second)}, "OK"},
			{"71 s ago", nil, claims{"iat": at(-71 * time.Second)}, "401D iat"},
			{"a fraction of a second", nil, claims{"iat": float64(at(10*time.Second)) + 0.9}, "OK"},
			{"nbf in 10 s", nil, claims{"nbf": at(10 * time.Second)}, "OK"},
			{"nbf in 11 s", nil, claims{"nbf": at(11 * time.Second)}, "401D nbf"},
			{"exp 9 s ago", nil, claims{"exp": at(-9 * time.Second)}, "OK"},
			{"exp 10 s ago", nil, claims{"exp": at(-10 * time.Second)}, "401D exp"},
			{"exp in a year does not stretch", nil, claims{"iat": at(-71 * time.Second), "exp": at(365 * 24 * time.Hour)}, "401D iat"},
			{"widest", wide, claims{"iat": at(-15 * time.Minute)}, "OK"},
			{"too wide", wide, claims{"iat": at(-15*time.Minute - time.Second)}, "401D iat"},
			{"narrowest", narrow, claims{"iat": at(-time.Second)}, "OK"},
			{"no leeway", narrow, claims{"iat": at(time.Second)}, "401D iat"},
		} {
			p := good()
			p.Claims = tc.claims
			b := newBinding(t, tc.opts...)
			if got := outcome(t, b.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
	})
}

// A proof is remembered until the last moment at which it would pass, whatever
// its iat was when it came.
func TestNoReplayWithinTheTimeOfAProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := phantomtest.NewProofKey()
		for _, early := range []time.Duration{-60 * time.Second, 0, 10 * time.Second} {
			b := newBinding(t)
			p := good()
			p.Claims = claims{"iat": time.Now().Add(early).Unix()}
			proof := key.Sign(p)
			if got := outcome(t, b.Check(get(proof), opaque, key.Thumbprint())); got != "OK" {
				t.Fatal(got)
			}
			left := early + 70*time.Second
			for _, step := range []time.Duration{left / 2, left / 2} {
				time.Sleep(step)
				other := good() // so that the store has something to do
				_ = b.Check(get(key.Sign(other)), opaque, key.Thumbprint())
				if got := outcome(t, b.Check(get(proof), opaque, key.Thumbprint())); got != "401D replay" {
					t.Errorf("iat %v ahead: %s", early, got)
				}
			}
			time.Sleep(time.Nanosecond)
			if got := outcome(t, b.Check(get(proof), opaque, key.Thumbprint())); got != "401D iat" {
				t.Errorf("iat %v ahead, after its time: %s", early, got)
			}
			time.Sleep(time.Second - time.Nanosecond)
		}
	})
}

func secret(c byte) []byte { return bytes.Repeat([]byte{c}, 32) }

// demanded is the nonce that an error gives to the client.
func demanded(t *testing.T, err error) string {
	t.Helper()
	var e *phantom.Error
	if outcome(t, err) != "401DN nonce" || !errors.As(err, &e) || len(e.Header) != 1 {
		t.Fatalf("no nonce: %v", err)
	}
	nonce := e.Header.Get("DPoP-Nonce")
	// RFC 9449 section 8.1: visible ASCII without quotes and backslashes.
	if nonce == "" || len(nonce) > 100 || strings.ContainsAny(nonce, "\"\\ ") {
		t.Fatalf("nonce %q", nonce)
	}
	return nonce
}

// Catalogue: E14.
func TestANonceReplacesTheAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := phantomtest.NewProofKey()
		b := newBinding(t, dpop.WithNonce(secret('a')))
		check := func(nonce any, more claims) error {
			p := good()
			p.Claims = claims{"nonce": nonce}
			for name, value := range more {
				p.Claims[name] = value
			}
			return b.Check(get(key.Sign(p)), opaque, key.Thumbprint())
		}
		expect := func(name string, err error, want string) {
			t.Helper()
			if got := outcome(t, err); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		expect("no proof", b.Check(get(), opaque, key.Thumbprint()), "401D missing")
		nonce := demanded(t, check(nil, nil))
		hour := time.Now().Add(-time.Hour).Unix()
		expect("that nonce", check(nonce, nil), "OK")
		expect("again, in another proof", check(nonce, nil), "OK")
		expect("iat an hour ago", check(nonce, claims{"iat": hour}), "OK")
		expect("iat in an hour", check(nonce, claims{"iat": hour + 7200}), "OK")
		expect("no iat", check(nonce, claims{"iat": nil}), "401D iat")
		expect("iat is a string", check(nonce, claims{"iat": "x"}), "401D iat")
		expect("exp", check(nonce, claims{"exp": hour}), "401D exp")
		expect("nbf", check(nonce, claims{"nbf": hour + 7200}), "401D nbf")
		for _, wrong := range []any{
			"", 1, []string{nonce}, nonce + "A", nonce[1:], nonce + "=", nonce[:8] + "-" + nonce[9:], nonce[:20] + "!" + nonce[21:], nonce[:len(nonce)-1] + "\n",
			strings.ToLower(nonce), "Z" + nonce[1:], strings.Repeat("A", len(nonce)),
		} {
			demanded(t, check(wrong, nil))
		}
		time.Sleep(5 * time.Minute)
		expect("5 min old", check(nonce, nil), "OK")
		time.Sleep(time.Nanosecond)
		fresh := demanded(t, check(nonce, nil))
		if fresh == nonce {
			t.Error("the new nonce is the old one")
		}
		expect("the new nonce", check(fresh, nil), "OK")
		time.Sleep(time.Minute)
		demanded(t, check(nonce, nil))
	})
}

// A proof with a nonce is remembered as long as the nonce is good.
func TestNoReplayWithinTheTimeOfANonce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := phantomtest.NewProofKey()
		b := newBinding(t, dpop.WithNonce(secret('a')))
		p := good()
		p.Nonce = demanded(t, b.Check(get(key.Sign(good())), opaque, key.Thumbprint()))
		p.Claims = claims{"iat": time.Now().Add(-time.Hour).Unix()}
		proof := key.Sign(p)
		if got := outcome(t, b.Check(get(proof), opaque, key.Thumbprint())); got != "OK" {
			t.Fatal(got)
		}
		for range 5 {
			time.Sleep(time.Minute)
			_ = b.Check(get(key.Sign(p)), opaque, key.Thumbprint())
			if got := outcome(t, b.Check(get(proof), opaque, key.Thumbprint())); got != "401D replay" {
				t.Error(got)
			}
		}
	})
}

// Replicas share secrets, and change them one after the other.
//
// Catalogue: E14.
func TestEachSecretVerifiesANonce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := phantomtest.NewProofKey()
		before := newBinding(t, dpop.WithNonce(secret('a')))
		during := newBinding(t, dpop.WithNonce(secret('b'), secret('a')))
		after := newBinding(t, dpop.WithNonce(secret('b')))
		p := good()
		p.Nonce = demanded(t, before.Check(get(key.Sign(p)), opaque, key.Thumbprint()))
		if got := outcome(t, during.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != "OK" {
			t.Errorf("by the second secret: %s", got)
		}
		p.Nonce = demanded(t, after.Check(get(key.Sign(p)), opaque, key.Thumbprint()))
		if got := outcome(t, during.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != "OK" {
			t.Errorf("by the first secret: %s", got)
		}
		p.Nonce = demanded(t, during.Check(get(key.Sign(good())), opaque, key.Thumbprint()))
		if got := outcome(t, after.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != "OK" {
			t.Errorf("the first secret makes them: %s", got)
		}
	})
}

// A replica's clock may be ahead, by the leeway at most.
func TestANonceFromTheFutureIsRefused(t *testing.T) {
	key := phantomtest.NewProofKey()
	nonceIn := func(d time.Duration) (nonce string) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(d)
			b := newBinding(t, dpop.WithNonce(secret('a')))
			nonce = demanded(t, b.Check(get(key.Sign(good())), opaque, key.Thumbprint()))
		})
		return nonce
	}
	soon, later := nonceIn(10*time.Second), nonceIn(11*time.Second)
	synctest.Test(t, func(t *testing.T) {
		b := newBinding(t, dpop.WithNonce(secret('a')))
		p := good()
		p.Nonce = soon
		if got := outcome(t, b.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != "OK" {
			t.Error(got)
		}
		p.Nonce = later
		demanded(t, b.Check(get(key.Sign(p)), opaque, key.Thumbprint()))
	})
}

// The caller may use its memory again.
func TestSecretsAreCopied(t *testing.T) {
	key := phantomtest.NewProofKey()
	mine := secret('a')
	b := newBinding(t, dpop.WithNonce(mine))
	clear(mine)
	p := good()
	p.Nonce = demanded(t, newBinding(t, dpop.WithNonce(secret('a'))).Check(get(key.Sign(p)), opaque, key.Thumbprint()))
	if got := outcome(t, b.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != "OK" {
		t.Error(got)
	}
}
