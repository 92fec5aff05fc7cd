package proxies

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	extauthz "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"gopkg.in/yaml.v3"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	kyaml "sigs.k8s.io/yaml"
)

// What stands here does not show that a proxy does what its file says. It shows
// that the file has no name that the proxy does not know, and that what keeps
// the way closed is written in it.

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestEnvoyKnowsItsConfiguration(t *testing.T) {
	asJSON, err := kyaml.YAMLToJSONStrict(read(t, "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := &bootstrap.Bootstrap{}
	if err := protojson.Unmarshal(asJSON, config); err != nil { // unknown names are errors
		t.Fatal(err)
	}
	questions := map[string]bool{}
	for message := range messages(t, config) {
		if v, ok := message.(interface{ ValidateAll() error }); ok {
			if err := v.ValidateAll(); err != nil {
				t.Error(err)
			}
		}
		switch m := message.(type) {
		case *extauthz.ExtAuthz:
			if m.FailureModeAllow || m.ShadowMode || m.FilterEnabled != nil || m.WithRequestBody != nil || m.ClearRouteCache || m.GetHttpService() == nil {
				t.Error("ext_authz can let a request pass")
			}
		case *extauthz.ExtAuthzPerRoute:
			if m.GetDisabled() || m.GetCheckSettings().GetHttpService() == nil {
				t.Error("a route without a question")
			}
		case *extauthz.HttpService:
			questions[m.PathOverride] = true
			allowed := m.GetAuthorizationResponse().GetAllowedUpstreamHeaders().GetPatterns()
			if m.PathPrefix != "" || len(allowed) != 1 || allowed[0].GetExact() != "authorization" {
				t.Errorf("question %v", m)
			}
		case *hcm.HttpConnectionManager:
			var names []string
			for _, f := range m.HttpFilters {
				names = append(names, strings.TrimPrefix(f.Name, "envoy.filters.http."))
			}
			if !slices.Equal(names, []string{"ext_authz", "rbac", "router"}) {
				t.Errorf("filters %v", names)
			}
			removed := m.GetRouteConfig().RequestHeadersToRemove
			for _, name := range forgeable {
				// use_remote_address sets these.
				if name != "X-Forwarded-For" && name != "X-Forwarded-Proto" && !slices.Contains(removed, strings.ToLower(name)) {
					t.Errorf("%s goes on", name)
				}
			}
		}
	}
	if len(questions) != 2 || !questions["/"] || !questions["/orders:read"] {
		t.Errorf("questions %v", questions)
	}
}

// messages yields a message and all inside, those of typed_config too.
func messages(t *testing.T, m proto.Message) func(func(proto.Message) bool) {
	return func(yield func(proto.Message) bool) {
		var walk func(protoreflect.Message) bool
		walk = func(r protoreflect.Message) bool {
			if wrapped, ok := r.Interface().(*anypb.Any); ok {
				inner, err := wrapped.UnmarshalNew()
				if err != nil {
					t.Error(err)
					return true
				}
				return walk(inner.ProtoReflect())
			}
			if !yield(r.Interface()) {
				return false
			}
			more := true
			r.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
				switch {
				case f.IsMap() && f.MapValue().Message() != nil:
					v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
						more = more && walk(v.Message())
						return more
					})
				case f.IsMap() || f.Message() == nil:
				case f.IsList():
					for i := range v.List().Len() {
						more = more && walk(v.List().Get(i).Message())
					}
				default:
					more = walk(v.Message())
				}
				return more
			})
			return more
		}
		walk(m.ProtoReflect())
	}
}

