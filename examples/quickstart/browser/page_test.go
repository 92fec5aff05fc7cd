package browser

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Each button, and what the page shows after it.
func TestButtons(t *testing.T) {
	w := open(t)
	for _, tc := range []struct {
		button, outcome string
		shows           []string // in the picture
	}{
		{"Get a token", "26 random characters, with nothing to read in them.", []string{
			"POST /token", "grant_type=client_credentials", `200 OK {"access_token":`,
		}},
		{"Call the API", "200 OK; 1 introspection.", []string{
			"GET /orders", "Authorization: Bearer ", "POST /introspect", "token=", `"alg": "ES256"`, `"client_id": "app"`,
			"Verified", "Authorization: Bearer eyJ", `{"customer":"app","orders":["espresso"]}`,
		}},
		{"Call the API", "200 OK; no question asked.", []string{"GET /orders", "Cache hit", "Authorization: Bearer eyJ"}},
		{"Call 100 times at once", "100 × 200 OK; no question asked.", []string{
			"100 × GET /orders", "100 × Cache hit", "100 × 200 OK",
		}},
		{"Send junk", "401 Unauthorized; 1 introspection.", []string{
			"204 No Content", "not active", "Refused", "401 Unauthorized", `WWW-Authenticate: Bearer realm="api"`,
		}},
		{"Revoke the token", "The server calls it inactive from now on.", []string{"POST /revoke", "200 OK"}},
		{"Call the API", "200 OK; no question asked.", []string{"Cache hit"}},
		{"Forget the token", "The gateway remembers nothing of it.", []string{"Forget"}},
		{"Call the API", "401 Unauthorized; 1 introspection.", []string{"Refused", "401 Unauthorized"}},
		{"Rotate the keys", "The server signs with a new key.", []string{"New key"}},
		{"Stop the server", "The server hangs up on each request.", []string{"Stopped"}},
		{"Get a token", "The server does not answer.", []string{"POST /token", "No answer"}},
		{"Start the server", "The server answers again.", []string{"Started"}},
	} {
		w.do(chromedp.Click(chromedp.Search(fmt.Sprintf(`//button[text()=%q]`, tc.button))))
		w.outcome(tc.button, tc.outcome)
		picture := w.text("messages")
		for _, want := range tc.shows {
			if !strings.Contains(picture, want) {
				t.Errorf("%s: no %q in the picture:\n%s", tc.button, want, picture)
			}
		}
		if log := w.text("log"); !strings.HasPrefix(strings.ToLower(log), strings.ToLower(tc.button+": "+tc.outcome)) {
			t.Errorf("%s: the log begins otherwise:\n%s", tc.button, log)
		}
		if stopped := tc.button == "Stop the server" || tc.outcome == "The server does not answer."; stopped !=
			(w.text("at-server-url") == "stopped") {
			t.Errorf("%s: the server is at %q", tc.button, w.text("at-server-url"))
		}
	}
	if got, want := w.text("counters"), "cache hits 102 cache misses 3 joined a lookup 0 "+
		"refused as before 0 refused in all 2 tokens kept 0"; got != want {
		t.Errorf("numbers: %s, want %s", got, want)
	}
	if token := w.text("token"); len(token) != 26 {
		t.Errorf("the token is %q", token)
	}
	w.blameless()
}

// Each kind of server can be chosen.
func TestServers(t *testing.T) {
	w := open(t)
	for _, tc := range []struct{ story, shows string }{
		{"the API needs none", `200 OK {"active":true`},
		{"the gateway makes one", `"aud": "https://orders.internal"`},
		{"takes the token in exchange", "grant_type=token-exchange"},
	} {
		w.do(chromedp.Focus(chromedp.ID("server")), chromedp.KeyEvent(kb.ArrowDown))
		w.outcome("Another server", "Get a token to begin.")
		w.await(fmt.Sprintf(`document.getElementById("about").innerText.includes(%q)`, tc.story))
		w.do(chromedp.Click(chromedp.CSS(`[data-do=token]`)))
		w.outcome("Get a token", "26 random characters, with nothing to read in them.")
		w.do(chromedp.Click(chromedp.CSS(`[data-do=call]`)))
		w.outcome("Call the API", "200 OK; 1 introspection.")
		if picture := w.text("messages"); !strings.Contains(picture, tc.shows) {
			t.Errorf("%s: no %q in the picture:\n%s", tc.story, tc.shows, picture)
		}
	}
	w.blameless()
}

