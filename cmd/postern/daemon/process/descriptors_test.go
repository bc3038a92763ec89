package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/postern/config"
)

// TestCheckDescriptors: what does not fit is a warning, and an error where the file asks for connections that cannot be.
func TestCheckDescriptors(t *testing.T) {
	for _, tc := range []struct {
		yaml          string
		allowed       uint64
		warning, fail string
	}{
		{"submission: {listen: ':587'}", 1 << 20, "", ""},
		{"submission: {listen: ':587'}", 0, "", ""},
		{"submission: {listen: ':587'}", 2600, "", ""}, // 100, 1000 clients, 1000 files, 500 at the next hop
		{"submission: {listen: ':587'}", 2599, "allow for 2600 file descriptors, and 2599 are allowed", ""},
		{"submission: {listen: ':587'}", 1024, "allow for 2600 file descriptors, and 1024 are allowed", ""}, // by default, a warning
		{"submission: {listen: ':587', limits: {connections: 1000}}", 1024, "", "take 1100 file descriptors, and 1024 are allowed"},
		{"submission: {listen: ':587', limits: {connections: 10}}\nrelay: {connections: 5, to: [smtp://a, smtp://b]}", 129, "allow for 130", ""},
		{"milter: {listen: 'tcp:127.0.0.1:8891', limits: {connections: 50}}", 199, "allow for 200", ""},
		{"milter: {listen: 'tcp:127.0.0.1:8891', limits: {connections: 50}}", 149, "", "take 150"},
		{"milter: {listen: 'tcp:127.0.0.1:8891'}", 3000, "", ""}, // no submission
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(tc.yaml+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(path, "")
		if err != nil {
			t.Fatal(err)
		}
		warning, err := CheckDescriptors(c, tc.allowed)
		if (warning == "") != (tc.warning == "") || !strings.Contains(warning, tc.warning) || (err == nil) != (tc.fail == "") || err != nil && !strings.Contains(err.Error(), tc.fail) {
			t.Errorf("%s with %d: %q, %v", tc.yaml, tc.allowed, warning, err)
		}
	}
}
