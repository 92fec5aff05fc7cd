// Package conformance holds the black-box tests of package phantom: a client,
// the middleware, a scripted authorization server and a next handler that
// records whether and how it ran. README.md is their catalogue.
package conformance
