package phantom

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/phantom-token/phantom/internal/exchange"
	"github.com/phantom-token/phantom/internal/httpauth"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

const maxLeeway = 5 * time.Minute

// nilOption is the fault of an option whose default serves in place of nil.
const nilOption = "nil: leave the option out for the default"

// emptyValue is the fault of a text that is not there.
const emptyValue = "an empty value, as of a variable that is not set"

// readOptions applies the options and returns all that is wrong with them.
func readOptions(opts []Option) (*config, error) {
	c := defaults()
	v := &validator{config: c}
	v.apply(opts)
	v.identity()
	v.lookup()
	v.source()
	v.keys()
	v.numbers()
	v.shared()
	v.hooks()
	v.checkBindings()
	return c, errors.Join(v.faults...)
}

type validator struct {
	*config
	faults []error
}

func (v *validator) apply(opts []Option) {
	for i, o := range opts {
		if isNil(o) {
			v.fault("Option", "argument %d is nil", i+1)
			continue
		}
		o.apply(v.config)
	}
}

func (v *validator) fault(option, format string, args ...any) {
	v.faults = append(v.faults, &ConfigError{option, fmt.Sprintf(format, args...)})
}

func (v *validator) exclude(option string, others ...string) {
	for _, other := range others {
		if v.given[option] && v.given[other] {
			v.fault(option, "excludes %s", other)
		}
	}
}

// A part is a value of this package that knows whether it can work.
type part interface {
	unfit(c *config) (fault string)
}

// fit asks a part why it cannot work.
func (v *validator) fit(option string, value any) {
	if p, ok := value.(part); ok {
		if fault := p.unfit(v.config); fault != "" {
			v.fault(option, "%s", fault)
		}
	}
}

func (v *validator) url(option, value string) {
	if !v.given[option] {
		return
	}
	if value == "" {
		v.fault(option, emptyValue)
	} else if fault := upstream.CheckURL(value, v.insecureHTTP); fault != "" {
		v.fault(option, "%s", fault)
	}
}

// identity checks the issuer, the audience and the algorithms.
func (v *validator) identity() {
	if v.url("WithIssuer", v.issuer); v.issuer == "" && !v.given["WithIssuer"] {
		v.fault("WithIssuer", "is required: the URL that the server's tokens have in iss")
	}
	if u, err := url.Parse(v.issuer); err == nil && (u.RawQuery != "" || u.ForceQuery) {
		v.fault("WithIssuer", "%q has a query", upstream.Shown(v.issuer))
	}
	v.exclude("WithAudience", "WithoutAudienceCheck")
	switch {
	case v.given["WithAudience"] && len(v.audience) == 0:
		v.fault("WithAudience", "no values: name what the server's tokens have in aud for this service")
	case v.given["WithAudience"] && slices.Contains(v.audience, ""):
		v.fault("WithAudience", emptyValue)
	case slices.ContainsFunc(v.audience, hasControl):
		v.fault("WithAudience", "%q: a value has a control character, such as the end of a line", v.audience)
	case !v.given["WithAudience"] && !v.given["WithoutAudienceCheck"]:
		v.fault("WithAudience", "is required: what the server's tokens have in aud for this service")
	}
	if len(v.algorithms) == 0 {
		v.fault("WithAlgorithms", "no values: leave the option out to accept all that are supported")
	}
	for _, alg := range v.algorithms {
		if !jose.Supported(alg) {
			v.fault("WithAlgorithms", "%q is not one of RS, PS and ES 256/384/512 and EdDSA", alg)
		}
	}
}

