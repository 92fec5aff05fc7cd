package conformance_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Over a connection that is upgraded to h2c, requests would come that nobody
// has checked. So next and an upstream get no such offer, and cannot accept it.
// All else in Upgrade stays.
//
// Catalogue: P73.
func TestNoUpgradeToH2C(t *testing.T) {
	for offer, want := range map[string]string{
		"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n": "",
		"upgrade: H2C\r\n":                               "",
		"Upgrade: h2c-14, h2c-17/draft\r\n":              "",
		"Upgrade: foo, h2c ,websocket\r\n":               "foo, websocket",
		"Upgrade: h2c\r\nUpgrade: websocket\r\n":         "websocket",
		"Upgrade: websocket\r\nUpgrade:\t,h2c,,\r\n":     "websocket",
		"Upgrade: websocket\r\n":                         "websocket",
		"Upgrade: TLS/1.0\r\nUpgrade: not-h2c, h2cc\r\n": "TLS/1.0, not-h2c",
	} {
		up := newUpstream(t)
		for _, proxy := range up.proxies() {
			as := newAS(t)
			as.introspect = answerJWT(mint("ES256", claims(nil)))
			m := as.middleware()
			for _, mounting := range append(mountings(m), mounting{"Optional, no token", m.Optional}) {
				var got []string
				look := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					got = r.Header.Values("Upgrade")
					proxy.ServeHTTP(w, r)
				})
				credentials := "Authorization: Bearer " + as.secret("opaque-token") + "\r\n"
				if strings.Contains(mounting.name, "no token") {
					credentials = ""
				}
				up.headers = nil
				rec := exchange(t, mounting.wrap(look), "GET /orders HTTP/1.1\r\nHost: rs.test\r\n"+
					"Connection: Upgrade, HTTP2-Settings\r\n"+credentials+offer+"\r\n")
				how := fmt.Sprintf("%q, %s, %s", offer, proxy.name, mounting.name)
				if rec.Code != http.StatusOK || len(up.headers) != 1 {
					t.Fatalf("%s: status %d, %d requests upstream", how, rec.Code, len(up.headers))
				}
				if strings.Join(got, ", ") != want {
					t.Errorf("%s: next got Upgrade %q", how, got)
				}
				if strings.Contains(strings.ToLower(up.headers[0].Get("Upgrade")), "h2c") && want == "" {
					t.Errorf("%s: upstream got %v", how, up.headers[0])
				}
			}
		}
	}
}

// The tunnel itself: an upstream that speaks h2c answers 101 to the offer.
//
// Catalogue: P73.
func TestNoTunnelOfH2C(t *testing.T) {
	up := newUpstream(t)
	up.serve = func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(r.Header["Upgrade"], "h2c") {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "h2c")
			w.WriteHeader(http.StatusSwitchingProtocols)
		}
	}
	for _, proxy := range up.proxies() {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(nil)))
		conn, in := dial(t, as.middleware().Handler(proxy))
		must(fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: rs.test\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"+
			"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nAuthorization: Bearer %s\r\n\r\n", as.secret("opaque-token")))
		if answer := must(http.ReadResponse(in, nil)); answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", proxy.name, answer.Status)
		}
	}
}
