package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
)

// modeSettings are the flags that say where the JWT for the upstream comes
// from.
type modeSettings struct {
	mode, clientSubject                   string
	jwksURL, jsonMember                   string
	tokenEndpoint, exchangeForm           string
	mintIssuer, mintKeyFile, mintAudience string
}

func modeFlags(f *flag.FlagSet, s *modeSettings) {
	f.StringVar(&s.mode, "mode", "jwt", "where the JWT comes from, one `word`: jwt, from the introspection endpoint; "+
		"mint, from this gateway; exchange, from the token endpoint; claims, nowhere: the service gets no credentials")
	f.StringVar(&s.clientSubject, "client-subject", "",
		"`prefix` of the client's identifier, as the subject of tokens that have none")
	f.StringVar(&s.jwksURL, "jwks-url", "", "`URL` of the issuer's keys; from its metadata by default")
	f.StringVar(&s.jsonMember, "json-member", "",
		"`name` of the member that holds the JWT, for servers that answer in JSON")
	f.StringVar(&s.tokenEndpoint, "token-endpoint", "", "`URL` for -mode exchange; from the issuer's metadata by default")
	f.StringVar(&s.exchangeForm, "exchange-form", "",
		"further `parameters` of the exchange, such as audience=https://orders.internal&scope=read")
	f.StringVar(&s.mintIssuer, "mint-issuer", "", "issuer `URL` of the gateway's own JWTs, for -mode mint; "+
		"its metadata and its keys are served at the well-known paths, without a token")
	f.StringVar(&s.mintKeyFile, "mint-key-file", "",
		"PEM `file` with private keys (PKCS #8): the first signs, and all are published")
	f.StringVar(&s.mintAudience, "mint-audience", "", "`values`, separated by spaces: who may take the gateway's JWTs")
}

// needs and permits are the flags that a mode must and may have.
var modes = map[string]struct{ needs, permits []string }{
	"jwt":      {nil, []string{"jwks-url", "json-member"}},
	"claims":   {},
	"mint":     {needs: []string{"mint-issuer", "mint-key-file", "mint-audience"}},
	"exchange": {nil, []string{"jwks-url", "token-endpoint", "exchange-form"}},
}

// source returns the options that say where the JWT comes from, and for mint
// what the gateway has to publish.
func (m *mistakes) source(s *modeSettings) (opts []phantom.Option, published *publication) {
	mode, ok := modes[s.mode]
	if !ok {
		m.add("mode", "%q is not jwt, claims, mint or exchange", s.mode)
		return nil, nil
	}
	values := map[string]string{
		"jwks-url": s.jwksURL, "json-member": s.jsonMember,
		"token-endpoint": s.tokenEndpoint, "exchange-form": s.exchangeForm,
		"mint-issuer": s.mintIssuer, "mint-key-file": s.mintKeyFile, "mint-audience": s.mintAudience,
	}
	before := len(*m)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch needed := slices.Contains(mode.needs, name); {
		case needed && values[name] == "":
			m.add(name, "is required with -mode %s", s.mode)
		case !needed && values[name] != "" && !slices.Contains(mode.permits, name):
			m.add(name, "is not for -mode %s", s.mode)
		}
	}
	if len(*m) > before {
		return nil, nil
	}
	given := func(value string, option func(string) phantom.Option) {
		if value != "" {
			opts = append(opts, option(value))
		}
	}
	given(s.clientSubject, phantom.WithClientSubject)
	given(s.jwksURL, phantom.WithJWKSURL)
	given(s.jsonMember, phantom.WithJSONResponse)
	switch s.mode {
	case "claims":
		opts = append(opts, phantom.WithoutJWT())
	case "exchange":
		form, err := url.ParseQuery(s.exchangeForm)
		if err != nil {
			m.add("exchange-form", "is not encoded as a form")
		}
		opts = append(opts, phantom.WithTokenExchange(s.tokenEndpoint, form))
	case "mint":
		minter, err := mint.New(s.mintIssuer, m.mintKeys(s.mintKeyFile), mint.WithAudience(strings.Fields(s.mintAudience)...))
		if err != nil {
			m.translateAll(err)
			return opts, nil
		}
		opts = append(opts, phantom.WithMinter(minter))
		published = newPublication(s.mintIssuer, minter)
	}
	return opts, published
}

// mintKeys reads private keys, in the order of the file.
func (m *mistakes) mintKeys(file string) (keys []mint.Key) {
	rest, err := os.ReadFile(file)
	if err != nil {
		m.add("mint-key-file", "%v", err)
		return nil
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return keys
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			m.add("mint-key-file", "%q: block %d is not a private key in PKCS #8", file, len(keys)+1)
			return nil
		}
		keys = append(keys, mint.Key{Signer: signer})
	}
}

// A publication is what upstreams need to verify minted JWTs.
type publication struct {
	paths     []string
	documents http.Handler
}

func newPublication(issuer string, documents http.Handler) *publication {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil // mint.New has refused it
	}
	path := strings.TrimSuffix(u.Path, "/")
	return &publication{[]string{
		path + "/.well-known/jwks.json",
		path + "/.well-known/openid-configuration",
		"/.well-known/oauth-authorization-server" + path,
	}, documents}
}

// before returns a handler that serves the documents and leaves all other paths
// to next.
func (p *publication) before(next http.Handler) http.Handler {
	if p == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(p.paths, r.URL.Path) {
			p.documents.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// flagOf names the flag that sets an option of phantom or of mint.
var flagOf = map[string]string{
	"WithIssuer":                "issuer",
	"WithIntrospectionEndpoint": "introspection-endpoint",
	"WithJWKSURL":               "jwks-url",
	"WithJSONResponse":          "json-member",
	"WithClientSubject":         "client-subject",
	"WithTokenExchange":         "token-endpoint",
	"WithMinter":                "mint-issuer",
	"WithAudience":              "audience",
	"WithMaxTTL":                "max-ttl",
	"mint.WithAudience":         "mint-audience",
	"mint.New":                  "mint-key-file",
}

// translateAll reports all mistakes of a constructor in terms of flags.
func (m *mistakes) translateAll(err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			m.translate(err)
		}
	}
}

func (m *mistakes) translate(err error) {
	var e *phantom.ConfigError
	if !errors.As(err, &e) || flagOf[e.Option] == "" {
		*m = append(*m, err)
		return
	}
	name := flagOf[e.Option]
	reason, _, _ := strings.Cut(e.Reason, "; see With") // no flag leads there
	if after, ok := strings.CutPrefix(reason, "issuer: "); ok && e.Option == "mint.New" {
		name, reason = "mint-issuer", after
	}
	if e.Option == "WithTokenExchange" && strings.HasPrefix(reason, "the parameter ") {
		name = "exchange-form"
	}
	m.add(name, "%s", reason)
}
