package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestConfigChanged: only values that differ count, wherever they are written.
func TestConfigChanged(t *testing.T) {
	const before = "hostname: mail.example.com\nsubmission: {listen: '127.0.0.1:2587', proxy_protocol: {trusted: [10.0.0.0/8]}}\nrelay: {to: 'maildir:outbox'}\n"
	name := filepath.Join(t.TempDir(), "postern.yaml")
	for text, want := range map[string]string{
		before: "",
		before + "policy: {tests: required}\nadmin: {}\n":              "",
		before + "policy: {tests: 'off'}\nlog: {level: warn}\n":        "log.level policy.tests",
		strings.Replace(before, "mail.example", "mx.example", 1):       "hostname",
		strings.Replace(before, "10.0.0.0/8", "10.0.0.0/9", 1):         "submission.proxy_protocol.trusted[0]",
		strings.Replace(before, "outbox", "/elsewhere/outbox", 1):      "relay.to",
		strings.Replace(before, "hostname: mail.example.com\n", "", 1): "hostname",
	} {
		testenv.Write(t, name, before)
		running, err := Load(name, "/state")
		if err != nil {
			t.Fatal(err)
		}
		testenv.Write(t, name, text)
		next, err := Load(name, "/state")
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := strings.Join(running.Changed(next), " "); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
