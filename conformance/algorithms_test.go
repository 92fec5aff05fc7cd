package conformance_test

import "testing"

// A JWT of each algorithm that is on by default is accepted.
func TestAllAlgorithms(t *testing.T) {
	for _, alg := range allAlgorithms {
		if got := judge(t, mint(alg, claims(nil))); got != codeOK {
			t.Errorf("%s: %s", alg, got)
		}
	}
}
