package explain

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/postern/terminal"
)

// TestSearchBackward finds lines at every place of a file that is read in blocks, and stops when what is left is too old.
func TestSearchBackward(t *testing.T) {
	line := func(id, day string) string {
		return `{"decision_id":"d-` + id + `","timestamp":"2026-06-` + day + `T00:00:00Z","id":"` + id + `","stage":"mail","result":{"verdict":"accept","rules":[]}}` + "\n"
	}
	filler := strings.Repeat(line("other", "10"), 2*searchBlock/len(line("other", "10")))
	for name, c := range map[string]struct {
		text string
		hits int
	}{
		"first line":         {line("x", "10") + filler, 1},
		"last line":          {filler + line("x", "10"), 1},
		"no line end":        {filler + strings.TrimSuffix(line("x", "10"), "\n"), 1},
		"everywhere":         {line("x", "10") + filler + line("x", "10") + filler + line("x", "10"), 3},
		"none":               {filler, 0},
		"the id of long ago": {line("x", "01") + strings.ReplaceAll(filler, "06-10", "06-02") + filler + line("x", "10"), 1},
		"a huge line":        {line("x", "10") + `{"z":"` + strings.Repeat("y", 3*searchBlock) + "\"}\n" + line("x", "10"), 2},
	} {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := NewSearch("x", nil, terminal.StartProgress(io.Discard, 0), nil)
		if err := s.Run(t.Context(), []string{file}); err != nil || len(s.hits) != c.hits || len(s.Bad) > 0 {
			t.Errorf("%s: %d hits, want %d; %v %v", name, len(s.hits), c.hits, s.Bad, err)
		}
	}
}
