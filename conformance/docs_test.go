package conformance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// A goBlock is a piece of Go code in a document.
type goBlock struct {
	place string // file and line
	code  string
	from  string // the file of the repository that it is an excerpt of
}

func goBlocks(t *testing.T, file string) (blocks []goBlock) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range goFence.FindAllSubmatchIndex(text, -1) {
		block := goBlock{code: string(text[at[4]:at[5]])}
		block.place = fmt.Sprintf("%s:%d", filepath.Base(file), bytes.Count(text[:at[4]], []byte("\n"))+1)
		if at[2] >= 0 {
			block.from = string(text[at[2]:at[3]])
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// goFence finds a piece of Go code, and the comment above it that names a file:
//
//	<!-- from examples/chi/api.go -->
var goFence = regexp.MustCompile("(?ms)(?:^<!-- from (\\S+) -->\n)?^```go\n(.*?)^```")

// docPackages are what the code in documents may use without an import.
var docPackages = map[string]string{
	"context": "context", "crypto": "crypto", "errors": "errors", "fmt": "fmt", "http": "net/http",
	"httptest": "net/http/httptest", "httputil": "net/http/httputil", "log": "log", "slog": "log/slog", "os": "os", "strings": "strings",
	"testing": "testing", "time": "time", "url": "net/url", "json": "encoding/json", "x509": "crypto/x509",
	"phantom":     "github.com/phantom-token/phantom",
	"dpop":        "github.com/phantom-token/phantom/dpop",
	"mtls":        "github.com/phantom-token/phantom/mtls",
	"mint":        "github.com/phantom-token/phantom/mint",
	"phantomtest": "github.com/phantom-token/phantom/phantomtest",
	"resource":    "github.com/phantom-token/phantom/resource",
	"stepup":      "github.com/phantom-token/phantom/stepup",
}

// docNames are the variables that stand for what the text around a piece of
// code is about.
const docNames = `ctx context.Context, t *testing.T, mux *http.ServeMux, orders http.Handler, secret string,
	key crypto.Signer, introspector phantom.Introspector, minter *mint.Minter, options []phantom.Option,
	auth *phantom.Middleware`

// Each piece of Go code in the documents is a program, compiles inside a
// function with docNames and docPackages, or is an excerpt of a file that is
// compiled where it lies.
func TestDocumentsCompile(t *testing.T) {
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", exportData(t))
	compiled := 0
	for _, file := range documents(t) {
		if filepath.Base(file) == "CONTRIBUTING.md" {
			continue // it has a piece of a test
		}
		for _, block := range goBlocks(t, file) {
			if block.from != "" {
				isExcerpt(t, block)
				compiled++
				continue
			}
			if formatted, err := format.Source([]byte(block.code)); err != nil || string(formatted) != block.code {
				t.Errorf("%s: not formatted: %v", block.place, err)
			}
			source := block.code
			if !strings.HasPrefix(source, "package ") {
				source = docPrelude(docPackages) + "func _(" + docNames + ") {\n{\n" + block.code + "}\n}\n"
			}
			parsed, err := parser.ParseFile(fset, block.place, source, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			config := types.Config{Importer: imports, Error: func(err error) {
				// What is unused in the piece is used by the reader.
				if e, ok := err.(types.Error); !ok || !e.Soft {
					t.Errorf("%s: %v", block.place, err)
				}
			}}
			_, _ = config.Check("docs", fset, []*ast.File{parsed}, nil)
			compiled++
		}
	}
	if compiled < 30 {
		t.Errorf("%d pieces of code", compiled)
	}
}

// isExcerpt checks that the lines of a piece follow each other in its file, at
// whatever depth they stand there.
func isExcerpt(t *testing.T, block goBlock) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(block.from)))
	if err != nil {
		t.Errorf("%s: %v", block.place, err)
		return
	}
	for depth := range 4 {
		indented := regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(block.code, strings.Repeat("\t", depth)+"$1")
		if strings.Contains("\n"+string(source), "\n"+indented) {
			return
		}
	}
	t.Errorf("%s is no excerpt of %s", block.place, block.from)
}

