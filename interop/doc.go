// Package interop holds tests of phantom against authorization servers that
// others wrote. It is a module of its own, so that users of phantom do not
// depend on them.
//
// Each test starts its server. zitadel/oidc and fosite are libraries and run
// in the process. oidc-provider needs Node.js and npm, which installs what
// testdata/oidc-provider/package-lock.json names; without them its tests are
// skipped, except in CI. Ory Hydra runs if PHANTOM_HYDRA names the program.
package interop