// Who has no mouse gets a token, calls with it, and reads a message.
func TestKeyboardAlone(t *testing.T) {
	w := open(t)
	focused := func() string {
		return eval[string](w, `document.activeElement.innerText || document.activeElement.id`)
	}
	// tabTo presses Tab until what begins with a text has the focus, visibly.
	tabTo := func(what string, most int) {
		t.Helper()
		for range most {
			w.do(chromedp.KeyEvent(kb.Tab))
			if strings.HasPrefix(focused(), what) {
				outline := eval[string](w, `getComputedStyle(document.activeElement).outlineStyle`)
				width := eval[string](w, `getComputedStyle(document.activeElement).outlineWidth`)
				if outline != "solid" || width != "3px" {
					t.Errorf("%s: the focus is not to be seen: %s %s", what, width, outline)
				}
				return
			}
		}
		t.Fatalf("no %s after %d times Tab, but %s", what, most, focused())
	}
	tabTo("Skip to the messages", 1)
	tabTo("Get a token", 1)
	w.do(chromedp.KeyEvent(kb.Enter))
	w.outcome("Get a token", "26 random characters, with nothing to read in them.")
	tabTo("Call the API", 1)
	w.do(chromedp.KeyEvent(kb.Enter))
	w.outcome("Call the API", "200 OK; 1 introspection.")
	if focused() != "Call the API" {
		t.Errorf("the focus went to %s", focused())
	}
	tabTo("Client to phantom:", 12)
	w.do(chromedp.KeyEvent(kb.Enter))
	w.await(`document.querySelector("#message-1 details").open`)
	w.blameless()
}

// What a screen reader is told: names, levels, and a log that speaks up.
func TestScreenReader(t *testing.T) {
	w := open(t)
	w.do(chromedp.Click(chromedp.CSS(`[data-do=junk]`)))
	w.outcome("Send junk", "401 Unauthorized; 1 introspection.")
	named := map[string][]string{}
	for _, node := range call(w, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if node.Ignored || node.Role == nil {
			continue
		}
		role, name := said(t, node.Role), said(t, node.Name)
		named[role] = append(named[role], name)
		switch role {
		case "button", "combobox", "link", "heading", "group", "region", "log", "list":
			if name == "" && role != "list" && role != "group" {
				t.Errorf("a %s has no name", role)
			}
		}
		if role == "log" && !slices.ContainsFunc(node.Properties, func(p *accessibility.Property) bool {
			return p.Name == "live" && said(t, p.Value) == "polite"
		}) {
			t.Error("the log is not live")
		}
	}
	for role, names := range map[string][]string{
		"button": {
			"Get a token", "Call the API", "Call 100 times at once", "Send junk",
			"Forget the token", "Revoke the token", "Rotate the keys", "Stop the server",
		},
		"combobox": {"The server answers with"},
		"heading": {
			"Opaque tokens outside, JWTs inside", "Try it", "Send junk", "The gateway’s numbers", "What happened",
			"What to do next",
		},
		"region": {"Try it", "Send junk", "The gateway’s numbers", "What happened"},
		"log":    {"What happened"},
		"list":   {"Messages"},
		"main":   {""},
		"status": {""},
	} {
		for _, name := range names {
			if !slices.Contains(named[role], name) {
				t.Errorf("no %s %q, but %q", role, name, named[role])
			}
		}
	}
	if first := eval[string](w, `document.querySelector("#message-1 summary").textContent`); !strings.HasPrefix(first,
		"Client to phantom: GET /orders") {
		t.Errorf("the first message is read as %s", first)
	}
	w.blameless()
}

func said(t *testing.T, v *accessibility.Value) (text string) {
	t.Helper()
	if v != nil && len(v.Value) > 0 {
		if err := json.Unmarshal(v.Value, &text); err != nil {
			t.Fatal(err)
		}
	}
	return text
}

