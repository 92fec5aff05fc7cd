package conformance_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// A closed port is an outage, and the client learns it at once: no time
// limit has to pass.
//
// Catalogue: N264.
func TestClosedPortIsUnavailable(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	m := as.networked("http://"+unusedPort(t), phantom.WithTimeout(time.Minute))
	begin := time.Now()
	if got := as.try(m, "opaque-token"); got != code503A {
		t.Error(got)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v: somebody waited for a time limit", took)
	}
	if as.logged("ERROR", "status=503 reason=as_unavailable issuer=https://as.test detail=connecting ") != 1 {
		t.Errorf("log:\n%s", as.logs.String())
	}
}

// resolve makes every name lookup of the test binary ask answer. It returns the
// addresses of the name and the response code.
func resolve(t *testing.T, answer func(name string) (addresses []string, code byte)) (queries *atomic.Int64) {
	queries = &atomic.Int64{}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		client, server := net.Pipe()
		context.AfterFunc(ctx, func() { _ = client.Close() }) // the resolver itself waits its own 5 s
		go func() {
			defer server.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(server, query); err != nil {
					return
				}
				queries.Add(1)
				reply := dnsReply(query, answer)
				if reply == nil {
					continue
				}
				if _, err := server.Write(binary.BigEndian.AppendUint16(nil, uint16(len(reply)))); err != nil {
					return
				}
				if _, err := server.Write(reply); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
	t.Cleanup(func() { net.DefaultResolver = before })
	return queries
}

// dnsReply answers a query (RFC 1035 section 4). A code of 255 is no answer.
func dnsReply(query []byte, answer func(string) ([]string, byte)) []byte {
	end := 12
	var labels []string
	for query[end] != 0 {
		n := int(query[end])
		labels = append(labels, string(query[end+1:end+1+n]))
		end += n + 1
	}
	end += 5
	addresses, code := answer(strings.Join(labels, "."))
	if code == 255 {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[end-4:])
	var records []byte
	count := 0
	for _, a := range addresses {
		ip := netip.MustParseAddr(a)
		if kind == 1 && ip.Is4() || kind == 28 && ip.Is6() {
			records = append(records, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(ip.AsSlice())))
			records = append(records, ip.AsSlice()...)
			count++
		}
	}
	reply := slices.Clone(query[:2])
	reply = append(reply, 0x81, 0x80|code, 0, 1, 0, byte(count), 0, 0, 0, 0)
	reply = append(reply, query[12:end]...)
	return append(reply, records...)
}

// A name that does not resolve is an outage. The lookup ends by its deadline
// even if the name server is silent.
func TestUnresolvedNameIsUnavailable(t *testing.T) {
	for _, tc := range []struct {
		name string
		code byte
	}{
		{"NXDOMAIN", 3},            // N265
		{"no answer in time", 255}, // N265
		{"SERVFAIL", 2},
		{"REFUSED", 5},
		{"a name without an address", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			queries := resolve(t, func(string) ([]string, byte) { return nil, tc.code })
			leaveNothing(t)
			as := newAS(t)
			m := as.networked("https://as.invalid", phantom.WithTimeout(300*time.Millisecond))
			if got := as.try(m, "opaque-token"); got != code503A {
				t.Error(got)
			}
			if queries.Load() == 0 {
				t.Error("nobody asked for the name")
			}
			if as.logged("ERROR", "reason=as_unavailable") != 1 {
				t.Errorf("log:\n%s", as.logs.String())
			}
		})
	}
}

// The server's name has an IPv6 address that refuses connections and an IPv4
// address that is live. The lookup reaches the live one.
//
// Catalogue: N284.
func TestRefusedIPv6FallsBackToIPv4(t *testing.T) {
	resolve(t, func(string) ([]string, byte) { return []string{"::1", "127.0.0.1"}, 0 })
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	s := listenTCP(t, func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) })
	m := as.networked("http://as.example.test:"+s.port(), phantom.WithInsecureHTTP())
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Errorf("%s, log:\n%s", got, as.logs.String())
	}
}

// The environment's proxy would read every token, so the transport does not
// use it. net/http reads the environment once; the test therefore runs
// itself in a process of its own.
func TestNoProxyFromEnvironment(t *testing.T) {
	const inner = "PHANTOM_TEST_PROXY"
	leaveNothing(t)
	if os.Getenv(inner) == "" {
		proxy := listenTCP(t, func(p *peer) { p.serve(func(string) string { return rawAnswer(502, "text/plain", "") }) })
		test := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		test.Env = append(os.Environ(), inner+"=1", "NO_PROXY=", "no_proxy=")
		for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
			test.Env = append(test.Env, name+"="+proxy.url())
		}
		if out, err := test.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if n := proxy.opened.Load(); n != 0 {
			t.Errorf("%d connections to the proxy", n)
		}
		return
	}
	resolve(t, func(string) ([]string, byte) { return []string{"127.0.0.1"}, 0 })
	as := newAS(t)
	good := mint("ES256", claims(nil))
	s := listenTCP(t, func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) })
	base := "http://as.example.test:" + s.port()
	for _, tc := range []struct {
		name    string
		options []phantom.Option
	}{
		{"own transport", []phantom.Option{phantom.WithInsecureHTTP()}},
		{"client without a transport", []phantom.Option{phantom.WithInsecureHTTP(), phantom.WithHTTPClient(&http.Client{})}},
	} {
		if got := as.try(as.networked(base, tc.options...), "opaque-token"); got != codeOK {
			t.Errorf("%s: %s", tc.name, got)
		}
	}
}

// The Middleware neither keeps nor sends cookies, not even with a client
// that has a jar.
//
// Catalogue: A107.
func TestCookiesAreNotKept(t *testing.T) {
	jar := must(cookiejar.New(nil))
	for _, tc := range []struct {
		name    string
		options []phantom.Option
	}{
		{"own transport", nil},
		{"client with a jar", []phantom.Option{phantom.WithHTTPClient(&http.Client{Jar: jar, Timeout: time.Nanosecond})}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := mint("ES256", claims(nil))
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "session", Value: "sticky", Path: "/"})
				if got := r.Header["Cookie"]; got != nil {
					t.Errorf("Cookie %q", got)
				}
				answerJWT(good)(w, r)
			}
			s, _, _ := as.serveHTTP(nil)
			m := as.networked(s.URL, tc.options...)
			for i := range 3 {
				if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
					t.Error(got)
				}
			}
			if cookies := jar.Cookies(must(url.Parse(s.URL))); len(cookies) > 0 {
				t.Errorf("kept %v", cookies)
			}
		})
	}
}

// The Middleware follows no redirect: it would carry the token and the
// client's credentials elsewhere.
//
// Catalogue: A96.
func TestRedirectIsNotFollowedOverTheNetwork(t *testing.T) {
	leaveNothing(t)
	elsewhere := listenTCP(t, func(p *peer) { p.wait() })
	for _, status := range []int{301, 302, 303, 307, 308} {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.url()+endpointPath)
			w.WriteHeader(status)
		}
		s, _, _ := as.serveHTTP(nil)
		if got := as.try(as.networked(s.URL), "opaque-token"); got != code502A {
			t.Errorf("%d: %s", status, got)
		}
		if n := as.calls.Load(); n != 1 {
			t.Errorf("%d: %d attempts", status, n)
		}
	}
	if n := elsewhere.opened.Load(); n != 0 {
		t.Errorf("%d connections elsewhere", n)
	}
}