// The names are those of pkg/config/dynamic in Traefik 3.6, whose module needs
// forks of others and cannot be required.
func TestTraefiksConfigurationHasKnownNames(t *testing.T) {
	type middleware struct {
		ForwardAuth *struct {
			Address             string
			TrustForwardHeader  *bool    `yaml:"trustForwardHeader"`
			AuthRequestHeaders  []string `yaml:"authRequestHeaders"`
			AuthResponseHeaders []string `yaml:"authResponseHeaders"`
		} `yaml:"forwardAuth"`
		Headers *struct {
			CustomRequestHeaders map[string]string `yaml:"customRequestHeaders"`
		}
	}
	var config struct {
		HTTP struct {
			Routers map[string]struct {
				Rule, Service string
				Middlewares   []string
			}
			Middlewares map[string]middleware
			Services    map[string]struct {
				LoadBalancer struct{ Servers []struct{ URL string } } `yaml:"loadBalancer"`
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(read(t, "traefik.yml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&config); err != nil {
		t.Fatal(err)
	}
	for name, r := range config.HTTP.Routers {
		if len(r.Middlewares) != 2 || config.HTTP.Middlewares[r.Middlewares[0]].ForwardAuth == nil || config.HTTP.Middlewares[r.Middlewares[1]].Headers == nil {
			t.Errorf("router %s: %v", name, r.Middlewares)
		}
		_, ok := config.HTTP.Services[r.Service]
		if !ok || !strings.Contains(r.Rule, "&& !Method(`TRACE`)") || !strings.Contains(r.Rule, "&& !HeaderRegexp(`Upgrade`, `(?i)h2c`)") {
			t.Errorf("router %s: service %q, rule %s", name, r.Service, r.Rule)
		}
	}
	for name, m := range config.HTTP.Middlewares {
		only := []string{"Authorization"}
		if f := m.ForwardAuth; f != nil {
			if f.TrustForwardHeader == nil || *f.TrustForwardHeader || !slices.Equal(f.AuthRequestHeaders, only) || !slices.Equal(f.AuthResponseHeaders, only) {
				t.Errorf("middleware %s: %+v", name, f)
			}
			continue
		}
		for _, field := range forgeable {
			// Traefik sets these itself.
			ours := []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"}
			if value, ok := m.Headers.CustomRequestHeaders[field]; (!ok || value != "") && !slices.Contains(ours, field) {
				t.Errorf("%s goes on", field)
			}
		}
	}
}

func TestKubernetesKnowsItsManifests(t *testing.T) {
	ports := map[int32]bool{}
	var asked []int32
	for _, document := range strings.Split(string(read(t, "kubernetes.yaml")), "\n---\n") {
		var kind struct{ APIVersion, Kind string }
		if err := kyaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		object, ok := map[string]any{
			"v1 Secret": &core.Secret{}, "v1 Service": &core.Service{}, "apps/v1 Deployment": &apps.Deployment{},
			"networking.k8s.io/v1 NetworkPolicy": &networking.NetworkPolicy{}, "gateway.networking.k8s.io/v1 HTTPRoute": &gateway.HTTPRoute{},
		}[kind.APIVersion+" "+kind.Kind]
		if !ok {
			t.Errorf("kind %v", kind)
			continue
		}
		if err := kyaml.UnmarshalStrict([]byte(document), object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
			continue
		}
		switch o := object.(type) {
		case *core.Service:
			for _, p := range o.Spec.Ports {
				ports[p.Port] = true
			}
		case *gateway.HTTPRoute:
			for _, rule := range o.Spec.Rules {
				filter := rule.Filters[0]
				if filter.Type != gateway.HTTPRouteFilterExternalAuth || filter.ExternalAuth.ExternalAuthProtocol != gateway.HTTPRouteExternalAuthHTTPProtocol ||
					!slices.Equal(filter.ExternalAuth.HTTPAuthConfig.AllowedResponseHeaders, []string{"Authorization"}) ||
					filter.ExternalAuth.HTTPAuthConfig.Path != "" {
					t.Errorf("filter %+v", filter)
				}
				asked = append(asked, int32(*filter.ExternalAuth.BackendRef.Port))
			}
		case *apps.Deployment:
			checkArgs(t, o.Spec.Template.Spec.Containers[0].Args)
		}
	}
	if len(asked) != 2 || !ports[asked[0]] || !ports[asked[1]] || asked[0] == asked[1] {
		t.Errorf("asked at %v, served at %v", asked, ports)
	}
}

// checkArgs starts the program as the manifest does, at ports that are free.
func checkArgs(t *testing.T, args []string) {
	t.Helper()
	s := newSite(t)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args = slices.Clone(args)
	for i, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "-listen":
			value = "127.0.0.1:0"
		case "-listen-for":
			value = strings.NewReplacer(":9091", ":0", ":9092", ":0").Replace(value)
		case "-issuer":
			value = s.issuer
		case "-audience":
			value = "https://rs.test"
		case "-client-id":
			value = "proxy"
		case "-client-secret-file":
			value = file
		default:
			continue
		}
		args[i] = name + "=" + value
	}
	p := launch(t, s, "", program, nil, args...)
	p.await(t, "three listeners", func() bool { return strings.Count(p.out.String(), `"serving"`) == 3 })
	for _, question := range []string{"", "/", "/orders:read"} {
		if !strings.Contains(p.out.String(), fmt.Sprintf(`"question":%q`, question)) {
			t.Errorf("no listener for %q", question)
		}
	}
}