// The page fits on a phone, a tablet and a desk, and can be read in the light
// and in the dark.
func TestWidthsAndColours(t *testing.T) {
	w := open(t)
	w.do(chromedp.Click(chromedp.CSS(`[data-do=token]`)))
	w.outcome("Get a token", "26 random characters, with nothing to read in them.")
	w.do(chromedp.Click(chromedp.CSS(`[data-do=crowd]`)))
	w.outcome("Call 100 times at once", "100 × 200 OK; 1 introspection.")
	eval[any](w, `for (const d of document.querySelectorAll("details")) d.open = true`)
	for _, width := range []int64{360, 768, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			w.emulate("prefers-color-scheme", scheme)
			w.do(chromedp.EmulateViewport(width, 800))
			w.await(fmt.Sprintf(`innerWidth === %d`, width))
			if got := eval[int64](w, `document.scrollingElement.scrollWidth`); got > width {
				t.Errorf("at %d: the page is %d wide", width, got)
			}
			for _, problem := range eval[[]string](w, illegible) {
				t.Errorf("at %d, %s: %s", width, scheme, problem)
			}
			for _, small := range eval[[]string](w, `[...document.querySelectorAll("button, select")]
				.filter((b) => b.offsetHeight < 44).map((b) => b.innerText)`) {
				t.Errorf("at %d: too low for a finger: %s", width, small)
			}
		}
	}
	light, dark := w.paper("light"), w.paper("dark")
	if light == dark {
		t.Errorf("light and dark are %s", light)
	}
	w.blameless()
}

// illegible lists texts whose contrast is below 4.5 (WCAG 2.2 level AA), and
// texts that leave their box.
const illegible = `(() => {
	const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
	const luminance = (colour) => {
		const [r, g, b] = channels(colour).map((c) => c / 255)
			.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const colour = getComputedStyle(e).backgroundColor;
			if ((channels(colour)[3] ?? 1) === 1) return colour;
		}
		return "rgb(255, 255, 255)";
	};
	const problems = [];
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.closest(".unseen, option")) continue;
		const [low, high] = [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((a, b) => a - b);
		const contrast = (high + 0.05) / (low + 0.05);
		if (contrast < 4.5) problems.push("contrast " + contrast.toFixed(2) + ": " + texts.currentNode.data);
		const range = document.createRange();
		range.selectNodeContents(texts.currentNode);
		const box = range.getBoundingClientRect();
		const outside = box.left < 0 || box.right > innerWidth;
		if (outside && !e.closest(".skip")) problems.push("outside: " + texts.currentNode.data);
	}
	return problems;
})()`

func (w *window) emulate(feature, value string) {
	w.Helper()
	call(w, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: feature, Value: value}},
	})
}

// paper returns the colour behind everything.
func (w *window) paper(scheme string) string {
	w.Helper()
	w.emulate("prefers-color-scheme", scheme)
	return eval[string](w, `getComputedStyle(document.body).backgroundColor`)
}

// Nothing moves for those who do not want it.
func TestReducedMotion(t *testing.T) {
	w := open(t)
	w.do(chromedp.Click(chromedp.CSS(`[data-do=junk]`)))
	w.outcome("Send junk", "401 Unauthorized; 1 introspection.")
	for value, want := range map[string]string{"no-preference": "arrive smooth", "reduce": "none auto"} {
		w.emulate("prefers-reduced-motion", value)
		if got := eval[string](w, `getComputedStyle(document.querySelector(".message")).animationName + " " +
			getComputedStyle(document.documentElement).scrollBehavior`); got != want {
			t.Errorf("%s: %s, want %s", value, got, want)
		}
	}
	w.blameless()
}

// A page of another site, open in the same browser, presses no button.
func TestAnotherSite(t *testing.T) {
	w := open(t)
	other := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(answer, `<!doctype html><title>other</title><script>
			fetch("%[1]sdo/token", {method: "POST", mode: "no-cors"}).finally(() => { document.title = "sent" });
		</script>`, w.url)
	}))
	t.Cleanup(other.Close)
	w.do(chromedp.Navigate(other.URL))
	w.await(`document.title !== "other"`)
	w.do(chromedp.Navigate(w.url))
	w.await(`document.querySelector("#counters").children.length > 0`)
	if log := w.text("log"); log != "" {
		t.Errorf("a button was pressed: %s", log)
	}
}

// The page says so when there is no quickstart behind it any more.
func TestQuickstartEnds(t *testing.T) {
	w := open(t)
	w.stop()
	w.await(`document.getElementById("status").innerText.startsWith("The quickstart does not answer")`)
}
