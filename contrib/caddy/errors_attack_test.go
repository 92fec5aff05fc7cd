package phantomcaddy_test

import (
	"net/http"
	"testing"
)

// Caddy gives the routes of handle_errors the request as it came. So they need
// a phantom of their own before what they proxy to.
func TestRoutesForErrorsNeedAPhantom(t *testing.T) {
	s := newSite(t)
	s.start(t, "phantom {\n"+s.settings()+"}\nreverse_proxy "+freeAddress(t)+
		"\nhandle_errors {\nphantom {\n"+s.settings()+"}\nreverse_proxy "+s.api.Listener.Addr().String()+"\n}")
	token := s.issue(nil)
	a := s.get(t, "/x", token)
	checkJWT(t, s.served(t, a))
	s.refused(t, s.send(t, "GET /x", nil, ""), http.StatusUnauthorized, `Bearer realm="api"`)
	if n := s.as.Introspections(); n != 1 {
		t.Errorf("%d lookups", n)
	}
}
