package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// TestRooms keeps the arrows between packages pointing down, as the table below has them.
func TestRooms(t *testing.T) {
	const module = "github.com/postern-mail/postern/"
	// What a room may import of ours; "opa" stands for github.com/open-policy-agent/opa.
	allowed := map[string][]string{
		"internal/message":    {},
		"internal/limit":      {},
		"internal/socket":     {},
		"internal/tlsprofile": {},
		"policies":            {},
		"internal/table":      {"opa"},
		"engine":              {"internal/message", "internal/table", "opa"},
		"engine/decisionlog":  {"internal/message", "internal/tlsprofile", "engine", "opa"},
		"bundles":             {"internal/table", "internal/tlsprofile", "opa"},
		"smtpd":               {"internal/message", "internal/limit", "internal/socket", "engine", "smtpd/relay", "smtpd/auth"},
		"smtpd/relay":         {"internal/message", "internal/limit", "internal/socket", "internal/tlsprofile"},
		"smtpd/auth":          {"internal/tlsprofile", "internal/yamldoc"},
		"internal/yamldoc":    {},
		"milter":              {"internal/message", "internal/limit", "internal/socket", "engine"},
	}
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "../../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(pkg.ImportPath, module)
		seen[room] = true
		may, known := allowed[room]
		for _, imp := range pkg.Imports {
			target, ours := strings.CutPrefix(imp, module)
			if strings.HasPrefix(imp, "github.com/open-policy-agent/opa") {
				target, ours = "opa", true
			}
			switch {
			case !ours || strings.HasPrefix(room, "cmd/") || strings.HasPrefix(room, "internal/test") || strings.HasPrefix(room, "internal/tools/"):
			case !known:
				t.Errorf("%s is a room that this test does not know", room)
			case !contains(may, target):
				t.Errorf("%s imports %s; it may import %v", room, target, may)
			}
			if ours && strings.HasPrefix(target, "cmd/") && !strings.HasPrefix(room, "cmd/") {
				t.Errorf("%s imports %s; nothing imports cmd", room, target)
			}
		}
	}
	for room := range allowed {
		if !seen[room] {
			t.Errorf("room %s is gone; take it out of this test", room)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
