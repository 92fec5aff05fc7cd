package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/perf/benchfmt"
)

const (
	requestsFile = "requests.txt"
	fleetFile    = "fleet.json"
)

// read returns the charts of the figures in a folder.
func read(folder string) ([]chart, error) {
	medians, machine, err := readRequests(filepath.Join(folder, requestsFile))
	if err != nil {
		return nil, err
	}
	hit := chart{
		Name: "hit", Title: "A request with a good token, beside the bare copy of the request",
		Note:    "Each step of the scale is ten times the one before. auth0 verifies the JWT with each request. " + machine,
		Decades: true, Unit: " ×",
	}
	growth := chart{
		Name: "growth", Title: "A request with one of many remembered tokens, beside the bare copy",
		Note: "Tokens drawn at random. " + machine, Unit: " ×",
	}
	for _, b := range []struct {
		chart *chart
		name  string
		label string
		ours  bool
	}{
		{&hit, "Request/Floor", "the copy alone", false},
		{&hit, "Request/Phantom", "phantom", true},
		{&hit, "Request/Auth0v2", "auth0 v2", false},
		{&hit, "Request/Auth0v3", "auth0 v3", false},
		{&growth, "Growth/tokens=1000", "1,000 tokens", true},
		{&growth, "Growth/tokens=10000", "10,000", true},
		{&growth, "Growth/tokens=100000", "100,000", true},
		{&growth, "Growth/tokens=1000000", "1,000,000", true},
	} {
		value, ok := medians[b.name]
		if !ok {
			return nil, fmt.Errorf("%s: no result of %s", requestsFile, b.name)
		}
		b.chart.Bars = append(b.chart.Bars, bar{b.label, value, b.ours})
	}
	fleet, err := readFleet(filepath.Join(folder, fleetFile))
	if err != nil {
		return nil, err
	}
	return []chart{hit, growth, fleet}, nil
}

// readRequests returns the median x-floor of each benchmark, and where it ran.
func readRequests(file string) (medians map[string]float64, machine string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	values := map[string][]float64{}
	reader := benchfmt.NewReader(f, file)
	for reader.Scan() {
		switch record := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, "", record
		case *benchfmt.Result:
			machine = fmt.Sprintf("%s, %s processors, %s, %s.", record.GetConfig("cpu"), record.GetConfig("processors"),
				record.GetConfig("go"), record.GetConfig("date"))
			if ratio, ok := record.Value("x-floor"); ok {
				name := record.Name.Full()
				if i := slices.Index(name, '-'); i >= 0 { // the processors
					name = name[:i]
				}
				values[string(name)] = append(values[string(name)], ratio)
			}
		}
	}
	medians = map[string]float64{}
	for name, ratios := range values {
		slices.Sort(ratios)
		medians[name] = ratios[len(ratios)/2]
	}
	return medians, machine, reader.Err()
}

// A figure is one of the command fleet.
type figure struct {
	Case, Name string
	Store      bool
	Value      float64
}

// readFleet returns the chart of what four replicas ask.
func readFleet(file string) (chart, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return chart{}, err
	}
	var report struct {
		Date, Go, Machine, Engine string
		Figures                   []figure
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return chart{}, fmt.Errorf("%s: %w", file, err)
	}
	fleet := chart{
		Name: "fleet", Title: "Lookups for each token, by four replicas",
		Note: fmt.Sprintf("%s, %s, %s, %s.", report.Machine, report.Go, report.Engine, report.Date[:min(10, len(report.Date))]),
	}
	for _, b := range []struct {
		letter, name, label string
		store               bool
	}{
		{"a", "lookups per token and MaxTTL", "in use, each MaxTTL", false},
		{"a", "lookups per token and MaxTTL", "the same, with a Store", true},
		{"b", "lookups per token", "a rolling update", false},
		{"b", "lookups per token", "the same, with a Store", true},
	} {
		i := slices.IndexFunc(report.Figures, func(f figure) bool {
			return f.Case == b.letter && f.Name == b.name && f.Store == b.store
		})
		if i < 0 {
			return chart{}, fmt.Errorf("%s: no figure %q of case %s", file, b.name, b.letter)
		}
		fleet.Bars = append(fleet.Bars, bar{b.label, report.Figures[i].Value, b.store})
	}
	return fleet, nil
}
