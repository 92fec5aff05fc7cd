//go:build !race

package conformance_test

const scale = 1
