package phantomotel_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomotel"
	"github.com/phantom-token/phantom/phantomtest"
)

// promtool runs it, in the folder of the rules. It is in Debian's package
// prometheus.
func promtool(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") != "" || os.Getenv("PHANTOM_NEEDS_ENGINE") != "" {
			t.Fatal("there is no promtool")
		}
		t.Skip("there is no promtool")
	}
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	return string(out), err
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Prometheus takes the rules, and they do what their tests say.
//
// Catalogue: T13.
func TestRulesPassPromtool(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", "--lint-fatal", "rules/phantom.yaml"},
		{"test", "rules", "rules/phantom_test.yaml"},
	} {
		if out, err := promtool(t, args...); err != nil || !strings.Contains(out, "SUCCESS") {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// alerts are the blocks of the rules file that have one alert each.
func alerts(t *testing.T) (before string, blocks []string) {
	t.Helper()
	blocks = strings.Split(read(t, "rules/phantom.yaml"), "      - alert: ")
	if len(blocks) != 10 {
		t.Fatalf("%d alerts", len(blocks)-1)
	}
	return blocks[0], blocks[1:]
}

// Each threshold is tested: without a bound an alert no longer fires, or fires
// where it must not.
//
// Catalogue: T13.
func TestEachThresholdMatters(t *testing.T) {
	before, blocks := alerts(t)
	threshold := regexp.MustCompile(`(> |== )([0-9.]+)`)
	const never = "1e99"
	for i, block := range blocks {
		name, _, _ := strings.Cut(block, "\n")
		at := threshold.FindAllStringSubmatchIndex(strings.Split(block, "annotations:")[0], -1)
		if len(at) == 0 {
			t.Errorf("%s has no threshold", name)
		}
		for _, place := range at {
			changed := slices.Clone(blocks)
			changed[i] = block[:place[4]] + never + block[place[5]:]
			dir := t.TempDir()
			for file, text := range map[string]string{
				"phantom.yaml":      before + "      - alert: " + strings.Join(changed, "      - alert: "),
				"phantom_test.yaml": read(t, "rules/phantom_test.yaml"),
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := promtool(t, "test", "rules", filepath.Join(dir, "phantom_test.yaml")); err == nil {
				t.Errorf("%s: the test passes with %q raised\n%s", name, block[place[0]:place[1]], out)
			}
		}
	}
}

// Each alert says what has happened and what to do.
func TestEachAlertSaysWhatToDo(t *testing.T) {
	_, blocks := alerts(t)
	for _, block := range blocks {
		for _, part := range []string{"severity: ", "summary: ", "description: "} {
			if !strings.Contains(block, part) {
				t.Errorf("%s: no %s", strings.SplitN(block, "\n", 2)[0], part)
			}
		}
	}
}

// A target is an expression of the dashboard.
type target struct{ panel, expr, legend string }

// targets returns those of all panels, with values for Grafana's variables.
func targets(t *testing.T) (all []target) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			ID                 int
			Title, Description string
			Targets            []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard/phantom.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if n := len(dashboard.Panels); n < 9 || n > 12 {
		t.Errorf("%d panels", n)
	}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*")
	for i, p := range dashboard.Panels {
		if p.ID != i+1 || p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d, %q", p.ID, p.Title)
		}
		for _, one := range p.Targets {
			expr := variables.Replace(one.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("%s: a variable in %s", p.Title, expr)
			}
			all = append(all, target{p.Title, expr, one.LegendFormat})
		}
	}
	return all
}

// Prometheus takes each expression of the dashboard.
//
// Catalogue: T13.
func TestDashboardPassesPromtool(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, one := range targets(t) {
		fmt.Fprintf(&rules, "      - record: panel:expression:%d\n        expr: %q\n", i, one.expr)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "check", "rules", "--lint-fatal", file); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// exported returns what OpenTelemetry's Prometheus exporter writes in a run:
// the names of the series, and of each label the values. What a scrape adds is
// there too.
func exported(t *testing.T) (names map[string]bool, labels map[string]map[string]bool) {
	t.Helper()
	registry := prometheus.NewRegistry()
	exporter := must(otelprom.New(otelprom.WithRegisterer(registry)))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	as := phantomtest.New()
	m := must(phantom.New(append(as.Options(),
		phantomotel.Instrument(phantomotel.WithMeterProvider(meters), phantomotel.WithName("edge")),
		phantom.WithStore(phantomtest.NewStore(), []byte(strings.Repeat("k", 32))))...))
	h := m.Handler(nothing)
	for _, token := range []string{as.Issue(nil), "junk"} {
		send(h, request(t.Context(), token))
	}
	as.Fail(http.StatusServiceUnavailable, 1)
	send(h, request(t.Context(), "while-it-is-down"))
	names = map[string]bool{}
	labels = map[string]map[string]bool{"job": nil, "instance": nil, "le": nil}
	for _, family := range must(registry.Gather()) {
		name := family.GetName()
		names[name] = true
		for _, metric := range family.GetMetric() {
			if metric.GetHistogram() != nil {
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					names[name+suffix] = true
				}
			}
			for _, pair := range metric.GetLabel() {
				if labels[pair.GetName()] == nil {
					labels[pair.GetName()] = map[string]bool{}
				}
				labels[pair.GetName()][pair.GetValue()] = true
			}
		}
	}
	labels["phantom_lookup_refresh"]["true"], labels["phantom_lookup_shared"]["true"] = true, true // none in this run
	return names, labels
}

var (
	matchers  = regexp.MustCompile(`\{([^}]*)\}`)
	matcher   = regexp.MustCompile(`([a-z_]+)(=~?)"([^"]*)"`)
	groupings = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
	selector  = regexp.MustCompile(`\b(?:job:)?phantom_[a-z0-9_:]+`)
	shown     = regexp.MustCompile(`\{\{ ?(?:\$labels\.)?([a-z_]+)[ }]`)
)

// All that rules and dashboard speak of is exported.
//
// Catalogue: T13.
func TestRulesAndDashboardNameWhatIsExported(t *testing.T) {
	names, labels := exported(t)
	rules := read(t, "rules/phantom.yaml")
	for _, record := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(rules, -1) {
		names[record[1]] = true
	}
	var exprs []string
	for _, block := range regexp.MustCompile(`(?m)^      - (?:alert|record): `).Split(rules, -1)[1:] {
		_, expr, _ := strings.Cut(block, "expr: ")
		expr = regexp.MustCompile(`(?s)\n\s*(for|labels|#).*`).ReplaceAllString(expr, "")
		exprs = append(exprs, expr)
		for _, label := range shown.FindAllStringSubmatch(block, -1) {
			if _, ok := labels[label[1]]; !ok && label[1] != "value" {
				t.Errorf("there is no label %s: %s", label[1], block)
			}
		}
	}
	for _, one := range targets(t) {
		exprs = append(exprs, one.expr)
		for _, label := range shown.FindAllStringSubmatch(one.legend, -1) {
			if _, ok := labels[label[1]]; !ok {
				t.Errorf("%s: there is no label %s", one.panel, label[1])
			}
		}
	}
	used := map[string]bool{}
	for _, expr := range exprs {
		for _, braces := range matchers.FindAllStringSubmatch(expr, -1) {
			for _, m := range matcher.FindAllStringSubmatch(braces[1], -1) {
				values, ok := labels[m[1]]
				if !ok {
					t.Errorf("there is no label %s: %s", m[1], expr)
				}
				for value := range strings.SplitSeq(m[3], "|") {
					if values != nil && !values[value] {
						t.Errorf("%s is never %q: %s", m[1], value, expr)
					}
				}
			}
		}
		for _, group := range groupings.FindAllStringSubmatch(expr, -1) {
			for label := range strings.SplitSeq(group[1], ", ") {
				if _, ok := labels[label]; !ok {
					t.Errorf("there is no label %s: %s", label, expr)
				}
			}
		}
		bare := groupings.ReplaceAllString(matchers.ReplaceAllString(expr, ""), "")
		found := selector.FindAllString(bare, -1)
		if len(found) == 0 {
			t.Errorf("no metric in %s", expr)
		}
		for _, name := range found {
			used[name] = true
			if !names[name] {
				t.Errorf("there is no metric %s: %s", name, expr)
			}
		}
	}
	for name := range names {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if !used[name] && !used[base+"_bucket"] && strings.HasPrefix(name, "phantom_") {
			t.Errorf("%s is neither in a rule nor on the dashboard", name)
		}
	}
	if len(used) < 14 {
		t.Errorf("only %v", slices.Sorted(maps.Keys(used)))
	}
}
