package phantomotel_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomotel"
	"github.com/phantom-token/phantom/phantomtest"
)

// A program hands its providers to OpenTelemetry (otel.SetMeterProvider,
// otel.SetTracerProvider), and says Instrument() and no more. This one reads
// the metrics itself.
func ExampleInstrument() {
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	as := phantomtest.New()
	auth, err := phantom.New(append(as.Options(),
		phantomotel.Instrument(phantomotel.WithMeterProvider(meters), phantomotel.WithName("orders")))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := auth.Handler(http.NotFoundHandler())
	r := httptest.NewRequest(http.MethodGet, "/orders", nil)
	r.Header.Set("Authorization", "Bearer "+as.Issue(nil))
	for range 3 {
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}

	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range all.ScopeMetrics[0].Metrics {
		if tokens, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "phantom.cache.tokens" {
			for _, p := range tokens.DataPoints {
				if outcome, _ := p.Attributes.Value("phantom.cache.outcome"); p.Value > 0 {
					fmt.Println(outcome.AsString(), p.Value)
				}
			}
		}
	}
	// Unordered output:
	// hit 2
	// miss 1
}
