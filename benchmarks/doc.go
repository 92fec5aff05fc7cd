// Package benchmarks compares what an authenticated request costs behind
// phantom with what it costs behind other Go libraries:
//
//   - Floor: a wrapper that checks nothing, and only makes the copy of the
//     request that a middleware has to make which hands another token on
//   - Phantom: an opaque token that is in phantom's cache
//   - Auth0v2, Auth0v3: github.com/auth0/go-jwt-middleware, which is given the
//     JWT itself and verifies it with each request; the key is at hand
//
// Times are one machine's. The ratio x-floor is measured in turn with the floor
// and holds for others as well; look at the median of some runs:
//
//	go test -run '^$' -bench . -benchtime 2s -count 6 .
//
// BenchmarkGrowth is about phantom alone, with more and more tokens. The command
// pictures draws what was measured (docs/cost).
//
// It is a module of its own, so that users of phantom do not depend on the
// other libraries.
package benchmarks
