//go:build race

package conformance_test

// Catalogue: L293.

// The race detector makes everything several times slower, so tests of many
// requests make do with a tenth.
const scale = 10
