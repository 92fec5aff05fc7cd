package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What the Dockerfile makes: the program and root certificates, nothing else,
// run by nobody in particular.
func TestImage(t *testing.T) {
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`-trimpath -ldflags='(.*)'`).FindStringSubmatch(string(dockerfile))
	if flags == nil || !strings.Contains(string(dockerfile), "FROM scratch") || !strings.Contains(string(dockerfile), "USER 65532:65532") {
		t.Fatal("the Dockerfile is not what this test takes it for")
	}
	root := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags="+flags[1], "-o", filepath.Join(root, "gateway"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := elf.Open(filepath.Join(root, "gateway"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
			t.Errorf("the program needs a loader: %v", segment.Type)
		}
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can change the root directory, and CI is set")
		}
		t.Skip("only root can change the root directory")
	}

	s, ca, presented := secureSite(t)
	copyFile := func(from, to string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Join(root, filepath.Dir(to)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), content, 0o444)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for dir := root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // what t.TempDir makes is for this user alone
	}
	copyFile(ca, "/etc/ssl/certs/ca-certificates.crt")
	secret := write(t, clientSecret+"\n")
	copyFile(secret, "/run/secrets/phantom/client-secret")
	cmd := exec.Command("/gateway", s.args(map[string]string{"client-secret-file": "/run/secrets/phantom/client-secret"})...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	g := s.await(t, launchCommand(t, cmd, nil))
	g.get(t, "/", s.issue(nil)).served(t)
	if presented() != nil {
		t.Error("a certificate was presented")
	}
	g.ready(t)
	g.stop(t, syscall.SIGTERM)
}

// The manifest and the example of the Dockerfile use flags that there are.
func TestManifest(t *testing.T) {
	manifest, err := os.ReadFile("kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, found := range regexp.MustCompile(`(?m)^ +- (-[a-z-]+=[^ \n]+)`).FindAllStringSubmatch(string(manifest), -1) {
		args = append(args, found[1])
	}
	c := &config{values: map[string]any{}}
	c.parse(args)
	c.service()
	if len(args) < 10 || len(c.mistakes) > 0 {
		t.Errorf("arguments %q: %v", args, c.mistakes)
	}
	grace := regexp.MustCompile(`terminationGracePeriodSeconds: 45\b`)
	if total := get[time.Duration](c, "drain") + get[time.Duration](c, "shutdown-timeout"); total >= 45*time.Second || !grace.Match(manifest) {
		t.Errorf("it may take %v to stop", total)
	}
}
