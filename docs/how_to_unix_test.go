//go:build unix

package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestCIPage runs the commands of how-to/ci.md in a repository that postern init makes.
func TestCIPage(t *testing.T) {
	dir, env := policyRepository(t)
	copyFile(t, "testdata/decisions.jsonl", filepath.Join(dir, "decisions.jsonl"))
	copyFile(t, "testdata/approvals.yaml", filepath.Join(dir, "approvals.yaml"))
	shell(t, dir, env, "mkdir main && cp -r policy data main")
	commands := stepsOf(read(t, "how-to/ci.md"))
	if len(commands) < 4 {
		t.Fatalf("only %d blocks of commands", len(commands))
	}
	for _, c := range commands {
		shell(t, dir, append(env, "GIT_COMMIT=4b825dc"), c.commands)
	}
	for _, made := range []string{"report.xml", "bundle.tar.gz"} {
		if _, err := os.Stat(filepath.Join(dir, made)); err != nil {
			t.Error(err)
		}
	}
}

// TestKubernetesPage reads the manifest of how-to/kubernetes.md, looks whether its parts fit together, and lets postern check its
// configuration with the files where the pod mounts them.
func TestKubernetesPage(t *testing.T) {
	page := read(t, "how-to/kubernetes.md")
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d manifests", len(blocks))
	}
	type container struct {
		Args         []string
		Ports        []struct{ Name string }
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
		Readiness struct {
			HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
		} `yaml:"readinessProbe"`
	}
	var set struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers []container
					Volumes    []struct{ Name string }
				}
			}
			Claims []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
		}
	}
	var config struct{ Data map[string]string }
	var service struct {
		Spec struct {
			Ports []struct {
				TargetPort string `yaml:"targetPort"`
			}
		}
	}
	kinds := map[string]any{"ConfigMap": &config, "StatefulSet": &set, "Service": &service, "NetworkPolicy": new(any)}
	decoder := yaml.NewDecoder(strings.NewReader(blocks[0][1]))
	for range kinds {
		var doc yaml.Node
		var kind struct{ Kind string }
		if err := decoder.Decode(&doc); err != nil {
			t.Fatal(err)
		}
		if err := doc.Decode(&kind); err != nil || kinds[kind.Kind] == nil {
			t.Fatalf("%v %v", kind, err)
		}
		if err := doc.Decode(kinds[kind.Kind]); err != nil {
			t.Fatal(err)
		}
	}
	pod := set.Spec.Template.Spec
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	c := pod.Containers[0]
	var ports, volumes []string
	for _, p := range c.Ports {
		ports = append(ports, p.Name)
	}
	for _, p := range service.Spec.Ports {
		if !slices.Contains(ports, p.TargetPort) {
			t.Errorf("the service has the port %s, the container only %q", p.TargetPort, ports)
		}
	}
	if c.Readiness.HTTPGet.Path != "/healthz" || !slices.Contains(ports, c.Readiness.HTTPGet.Port) {
		t.Errorf("readiness asks %+v", c.Readiness)
	}
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, v := range set.Spec.Claims {
		volumes = append(volumes, v.Metadata.Name)
	}

	repository, env := policyRepository(t)
	shell(t, repository, env, stepsOf(page)[0].commands)
	root := t.TempDir()
	file := func(path, from, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if from != "" {
			copyFile(t, from, path)
		} else if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.VolumeMounts {
		if !slices.Contains(volumes, m.Name) {
			t.Errorf("the mount %s has no volume", m.Name)
		}
		switch m.Name {
		case "config":
			for name, text := range config.Data {
				text = strings.ReplaceAll(text, "/etc/postern", root+"/etc/postern")
				file(m.MountPath+"/"+name, "", strings.ReplaceAll(text, "/var/lib/postern", root+"/var/lib/postern"))
			}
		case "bundle":
			file(m.MountPath+"/bundle.tar.gz", filepath.Join(repository, "bundle.tar.gz"), "")
		case "users":
			shell(t, repository, env, "echo secret | postern passwd alice --file users.yaml")
			file(m.MountPath+"/users.yaml", filepath.Join(repository, "users.yaml"), "")
		case "tls":
			shell(t, repository, env, "openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 30 -subj /CN=mail.example.com -addext subjectAltName=DNS:mail.example.com 2>&1")
			file(m.MountPath+"/tls.crt", filepath.Join(repository, "tls.crt"), "")
			file(m.MountPath+"/tls.key", filepath.Join(repository, "tls.key"), "")
		default:
			if err := os.MkdirAll(filepath.Join(root, m.MountPath), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	i := slices.Index(c.Args, "--config")
	if i < 0 {
		t.Fatalf("arguments %q", c.Args)
	}
	shell(t, root, env, "postern check --strict --config "+filepath.Join(root, c.Args[i+1]))
}

// policyRepository returns a directory that postern init made and an environment in which postern and opa are found.
func policyRepository(t *testing.T) (dir string, env []string) {
	t.Helper()
	testenv.NotShort(t, "the commands of a page, which take seconds")
	bin := t.TempDir()
	if err := os.Symlink(build(t), filepath.Join(bin, "postern")); err != nil {
		t.Fatal(err)
	}
	opa, err := exec.Command("go", "tool", "-n", "opa").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(strings.TrimSpace(string(opa)), filepath.Join(bin, "opa")); err != nil {
		t.Fatal(err)
	}
	env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	parent := t.TempDir()
	shell(t, parent, env, "postern init mail-policy")
	return filepath.Join(parent, "mail-policy"), env
}

func shell(t *testing.T, dir string, env []string, commands string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-e", "-o", "pipefail", "-c", commands)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", commands, err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestReadmePolicy lets postern check the policy that README.md shows.
func TestReadmePolicy(t *testing.T) {
	m := regexp.MustCompile("(?s)```rego\n(.*?)```").FindStringSubmatch(read(t, "../README.md"))
	if m == nil {
		t.Fatal("README.md shows no policy")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "interns.rego"), []byte(m[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(build(t), "check", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