// lookup checks how to ask the authorization server.
func (v *validator) lookup() {
	v.url("WithIntrospectionEndpoint", v.endpoint)
	v.exclude("WithIntrospector", "WithIntrospectionEndpoint")
	if !v.given["WithTokenExchange"] { // which authenticates too
		v.exclude("WithIntrospector", "WithClientAuth")
	}
	v.exclude("WithIntrospector", "WithJSONResponse", "WithSignedResponse", "WithStrictCacheControl")
	if v.given["WithJSONResponse"] && (v.member == "" || v.member == "active") {
		v.fault("WithJSONResponse", "%q cannot be the JWT's member: take its name from an answer of the server", v.member)
	}
	if v.given["WithHTTPClient"] && v.client == nil {
		v.fault("WithHTTPClient", nilOption)
	}
	if v.given["WithIntrospector"] && isNil(v.introspector) {
		v.fault("WithIntrospector", nilOption)
	}
	switch {
	case v.given["WithIntrospector"] && !v.given["WithTokenExchange"]:
	case v.given["WithoutIntrospection"]:
	case !v.given["WithClientAuth"]:
		v.fault("WithClientAuth", "is required: ClientSecretBasic, PrivateKeyJWT or another; "+
			"NoClientAuth is for an endpoint that wants no credentials")
	case isNil(v.auth):
		v.fault("WithClientAuth", "nil: NoClientAuth is for an endpoint that wants no credentials")
	default:
		v.fit("WithClientAuth", v.auth)
	}
}

// source checks where the JWT comes from.
func (v *validator) source() {
	v.exclude("WithoutIntrospection", "WithIntrospector", "WithIntrospectionEndpoint", "WithClientAuth",
		"WithJSONResponse", "WithStrictCacheControl", "WithStaleIfError", "WithRefreshAhead",
		"WithoutJWT", "WithMinter", "WithTokenExchange", "WithSignedResponse")
	v.exclude("WithMinter", "WithJSONResponse", "WithoutJWT", "WithTokenExchange")
	v.exclude("WithoutJWT", "WithJSONResponse", "WithTokenExchange", "WithRFC9068")
	v.exclude("WithTokenExchange", "WithJSONResponse")
	v.exclude("WithSignedResponse", "WithJSONResponse")
	if v.given["WithMinter"] {
		v.mint()
	}
	if v.given["WithTokenExchange"] {
		v.exchange()
	}
	if v.given["WithSignedResponse"] {
		switch {
		case v.signedAudience == "" || hasControl(v.signedAudience):
			v.fault("WithSignedResponse", "%q is no audience: as a rule it is the client id of WithClientAuth", v.signedAudience)
		case !v.answerMode():
			v.fault("WithSignedResponse", "needs WithMinter, WithTokenExchange or WithoutJWT: "+
				"a signed response is no access token")
		}
	}
	if v.given["WithClientSubject"] {
		switch {
		case v.clientSubject == "" || hasControl(v.clientSubject):
			v.fault("WithClientSubject", "%q is no prefix: take one that no user's sub begins with, such as \"client:\"",
				v.clientSubject)
		case !v.answerMode():
			v.exclude("WithClientSubject", "WithRFC9068")
		}
	}
	if !v.usesServerKeys() {
		for _, option := range []string{"WithKeySet", "WithJWKSURL"} {
			if v.given[option] {
				v.fault(option, "the server's keys verify nothing here, without WithSignedResponse: leave it out")
			}
		}
	}
	if v.given["WithoutJWT"] && !v.given["WithSignedResponse"] && v.given["WithAlgorithms"] {
		v.fault("WithAlgorithms", "judges nothing with WithoutJWT, without WithSignedResponse: leave it out")
	}
}

// mint asks the Minter whose JWTs it makes.
func (v *validator) mint() {
	if isNil(v.minter) {
		v.fault("WithMinter", "nil: mint.New makes one")
		return
	}
	v.minterName, v.minterKeys = v.minter.Issuer()
	if isNil(v.minterKeys) {
		v.minterKeys = nil
	}
	switch {
	case v.minterKeys == nil && v.minterName != "":
		v.fault("WithMinter", "the issuer %q has no keys: Issuer must return both, or neither", v.minterName)
	case v.minterKeys != nil && v.minterName == "":
		v.fault("WithMinter", "keys without the name of an issuer: Issuer must return both, or neither")
	case v.minterKeys != nil && v.minterName == v.issuer:
		v.fault("WithMinter", "%q is the issuer of WithIssuer: a Minter with keys of its own needs a name of its own",
			v.minterName)
	}
	v.fit("WithMinter", v.minterKeys)
}

