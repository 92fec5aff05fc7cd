package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/httpauth"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// Metadata is what a resource server says about itself (RFC 9728 section 2).
// Members that are empty are left out.
type Metadata struct {
	// Resource is the identifier of the resource, which is the URL that clients
	// call: https, or http on the loopback interface, without credentials,
	// query or fragment. Clients compare it byte by byte with the URL that they
	// know (section 3.3). So it must be written as net/url writes it, without
	// empty or dot segments in its path, and a slash at its end counts. It is
	// also what the audience of the tokens should be (RFC 8707). Required.
	Resource string
	// Name is the resource's name, for people to read.
	Name string
	// Documentation is the URL of a page for developers.
	Documentation string
	// AuthorizationServers are the issuers of the tokens that the resource
	// accepts, byte by byte as phantom.WithIssuer has them. At least one is
	// required: a client that finds none cannot go on.
	AuthorizationServers []string
	// Scopes are the scopes that clients may ask for. Not all need to be named.
	Scopes []string
	// DPoPAlgorithms are the JWS algorithms of DPoP proofs that the resource
	// accepts (RFC 9449): RS, PS and ES 256/384/512 and EdDSA.
	DPoPAlgorithms []string
	// DPoPRequired says that every token must be bound to a key by DPoP.
	DPoPRequired bool
	// CertificateBound says that tokens are bound to the client's certificate
	// (RFC 8705).
	CertificateBound bool
	// Extra are members with names of your own, such as resource_name#de. It
	// cannot name a registered member, in any case. A value that is null, "",
	// [] or {} in JSON is left out.
	Extra map[string]any
}

// registered are the members of RFC 9728 section 2.
var registered = []string{
	"resource", "authorization_servers", "jwks_uri", "scopes_supported", "bearer_methods_supported",
	"resource_signing_alg_values_supported", "resource_name", "resource_documentation", "resource_policy_uri",
	"resource_tos_uri", "tls_client_certificate_bound_access_tokens", "authorization_details_types_supported",
	"dpop_signing_alg_values_supported", "dpop_bound_access_tokens_required", "signed_metadata",
}

// A document is metadata under construction, and what is wrong with them.
type document struct {
	members map[string]json.RawMessage
	faults  []error
}

func (d *document) fault(field, format string, args ...any) {
	d.faults = append(d.faults, &phantom.ConfigError{
		Option: "resource.Metadata." + field, Reason: fmt.Sprintf(format, args...),
	})
}

// render returns the metadata as JSON, or all that is wrong with them.
func (m *Metadata) render() ([]byte, error) {
	d := &document{members: map[string]json.RawMessage{}}
	d.resource(m.Resource)
	d.servers(m.AuthorizationServers)
	d.page(m.Documentation)
	for _, scope := range m.Scopes {
		if !httpauth.IsScopeToken(scope) {
			d.fault("Scopes", "%q is not a scope-token", scope)
		}
	}
	for _, alg := range m.DPoPAlgorithms {
		if !jose.Supported(alg) {
			d.fault("DPoPAlgorithms", "%q is not one of RS, PS and ES 256/384/512 and EdDSA", alg)
		}
	}
	for name, value := range map[string]any{
		"resource":                                   m.Resource,
		"authorization_servers":                      m.AuthorizationServers,
		"bearer_methods_supported":                   []string{"header"},
		"scopes_supported":                           m.Scopes,
		"resource_name":                              m.Name,
		"resource_documentation":                     m.Documentation,
		"dpop_signing_alg_values_supported":          m.DPoPAlgorithms,
		"dpop_bound_access_tokens_required":          orNil(m.DPoPRequired),
		"tls_client_certificate_bound_access_tokens": orNil(m.CertificateBound),
	} {
		_ = d.add(name, value) // texts and booleans always encode
	}
	d.extra(m.Extra)
	if len(d.faults) > 0 {
		return nil, errors.Join(d.faults...)
	}
	return encode(d.members)
}

func (d *document) resource(raw string) {
	if raw == "" {
		d.fault("Resource", "is required")
		return
	}
	if fault := checkURL(raw); fault != "" {
		d.fault("Resource", "%s", fault)
		return
	}
	u, _ := url.Parse(raw) // checkURL did
	switch canonical := u.String(); {
	case hasQuery(u):
		d.fault("Resource", "%q has a query", upstream.Shown(raw))
	case !httpauth.IsErrorText(canonical):
		d.fault("Resource", "%q has a character that no URL has", raw)
	case canonical != raw:
		d.fault("Resource", "%q is not in the usual form of a URL: %q", raw, canonical)
	case !isClean(u.EscapedPath()):
		d.fault("Resource", "%q has an empty segment or a dot segment in its path", raw)
	}
}

func (d *document) servers(issuers []string) {
	if len(issuers) == 0 {
		d.fault("AuthorizationServers", "is required")
	}
	for _, issuer := range issuers {
		fault := checkURL(issuer)
		u, err := url.Parse(issuer)
		switch {
		case issuer == "":
			fault = "an empty value"
		case fault == "" && err == nil && hasQuery(u):
			fault = fmt.Sprintf("%q has a query", upstream.Shown(issuer))
		case fault == "" && !httpauth.IsErrorText(issuer):
			fault = fmt.Sprintf("%q has a character that no URL has", issuer)
		}
		if fault != "" {
			d.fault("AuthorizationServers", "%s", fault)
		}
	}
}

// page checks a URL that is for people, and may have a query and a fragment.
func (d *document) page(raw string) {
	u, err := url.Parse(raw)
	if raw != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		d.fault("Documentation", "%q is not an absolute http URL", upstream.Shown(raw))
	}
}

func (d *document) extra(members map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(members)) {
		// Readers that fold case would take one for the other.
		isRegistered := slices.ContainsFunc(registered, func(r string) bool { return strings.EqualFold(r, name) })
		switch {
		case name == "":
			d.fault("Extra", "an empty name")
		case isRegistered:
			d.fault("Extra", "%q is a registered member", name)
		default:
			if err := d.add(name, members[name]); err != nil {
				d.fault("Extra", "%q cannot be written as JSON", name)
			}
		}
	}
}

// add adds a member unless its value is empty (RFC 9728 section 3.2).
func (d *document) add(name string, value any) error {
	encoded, err := encode(value)
	if err != nil {
		return err
	}
	switch string(encoded) {
	case `null`, `""`, `[]`, `{}`:
	default:
		d.members[name] = encoded
	}
	return nil
}

// orNil leaves out what false says anyway.
func orNil(b bool) any {
	if b {
		return true
	}
	return nil
}

// encode writes JSON that is for no HTML page.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
}

// checkURL is upstream.CheckURL without its hint at an option that New has not.
func checkURL(raw string) string {
	fault := upstream.CheckURL(raw, true)
	if fault == "" && upstream.CheckURL(raw, false) != "" {
		return fmt.Sprintf("%q is not https", upstream.Shown(raw))
	}
	return fault
}

func hasQuery(u *url.URL) bool { return u.RawQuery != "" || u.ForceQuery }

// isClean reports whether clients and routers leave an escaped path as it is.
func isClean(path string) bool {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, segment := range segments {
		name, _ := url.PathUnescape(segment)
		if name == "." || name == ".." || name == "" && i < len(segments)-1 {
			return false
		}
	}
	return true
}
