package conformance_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// docs/operating.md lists each message and each attribute that the library can
// log, and no others.
//
// Catalogue: O1.
func TestEachLineOfTheLogIsDocumented(t *testing.T) {
	document := string(must(os.ReadFile("../docs/operating.md")))
	file := must(parser.ParseFile(token.NewFileSet(), "../log.go", nil, 0))
	messages := messagesOf(file)
	if len(messages) < 10 {
		t.Fatalf("log.go has the messages %q", messages)
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(phantom: [^`]+)` \\|").FindAllStringSubmatch(document, -1) {
		listed = append(listed, row[1])
	}
	checkSame(t, "messages", messages, listed)

	_, attributes, _ := strings.Cut(document, "### Attributes")
	attributes, _, _ = strings.Cut(attributes, "\n### ")
	listed = nil
	for line := range strings.Lines(attributes) {
		if cell, found := strings.CutPrefix(line, "| `"); found {
			cell, _, _ = strings.Cut(cell, " |")
			for name := range strings.SplitSeq(cell, ",") {
				listed = append(listed, strings.Trim(name, "` "))
			}
		}
	}
	checkSame(t, "attributes", attributesOf(file), listed)

	_, reasons, _ := strings.Cut(document, "### Reasons")
	source := string(must(os.ReadFile("../errors.go")))
	for _, reason := range regexp.MustCompile(`Reason += "(\w+)"`).FindAllStringSubmatch(source, -1) {
		if !strings.Contains(reasons, "`"+reason[1]+"`") {
			t.Errorf("docs/operating.md lacks the reason %s", reason[1])
		}
	}
}

// Nothing but log.go writes lines, or the table would miss some.
//
// Catalogue: O1.
func TestLinesAreWrittenInOnePlace(t *testing.T) {
	for _, entry := range must(os.ReadDir("..")) {
		name := entry.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || name == "log.go" {
			continue
		}
		source := string(must(os.ReadFile("../" + name)))
		if found := regexp.MustCompile(`LogAttrs|\.Enabled\(|slog\.(Debug|Info|Warn|Error|Log|Default)\(`).FindString(source); found != "" {
			t.Errorf("%s has %s", name, found)
		}
	}
}

// messagesOf returns the constants that begin with msg.
func messagesOf(file *ast.File) (messages []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "msg") {
			return true
		}
		text := ""
		ast.Inspect(spec.Values[0], func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok {
				text += must(strconv.Unquote(literal.Value))
			}
			return true
		})
		messages = append(messages, text)
		return true
	})
	return messages
}

// attributesOf returns the names given to slog's functions, and to add.
func attributesOf(file *ast.File) (names []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 2 {
			return true
		}
		isAttr := false
		switch f := call.Fun.(type) {
		case *ast.Ident:
			isAttr = f.Name == "add"
		case *ast.SelectorExpr:
			of, _ := f.X.(*ast.Ident)
			isAttr = of != nil && of.Name == "slog"
		}
		if name, ok := call.Args[0].(*ast.BasicLit); ok && isAttr {
			names = append(names, must(strconv.Unquote(name.Value)))
		}
		return true
	})
	return names
}

func checkSame(t *testing.T, what string, have, listed []string) {
	t.Helper()
	for _, one := range have {
		if !slices.Contains(listed, one) {
			t.Errorf("docs/operating.md lacks one of the %s: %q", what, one)
		}
	}
	for _, one := range listed {
		if !slices.Contains(have, one) {
			t.Errorf("docs/operating.md has one of the %s that is not logged: %q", what, one)
		}
	}
}
