// Package proxies tests the configurations of examples/forwardauth, each with
// the proxy that it is for: nginx, HAProxy and Caddy run, and Caddy is built
// from this module's dependencies. Envoy, Traefik and a Kubernetes gateway do
// not run here; what reads their files is the types of those projects.
package proxies
