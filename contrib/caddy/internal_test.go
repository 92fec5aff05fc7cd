package phantomcaddy

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// Over HTTP/2 and HTTP/3 a websocket comes as a CONNECT.
//
// Catalogue: P59.
func TestConnectOpensAWebsocket(t *testing.T) {
	for _, tc := range []struct {
		major           int
		proto, protocol string
		want            int
	}{
		{2, "HTTP/2.0", "websocket", 200},
		{3, "websocket", "", 200},
		{2, "HTTP/2.0", "", 405},
		{2, "HTTP/2.0", "connect-udp", 405},
		{3, "HTTP/3.0", "websocket", 405},
		{3, "connect-udp", "", 405},
		{1, "HTTP/1.1", "websocket", 405},
	} {
		h := &Handler{protected: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		r := httptest.NewRequest(http.MethodConnect, "/chat", nil)
		r.ProtoMajor, r.Proto = tc.major, tc.proto
		if tc.protocol != "" {
			r.Header[":protocol"] = []string{tc.protocol}
		}
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, r, nil); err != nil || w.Code != tc.want {
			t.Errorf("%+v: status %d, %v", tc, w.Code, err)
		}
	}
}