// docPrelude is the head of a file with these imports.
func docPrelude(packages map[string]string) string {
	var b strings.Builder
	b.WriteString("package docs\nimport (\n")
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		fmt.Fprintf(&b, "%s %q\n", name, packages[name])
	}
	b.WriteString(")\n")
	return b.String()
}

// exportData finds what the compiler knows of the packages.
func exportData(t *testing.T) func(path string) (io.ReadCloser, error) {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}}={{.Export}}"}
	out := goCommand(t, append(args, slices.Sorted(maps.Values(docPackages))...)...)
	files := map[string]string{}
	for line := range strings.Lines(out) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
}

// New accepts the options of each server, in docs/servers.md and in README.md.
func TestServersOptions(t *testing.T) {
	var calls strings.Builder
	for _, block := range append(goBlocks(t, "../docs/servers.md"), goBlocks(t, "../README.md")...) {
		if strings.HasPrefix(block.code, "package ") || !strings.Contains(block.code, "phantom.New(") {
			continue // a whole program, or what main makes here
		}
		fmt.Fprintf(&calls, "check(%q, func() error {\n%s\n_ = auth\nreturn err\n})\n", block.place, block.code)
	}
	program := `type server struct{}

func (server) Introspect(context.Context, string) (*phantom.Introspection, error) { return nil, nil }

func check(place string, configure func() error) {
	if err := configure(); err != nil {
		fmt.Println(place, err)
	}
}

func main() {
	const secret = "not in code"
	introspector := server{}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	minter, err := mint.New("https://gateway.example.com", []mint.Key{{Signer: key}}, mint.WithAudience("orders"))
	if err != nil {
		log.Fatal(err)
	}
` + calls.String() + `
	fmt.Println("done")
}
`
	packages := maps.Clone(docPackages)
	maps.Copy(packages, map[string]string{"rsa": "crypto/rsa", "rand": "crypto/rand"})
	maps.DeleteFunc(packages, func(name, _ string) bool {
		return !regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(program)
	})
	program = strings.Replace(docPrelude(packages), "package docs", "package main", 1) + program
	if out := runInModule(t, program); out != "done\n" {
		t.Errorf("New says\n%s", out)
	}
}

// runInModule runs a program that is in no file of the module.
func runInModule(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	file, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	replaced, err := json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(root, "conformance", "program", "main.go"): file},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{file: []byte(program), overlay: replaced} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return goCommand(t, "run", "-overlay", overlay, "./conformance/program")
}

func goCommand(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", args[0], err, &stderr)
	}
	return string(out)
}

// The table of outcomes in the package documentation has each reason once, with
// the status that it is answered with.
func TestOutcomesInPackageDocumentation(t *testing.T) {
	row := regexp.MustCompile(`(?m)^//\t(\d{3}) +(\w+) `)
	listed := map[string]bool{}
	for _, match := range row.FindAllStringSubmatch(string(must(os.ReadFile("../doc.go"))), -1) {
		status := (&phantom.Error{Reason: phantom.Reason(match[2])}).StatusCode()
		if fmt.Sprint(status) != match[1] {
			t.Errorf("doc.go says %s of %s, which is %d", match[1], match[2], status)
		}
		listed[match[2]] = true
	}
	reason := regexp.MustCompile(`(?m)^\tReason\w+ +Reason = "(\w+)"`)
	reasons := reason.FindAllStringSubmatch(string(must(os.ReadFile("../errors.go"))), -1)
	for _, match := range reasons {
		if !listed[match[1]] {
			t.Errorf("doc.go lacks %s", match[1])
		}
	}
	if len(listed) != len(reasons) {
		t.Errorf("doc.go lists %d reasons of %d", len(listed), len(reasons))
	}
}