// exchange checks the parameters of a token exchange.
func (v *validator) exchange() {
	if v.exchangeEndpoint != "" {
		v.url("WithTokenExchange", v.exchangeEndpoint)
	}
	for _, name := range slices.Sorted(maps.Keys(v.exchangeForm)) {
		values := v.exchangeForm[name]
		switch {
		case slices.Contains(exchange.Reserved, name):
			v.fault("WithTokenExchange", "the parameter %q is not yours to set", name)
		case name == "" || len(values) == 0 || slices.Contains(values, ""):
			v.fault("WithTokenExchange", "the parameter %q has an empty value", name)
		}
	}
}

// usesServerKeys reports whether the authorization server's own keys verify
// anything.
func (c *config) usesServerKeys() bool {
	switch {
	case c.given["WithSignedResponse"]:
		return true
	case c.given["WithMinter"]:
		return c.minterKeys == nil
	}
	return !c.given["WithoutJWT"]
}

// keys checks what verifies the JWTs.
func (v *validator) keys() {
	v.url("WithJWKSURL", v.jwksURL)
	v.exclude("WithKeySet", "WithJWKSURL")
	if !v.given["WithKeySet"] {
		return
	}
	if isNil(v.keySet) {
		v.fault("WithKeySet", nilOption)
		return
	}
	v.fit("WithKeySet", v.keySet)
}

// numbers checks sizes and times.
func (v *validator) numbers() {
	if v.leeway > maxLeeway {
		v.fault("WithLeeway", "%v is more than %v", v.leeway, maxLeeway)
	}
	if v.cacheSize < 0 {
		v.fault("WithCacheSize", "%d is negative: 0 turns the cache off", v.cacheSize)
	}
	for _, d := range []struct {
		option string
		value  time.Duration
	}{
		{"WithLeeway", v.leeway}, {"WithMaxTTL", v.maxTTL}, {"WithNegativeTTL", v.negativeTTL},
		{"WithStaleIfError", v.staleIfError}, {"WithTimeout", v.timeout},
	} {
		switch {
		case d.value < 0:
			v.fault(d.option, "%v is negative", d.value)
		case d.value == 0 && d.option == "WithTimeout":
			v.fault(d.option, "%v is not positive", d.value)
		case d.value > 0 && d.value < time.Millisecond:
			v.fault(d.option, "%v is less than a millisecond: a number without a unit counts nanoseconds, "+
				"60 seconds are 60*time.Second", d.value)
		}
	}
	if !(v.refreshAhead >= 0 && v.refreshAhead < 1) { // NaN is not
		v.fault("WithRefreshAhead", "%v is not at least 0 and less than 1", v.refreshAhead)
	}
	if v.maxInFlight < 1 {
		v.fault("WithMaxInFlight", "%d is not positive", v.maxInFlight)
	}
}

// hooks checks the functions that are called and the texts that clients see.
func (v *validator) hooks() {
	for _, hook := range []struct {
		option  string
		missing bool
	}{
		{"WithTokenExtractor", v.extractor == nil},
		{"WithErrorHandler", v.errorHandler == nil},
		{"WithLogger", v.logger == nil},
	} {
		if v.given[hook.option] && hook.missing {
			v.fault(hook.option, nilOption)
		}
	}
	for i, r := range v.requirements {
		if r == nil {
			v.fault("WithRequirements", "requirement %d is nil", i+1)
		}
	}
	if slices.Contains(v.traces, nil) {
		v.fault("WithTrace", nilOption)
	}
	if v.given["WithRequirements"] && len(v.requirements) == 0 {
		v.fault("WithRequirements", "no requirements: leave the option out")
	}
	if v.realm == "" || !httpauth.IsQuotable(v.realm) {
		v.fault("WithRealm", "%q cannot be a quoted-string: use visible ASCII characters and spaces", v.realm)
	}
	if v.given["WithResourceMetadataURL"] {
		v.url("WithResourceMetadataURL", v.resourceMetadata)
		if !httpauth.IsErrorText(v.resourceMetadata) {
			v.fault("WithResourceMetadataURL", "cannot be a quoted-string: escape what is not visible ASCII")
		}
	}
}

// hasControl reports whether a text has a control character, as one has that
// was read from a file together with the end of the line.
func hasControl(text string) bool { return strings.ContainsFunc(text, unicode.IsControl) }

// isNil also sees a nil pointer inside an interface.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Slice, reflect.Chan, reflect.Interface:
		return r.IsNil()
	}
	return false
}
