package interop

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	api      = "https://api.example.test" // the audience of all access tokens
	lifetime = 10 * time.Minute
)

// secrets of the clients that have one. Two need encoding within Basic.
var secrets = map[string]string{
	"app":             "app-secret",
	"gateway":         "gateway-secret",
	"gw:odd id+%/&=ü": "s:e c+r%2Fe/t&=?#~*!é",
}

// assertionKeys sign the assertions of the clients that have no secret.
var assertionKeys = map[string]crypto.Signer{"gateway-rsa": newRSA(), "gateway-ec": newEC()}

func newRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

func newEC() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// server is zitadel/oidc's provider on the loopback interface, its
// introspection endpoint seen through a dialect.
type server struct {
	*httptest.Server
	provider *op.Provider
	store    *storage
}

func newServer(t *testing.T, speak dialect) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{store: &storage{grants: map[string]*grant{}}}
	s.store.rotate()
	issuer := "http://" + listener.Addr().String()
	s.provider, err = op.NewProvider(
		&op.Config{CryptoKey: [32]byte([]byte(rand.Text() + rand.Text())), AuthMethodPrivateKeyJWT: true},
		s.store, op.StaticIssuer(issuer), op.WithAllowInsecure())
	if err != nil {
		t.Fatal(err)
	}
	s.store.crypto = s.provider.Crypto()

	mux := http.NewServeMux()
	mux.Handle("/", s.provider)
	mux.Handle("POST "+s.provider.IntrospectionEndpoint().Relative(), speak(s.provider, s.store))
	s.Server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: mux}}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// issue has the provider make an access token and a refresh token.
func (s *server) issue(t *testing.T, subject string, scopes ...string) (access, refresh string) {
	t.Helper()
	access, refresh, _, err := op.CreateAccessToken(t.Context(),
		&grant{subject: subject, scopes: scopes}, op.AccessTokenTypeBearer, s.provider, client{}, "")
	if err != nil {
		t.Fatal(err)
	}
	return access, refresh
}

// revoke is RFC 7009.
func (s *server) revoke(t *testing.T, token string) {
	t.Helper()
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	endpoint := s.URL + s.provider.RevocationEndpoint().Relative()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("app", secrets["app"])
	if status, body := do(t, r); status != http.StatusOK {
		t.Fatalf("revocation: status %d: %s", status, body)
	}
}

// client is the one that tokens are issued to.
type client struct{}

func (client) GetID() string                { return "app" }
func (client) ClockSkew() time.Duration     { return 0 }
func (client) GrantTypes() []oidc.GrantType { return []oidc.GrantType{oidc.GrantTypeRefreshToken} }
func (client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

// grant is a request for tokens, and what the provider remembers of a token.
type grant struct {
	subject string
	scopes  []string
	refresh bool
	expiry  time.Time
}

func (*grant) GetAMR() []string                   { return nil }
func (*grant) GetAudience() []string              { return []string{api} }
func (*grant) GetAuthTime() time.Time             { return time.Time{} }
func (*grant) GetClientID() string                { return client{}.GetID() }
func (g *grant) GetScopes() []string              { return g.scopes }
func (g *grant) GetSubject() string               { return g.subject }
func (g *grant) SetCurrentScopes(scopes []string) { g.scopes = scopes }

// storage is what the provider wants from its host. What is not defined here
// belongs to endpoints that the tests do not use.
type storage struct {
	op.Storage
	crypto    op.Crypto
	exchanged atomic.Int32 // tokens that an exchange made

	mu        sync.Mutex
	key       signingKey
	rotations int
	grants    map[string]*grant
}

var errUnknown = errors.New("unknown")

func (*storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if want, ok := secrets[id]; !ok || want != secret {
		return errUnknown
	}
	return nil
}

func (*storage) GetKeyByIDAndClientID(_ context.Context, keyID, id string) (*jose.JSONWebKey, error) {
	key, ok := assertionKeys[id]
	if !ok {
		return nil, errUnknown
	}
	return &jose.JSONWebKey{KeyID: keyID, Use: "sig", Key: key.Public()}, nil
}

func (s *storage) remember(g grant) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := rand.Text()
	s.grants[id] = &g
	return id
}

func (s *storage) CreateAccessAndRefreshTokens(_ context.Context, r op.TokenRequest, _ string) (id, refresh string, expiry time.Time, err error) {
	expiry = time.Now().Add(lifetime)
	id = s.remember(grant{subject: r.GetSubject(), scopes: r.GetScopes(), expiry: expiry})
	// Of the same make as an access token, so that introspection knows it.
	refresh, err = op.CreateBearerToken(
		s.remember(grant{subject: r.GetSubject(), scopes: r.GetScopes(), expiry: expiry, refresh: true}),
		r.GetSubject(), s.crypto)
	return id, refresh, expiry, err
}

func (s *storage) RevokeToken(_ context.Context, id, _, _ string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.grants, id)
	return nil
}

func (s *storage) SetIntrospectionFromToken(ctx context.Context, answer *oidc.IntrospectionResponse, id, _, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.grants[id]
	if !ok {
		return errUnknown
	}
	answer.Issuer = op.IssuerFromContext(ctx)
	answer.Subject = g.subject
	answer.ClientID = client{}.GetID()
	answer.Scope = slices.Clone(g.scopes)
	answer.Expiration = oidc.FromTime(g.expiry)
	answer.IssuedAt = oidc.FromTime(g.expiry.Add(-lifetime))
	if !g.refresh {
		answer.TokenType = oidc.BearerToken
		answer.Audience = oidc.Audience{api}
	}
	return nil
}

// signingKey is op.SigningKey, and op.Key by way of publicKey.
type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k signingKey) ID() string                                { return k.id }
func (signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (signingKey) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (signingKey) Use() string                                 { return "sig" }
func (k signingKey) Key() any                                  { return k.key }

type publicKey struct{ signingKey }

func (k publicKey) Key() any { return k.key.Public() }

// issuerKeys are taken in turn. To make one takes long under the race detector.
var issuerKeys = []*rsa.PrivateKey{newRSA(), newRSA()}

// rotate replaces the key: the set that is published has one key only.
func (s *storage) rotate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rotations++
	s.key = signingKey{rand.Text(), issuerKeys[s.rotations%len(issuerKeys)]}
}

func (s *storage) signingKey() signingKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.signingKey(), nil }

func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{s.signingKey()}}, nil
}

func (*storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}
