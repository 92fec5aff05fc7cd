package resource_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
	"github.com/phantom-token/phantom/resource"
)

// A client without a token is told where the metadata are, and there it learns
// where to get one.
func Example() {
	metadata, err := resource.New(resource.Metadata{
		Resource:             "https://rs.test/mcp",
		AuthorizationServers: []string{"https://as.test"},
	})
	if err != nil {
		log.Fatal(err)
	}
	as := phantomtest.New(phantomtest.WithAudience("https://rs.test/mcp"))
	auth, err := phantom.New(append(as.Options(), phantom.WithResourceMetadataURL(metadata.URL()))...)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(metadata.Path(), metadata)
	mux.Handle("/mcp", auth.Handler(http.NotFoundHandler()))

	get := func(url string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
		return w
	}
	fmt.Println(get("https://rs.test/mcp").Header().Get("WWW-Authenticate"))
	fmt.Println(get(metadata.URL()).Body)
	// Output:
	// Bearer realm="api", resource_metadata="https://rs.test/.well-known/oauth-protected-resource/mcp"
	// {"authorization_servers":["https://as.test"],"bearer_methods_supported":["header"],"resource":"https://rs.test/mcp"}
}

// All mistakes are reported at once.
func ExampleNew_mistakes() {
	_, err := resource.New(resource.Metadata{
		Resource: "http://rs.test/mcp",
		Scopes:   []string{"orders:read orders:write"},
		Extra:    map[string]any{"resource": "https://rs.test"},
	})
	fmt.Println(err)
	// Output:
	// phantom: resource.Metadata.Resource: "http://rs.test/mcp" is not https
	// phantom: resource.Metadata.AuthorizationServers: is required
	// phantom: resource.Metadata.Scopes: "orders:read orders:write" is not a scope-token
	// phantom: resource.Metadata.Extra: "resource" is a registered member
}
