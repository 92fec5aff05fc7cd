//go:build !race

package phantom_test

const scale = 1
