package phantom_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// What is not a hit: a rejection, and a miss, which is measured beside what
// net/http and the signature take of it.

// A client takes an answer as net/http's writer does. Its header map is ready,
// so that only what the middleware allocates counts.
type client struct {
	header http.Header
	status int
	length int
}

func (c *client) Header() http.Header { return c.header }

func (c *client) WriteHeader(status int) { c.status = status }

func (c *client) Write(p []byte) (int, error) {
	c.length += len(p)
	return len(p), nil
}

func (c *client) WriteString(s string) (int, error) {
	c.length += len(s)
	return len(s), nil
}

// next makes the client ready for another answer.
func (c *client) next() {
	clear(c.header)
	c.status, c.length = 0, 0
}

// rejections are the rejections that cost no lookup, and what they may
// allocate.
var rejections = []struct {
	name   string
	token  string // the field's value, if there is one
	status int
	allocs float64
}{
	{name: "NoToken", status: http.StatusUnauthorized, allocs: 3},
	{name: "Inactive", token: "Bearer junk", status: http.StatusUnauthorized, allocs: 3},
	{name: "Malformed", token: "Bearer a b", status: http.StatusBadRequest, allocs: 4},
}

// rejecting returns a handler and a request for each of the rejections, which
// was rejected before.
func rejecting(tb testing.TB, i int) (http.Handler, *http.Request) {
	tc := rejections[i]
	h := new(benchServer).middleware(tb).Handler(quiet)
	r := benchRequest("")
	delete(r.Header, "Authorization")
	if tc.token != "" {
		r.Header["Authorization"] = []string{tc.token}
	}
	c := &client{header: http.Header{}}
	if h.ServeHTTP(c, r); c.status != tc.status || c.length == 0 {
		tb.Fatalf("%s: status %d, %d bytes", tc.name, c.status, c.length)
	}
	return h, r
}

// TestRejectionAllocations counts: what is constant in a rejection is made by
// New. What is left is the Error and the values of the fields, which are each
// request's own.
func TestRejectionAllocations(t *testing.T) {
	for i, tc := range rejections {
		h, r := rejecting(t, i)
		c := &client{header: http.Header{}}
		got := testing.AllocsPerRun(1000, func() {
			c.next()
			h.ServeHTTP(c, r)
		})
		if got > tc.allocs {
			t.Errorf("%s: %v allocations, want %v at most", tc.name, got, tc.allocs)
		}
	}
}

func BenchmarkReject(b *testing.B) {
	for i, tc := range rejections {
		b.Run(tc.name, func(b *testing.B) {
			h, r := rejecting(b, i)
			c := &client{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				c.next()
				h.ServeHTTP(c, r)
			}
		})
	}
}

// A signature is one way to sign JWTs, with what the standard library does to
// check one.
type signature struct {
	alg   string
	jwk   string
	sign  func(input []byte) []byte
	check func(input, signature []byte) bool
}

func signatures(tb testing.TB) []signature {
	must := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	point, err := ecKey.PublicKey.Bytes()
	must(err)
	edPublic := benchKey().Public().(ed25519.PublicKey)
	return []signature{
		{
			"RS256", fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB"}`, b64(rsaKey.N.Bytes())),
			func(input []byte) []byte {
				sum := sha256.Sum256(input)
				signed, err := rsaKey.Sign(nil, sum[:], crypto.SHA256)
				must(err)
				return signed
			},
			func(input, signed []byte) bool {
				sum := sha256.Sum256(input)
				return rsa.VerifyPKCS1v15(&rsaKey.PublicKey, crypto.SHA256, sum[:], signed) == nil
			},
		},
		{
			"ES256", fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, b64(point[1:33]), b64(point[33:])),
			func(input []byte) []byte {
				sum := sha256.Sum256(input)
				r, s, err := ecdsa.Sign(rand.Reader, ecKey, sum[:])
				must(err)
				return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
			},
			func(input, signed []byte) bool {
				sum := sha256.Sum256(input)
				r, s := new(big.Int).SetBytes(signed[:32]), new(big.Int).SetBytes(signed[32:])
				return ecdsa.Verify(&ecKey.PublicKey, sum[:], r, s)
			},
		},
		{
			"EdDSA", fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":%q}`, b64(edPublic)),
			func(input []byte) []byte { return ed25519.Sign(benchKey(), input) },
			func(input, signed []byte) bool { return ed25519.Verify(edPublic, input, signed) },
		},
	}
}

