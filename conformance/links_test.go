package conformance_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// documents are what a reader is led to: README.md and its neighbours, and all
// of docs.
func documents(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../*.md", "../docs/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 10 {
		t.Fatalf("only %q", files)
	}
	return files
}

// The README can be read in one sitting.
func TestReadmeIsShort(t *testing.T) {
	if lines := bytes.Count(must(os.ReadFile("../README.md")), []byte("\n")); lines > 200 {
		t.Errorf("README.md has %d lines, which is more than 200", lines)
	}
}

var (
	fence    = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan = regexp.MustCompile("`[^`\n]+`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	picture  = regexp.MustCompile(`(?:src|srcset)="([^"]+)"`)
)

// Links in the documents lead to files and headings that exist. Those to other
// hosts are not followed.
func TestDocumentLinks(t *testing.T) {
	count := 0
	for _, file := range documents(t) {
		text := codeSpan.ReplaceAllString(fence.ReplaceAllString(string(must(os.ReadFile(file))), ""), "")
		for _, match := range append(link.FindAllStringSubmatch(text, -1), picture.FindAllStringSubmatch(text, -1)...) {
			path, anchor, hasAnchor := strings.Cut(match[1], "#")
			if strings.Contains(path, ":") {
				continue
			}
			count++
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), filepath.FromSlash(path))
			}
			if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s does not exist", file, match[1])
			} else if hasAnchor && !anchors(t, target)[anchor] {
				t.Errorf("%s: %s has no heading for #%s", file, target, anchor)
			}
		}
	}
	if count < 50 {
		t.Errorf("%d links", count)
	}
}

// anchors are the names by which the headings of a document can be linked to,
// as GitHub makes them.
func anchors(t *testing.T, file string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for line := range strings.Lines(fence.ReplaceAllString(string(must(os.ReadFile(file))), "")) {
		heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		base := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(heading))
		name := base
		for n := 1; names[name]; n++ {
			name = base + "-" + strconv.Itoa(n)
		}
		names[name] = true
	}
	return names
}
