package jose_test

import (
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestWhatIsUsedOfJWX keeps the parts of jwx that parse leniently, or fetch,
// out of the package: of jws, only the functions named here are used.
func TestWhatIsUsedOfJWX(t *testing.T) {
	const jwx = "github.com/lestrrat-go/jwx/v2/"
	allowed := []string{jwx + "jwa", jwx + "jws"}
	uses := []string{"jwa.SignatureAlgorithm", "jws.NewSigner", "jws.NewVerifier"}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if strings.Contains(path, ".") && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
		source := string(must(os.ReadFile(name)))
		for _, line := range strings.Split(source, "\n") {
			code, _, _ := strings.Cut(line, "//")
			for _, use := range uses {
				code = strings.ReplaceAll(code, use+"(", "")
			}
			for _, pkg := range []string{"jwa.", "jws."} {
				if strings.Contains(code, pkg) {
					t.Errorf("%s: another use of jwx: %s", name, strings.TrimSpace(line))
				}
			}
		}
	}
}
