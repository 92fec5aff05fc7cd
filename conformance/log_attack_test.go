package conformance_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// Endpoints in the metadata that are longer than any real one fill no log.
//
// Catalogue: O14.
func TestLongEndpointsFillNoLog(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for name, changes := range map[string]map[string]any{
		"path":         {"introspection_endpoint": issuer + "/" + long},
		"path of keys": {"jwks_uri": issuer + "/" + long},
		"host":         {"introspection_endpoint": "https://" + long + "/introspect"},
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			as.metadata = answer(200, "application/json", metadataOf(issuer, changes))
			expect(t, "outcome", as.try(as.discoverer(), "opaque-token"), code502A)
			if log := as.logs.String(); len(log) > 2000 || !strings.Contains(log, "too long") {
				t.Errorf("%d bytes of log", len(log))
			}
		})
	}
}

// A logger that panics about a copy in the Store costs no request.
//
// Catalogue: O11.
func TestLoggerThatPanicsAboutACopyCostsNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.replica(forger{phantomtest.NewStore()}, phantom.WithLogger(slog.New(panickingHandler{})))
		if tok, err := m.Verify(t.Context(), as.secret(opaqueToken)); tok == nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

// A forger is a Store that has something of each token.
type forger struct{ *phantomtest.Store }

func (forger) Get(context.Context, string) ([]byte, time.Duration, error) {
	return []byte("no copy"), time.Minute, nil
}