// jwt returns a JWT of a usual size, and what is signed of it.
func (s signature) jwt() (jwt, input string, signed []byte) {
	now := time.Now()
	input = b64(fmt.Appendf(nil, `{"alg":%q,"kid":"k1","typ":"at+jwt"}`, s.alg)) + "." + b64(fmt.Appendf(nil,
		`{"iss":%q,"aud":%q,"sub":"5f1c4a9e-2d0b-4c53-9a52-0b6f2f7d6c11","client_id":"app","jti":"8f1e0b6c-3f0d-4f55-8a0e",`+
			`"scope":"openid profile orders:read orders:write","iat":%d,"exp":%d,"purpose":"access_token","roles":["customer","beta"]}`,
		benchIssuer, benchAudience, now.Unix(), now.Add(24*time.Hour).Unix()))
	signed = s.sign([]byte(input))
	return input + "." + b64(signed), input, signed
}

// loopback is an authorization server behind a socket, which answers at once
// and allocates nothing: it knows a request by its end.
func loopback(tb testing.TB, jwks, jwt string) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	answer := func(mediaType, body string) []byte {
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
			mediaType, len(body), body)
	}
	keys, token := answer("application/jwk-set+json", jwks), answer("application/jwt", jwt)
	serve := func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		buf, n := make([]byte, 4096), 0
		for {
			more, err := conn.Read(buf[n:])
			if n += more; err != nil {
				return
			}
			switch got := buf[:n]; {
			case bytes.HasPrefix(got, []byte("GET ")) && bytes.HasSuffix(got, []byte("\r\n\r\n")):
				_, err = conn.Write(keys)
			case bytes.HasSuffix(got, []byte("token_type_hint=access_token")):
				_, err = conn.Write(token)
			default:
				continue
			}
			if n = 0; err != nil {
				return
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return "http://" + l.Addr().String()
}

// BenchmarkMiss is the whole way of a request with a new token, over a real
// connection. Beside it are the parts that are not ours: the exchange by
// net/http alone, and the signature alone.
func BenchmarkMiss(b *testing.B) {
	for _, s := range signatures(b) {
		jwt, input, signed := s.jwt()
		jwks := strings.Replace(`{"keys":[`+s.jwk+`]}`, `{"kty"`, `{"kid":"k1","kty"`, 1)
		url := loopback(b, jwks, jwt)
		b.Run(s.alg+"/phantom", func(b *testing.B) {
			m := new(benchServer).middleware(b, phantom.WithHTTPClient(&http.Client{}),
				phantom.WithIntrospectionEndpoint(url+"/introspect"), phantom.WithJWKSURL(url+"/jwks"))
			h, r, c := m.Handler(quiet), benchRequest(""), &client{header: http.Header{}}
			i, value := 0, []string{""}
			r.Header["Authorization"] = value
			b.ReportAllocs()
			for b.Loop() {
				value[0] = fmt.Sprintf("Bearer %036d", i)
				if h.ServeHTTP(c, r); c.status != 0 {
					b.Fatalf("status %d", c.status)
				}
				i++
			}
		})
		b.Run(s.alg+"/nethttp", func(b *testing.B) {
			transport := &http.Transport{DisableCompression: true}
			defer transport.CloseIdleConnections()
			b.ReportAllocs()
			for b.Loop() {
				exchange(b, transport, url)
			}
		})
		b.Run(s.alg+"/signature", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !s.check([]byte(input), signed) {
					b.Fatal("does not verify")
				}
			}
		})
	}
}

// exchange asks for a JWT with net/http alone, with the fields that RFC 7662
// and the server need.
func exchange(tb testing.TB, transport http.RoundTripper, url string) {
	ctx := tb.Context()
	const form = "token=000000000000000000000000000000000000&token_type_hint=access_token"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/introspect", strings.NewReader(form))
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Accept", "application/jwt")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("gateway_client", "s3cr3t-of-the-gateway")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		tb.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) == 0 {
		tb.Fatal(err)
	}
	_ = resp.Body.Close()
}
