package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// verbs are all of fmt, and some flags.
func verbs() (all []string) {
	for _, verb := range "vTtbcdoOqxXUeEfFgGspz" {
		for _, flags := range []string{"", "+", "#", " ", "-", "0", "200", ".3"} {
			all = append(all, "%"+flags+string(verb))
		}
	}
	return all
}

// The structs whose fields fmt may not ask for their methods.
type (
	pointerIn struct{ p *phantom.Token }
	valueIn   struct{ v phantom.Token }
	allIn     struct {
		any   any
		value any
		slice []phantom.Token
		array [1]phantom.Token
		ptrs  []*phantom.Token
		m     map[string]phantom.Token
		mp    map[string]*phantom.Token
		deep  struct{ deeper struct{ v phantom.Token } }
		next  *pointerIn
		holds *valueIn
		pp    **phantom.Token
	}
	middlewareIn      struct{ m *phantom.Middleware }
	middlewareValueIn struct{ m phantom.Middleware }
	authIn            struct{ auth phantom.ClientAuth }
	optionsIn         struct{ options []phantom.Option }
	hooksIn           struct {
		requirement phantom.Requirement
		handler     phantom.ErrorHandler
	}
)

// forms are the ways in which a text can be printed: as it is, in hexadecimal,
// as a list of numbers.
func forms(secret string) []string {
	return []string{
		secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("% x", secret),
		strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"),
	}
}

// checkPrints prints the values with every verb and looks for the secrets.
func checkPrints(t *testing.T, secrets []string, values ...any) (printed string) {
	t.Helper()
	var all strings.Builder
	for _, v := range values {
		for _, verb := range verbs() {
			text := fmt.Sprintf(verb, v)
			for _, secret := range secrets {
				for _, form := range forms(secret) {
					if strings.Contains(text, form) {
						t.Errorf("%s of %T shows %q: %s", verb, v, secret[:8], around(text, form))
					}
				}
			}
			all.WriteString(text + "\n")
		}
	}
	return all.String()
}

// However a token is printed, and wherever in a struct it lies, the text has
// neither its JWT nor what the answer said.
//
// Catalogue: Q10.
func TestPrintingATokenInUnexportedFields(t *testing.T) {
	as := newAS(t)
	jwt := mint("ES256", claims(map[string]any{"sub": "subject-of-the-token", "jti": "the-id-of-the-token"}))
	tok := as.tokenOf(t, answerJSON(`{"active":true,"username":"member-of-the-answer","phantom_token":"`+jwt+`"}`))
	if tok.Subject() != "subject-of-the-token" || tok.ID() != "the-id-of-the-token" || tok.JWT() != jwt {
		t.Fatalf("%q %q %q", tok.Subject(), tok.ID(), tok.JWT())
	}
	in := allIn{
		tok, *tok, []phantom.Token{*tok}, [1]phantom.Token{*tok}, []*phantom.Token{tok},
		map[string]phantom.Token{"t": *tok}, map[string]*phantom.Token{"t": tok},
		struct{ deeper struct{ v phantom.Token } }{struct{ v phantom.Token }{*tok}},
		&pointerIn{tok}, &valueIn{*tok}, &tok,
	}
	checkPrints(t, []string{jwt[:30], jwt[len(jwt)-30:], "subject-of-the-token", "the-id-of-the-token", "member-of-the-answer"},
		tok, *tok, &tok, pointerIn{tok}, &pointerIn{tok}, valueIn{*tok}, &valueIn{*tok}, in, &in,
		[]any{valueIn{*tok}}, map[string]any{"t": pointerIn{tok}}, fmt.Errorf("%v", valueIn{*tok}),
		phantom.NewContext(context.Background(), tok), tok.LogValue(),
	)
	zero := &phantom.Token{}
	checkPrints(t, []string{"PANIC"}, zero, *zero, valueIn{*zero}, (*phantom.Token)(nil), pointerIn{})
	if zero.Subject() != "" || zero.ID() != "" {
		t.Error("a zero Token that says something")
	}
}

