package phantom_test

import "testing"

func TestAllAlgorithms(t *testing.T) {
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		if got := judge(t, mint(alg, claims(nil))); got != codeOK {
			t.Errorf("%s: %s", alg, got)
		}
	}
}
