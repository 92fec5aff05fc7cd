// Package dpop checks proofs of possession (RFC 9449, DPoP): a client signs
// each request with a key of its own, to which its tokens are bound, so that a
// token alone is of no use to a thief.
//
// Use it when the authorization server binds tokens to the client's key: it
// then puts the member jkt into the token's cnf. A proof is for one request:
// for its method, its URI, its time and its token. The token is the opaque one
// that the client holds, not the JWT behind it.
//
//	binding, err := dpop.New("https://api.example.com")
//	if err != nil {
//		log.Fatal(err)
//	}
//	binding.Required = true // no token without a key
//	auth, err := phantom.New(…, phantom.WithBinding(binding))
//
// # Proxies
//
// A proof names the URI that the client used. What a proxy in front of this
// service changes of it is said once, to [New] or with [WithTarget], and never
// read from the request: otherwise a thief could have a proof for one service
// accepted at another.
//
// # Clocks
//
// By default a proof is good from 10 s before to 70 s after its iat, so the
// clients' clocks must be right. If they cannot be, use [WithNonce]. The clock
// of this machine must be right anyway.
//
// # Replicas
//
// Each process remembers the proofs that it has seen, in memory that never
// exceeds its bounds. Behind a load balancer a proof can so be used once at
// each replica, within its time. Use a [ReplayStore] that all of them share
// where that matters.
//
// # What the upstream sees
//
// The upstream gets the JWT under the scheme Bearer and no proof: the check
// ends here, and what lies behind must trust this service alone. An upstream
// that insists on checking cnf itself cannot be served, since the proof covers
// another token than the JWT.
package dpop