// A secretHook is each hook there is, with a secret inside.
type secretHook struct{ Secret string }

func (h secretHook) Introspect(context.Context, string) (*phantom.Introspection, error) {
	return nil, errors.New(h.Secret)
}

func (h secretHook) Authenticate(*http.Request, url.Values) error { return errors.New(h.Secret) }

func (h secretHook) VerifySignature(context.Context, string) ([]byte, error) {
	return nil, errors.New(h.Secret)
}

func (h secretHook) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New(h.Secret)
}

func (h secretHook) Extract(*http.Request) (string, error) { return "opaque-token", nil }

func (h secretHook) Require(*phantom.Token) error { return errors.New(h.Secret) }

func (h secretHook) Reject(http.ResponseWriter, *http.Request, *phantom.Error) {}

func (h secretHook) Enabled(context.Context, slog.Level) bool { return true }

func (h secretHook) Handle(context.Context, slog.Record) error { return nil }

func (h secretHook) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h secretHook) WithGroup(string) slog.Handler { return h }

// However a Middleware, an option or a credential is printed, the text has no
// secret of a client or of a hook, no token, and not the key of the digests.
//
// Catalogue: Q10.
func TestPrintingAMiddleware(t *testing.T) {
	hook := secretHook{"secret-of-a-hook"}
	pairs := [][]phantom.Option{
		{phantom.WithClientAuth(hook)}, {phantom.WithClientAuth(&hook)},
		{phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret))},
		{phantom.WithClientAuth(phantom.ClientSecretPost(clientID, clientSecret))},
		{phantom.WithClientAuth(phantom.BearerToken(func(context.Context) (string, error) { return clientSecret, nil }))},
		{phantom.WithHTTPClient(&http.Client{Transport: hook})}, {phantom.WithHTTPClient(&http.Client{Transport: &hook})},
		{
			phantom.WithTokenExtractor(hook.Extract), phantom.WithErrorHandler(hook.Reject),
			phantom.WithRequirements(hook.Require), phantom.WithLogger(slog.New(hook)),
		},
	}
	numbers := regexp.MustCompile(`([0-9a-fA-Fx]+[, ]+){31}`) // 32 bytes, as fmt shows them
	for i, options := range pairs {
		as := newAS(t)
		m := as.middleware(options...)
		_, _ = m.Verify(t.Context(), "opaque-token")
		printed := checkPrints(t, []string{hook.Secret, clientSecret, "opaque-token", "eyJ"},
			m, *m, &m, middlewareIn{m}, &middlewareIn{m}, middlewareValueIn{*m}, &middlewareValueIn{*m}, []any{m, *m},
			options, optionsIn{options}, options[0], hooksIn{hook.Require, hook.Reject})
		if shown := numbers.FindString(printed); shown != "" {
			t.Errorf("options %d: the key of the digests is shown: %s", i, shown)
		}
	}
	for _, others := range [][]phantom.Option{
		{phantom.WithIntrospector(hook), phantom.WithKeySet(hook)}, {phantom.WithIntrospector(&hook), phantom.WithKeySet(&hook)},
	} {
		m := must(phantom.New(append(basics("WithClientAuth"), others...)...))
		checkPrints(t, []string{hook.Secret}, m, *m, middlewareIn{m}, middlewareValueIn{*m}, others, others[0], others[1])
	}
	for _, auth := range []phantom.ClientAuth{
		phantom.ClientSecretBasic(clientID, clientSecret), phantom.ClientSecretPost(clientID, clientSecret),
		phantom.BearerToken(func(context.Context) (string, error) { return clientSecret, nil }),
	} {
		checkPrints(t, []string{clientSecret}, auth, authIn{auth}, &authIn{auth}, []any{auth})
	}
}
