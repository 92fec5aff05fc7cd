package conformance_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The catalogue and the tests name the same cases: each row has a test, in this
// folder or where the row says, and each code in a test's comment has a row.
func TestCatalogueAndTestsAgree(t *testing.T) {
	listed := map[string]bool{}
	row := regexp.MustCompile(`(?m)^\| ([A-Z][0-9]+) \|`)
	for _, match := range row.FindAllStringSubmatch(string(must(os.ReadFile("README.md"))), -1) {
		if listed[match[1]] {
			t.Errorf("README.md lists %s twice", match[1])
		}
		listed[match[1]] = true
	}
	tested := map[string]bool{}
	code := regexp.MustCompile(`\b[A-Z][0-9]{1,3}\b`)
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for line := range strings.Lines(string(must(os.ReadFile(path)))) {
			_, comment, _ := strings.Cut(line, "//")
			for _, c := range code.FindAllString(comment, -1) {
				if strings.Contains("RPAJKCDNLXYZQVSWBEFGHTO", c[:1]) && !listed[c] && strings.Contains(path, "conformance") {
					t.Errorf("%s: %s is not in README.md", path, c)
				}
				tested[c] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for c := range listed {
		if !tested[c] {
			t.Errorf("README.md lists %s, and no test names it", c)
		}
	}
	if len(listed) < 200 {
		t.Errorf("README.md lists %d cases", len(listed))
	}
}
