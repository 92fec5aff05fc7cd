//go:build race

package phantomotel_test

const raceDetector = true
