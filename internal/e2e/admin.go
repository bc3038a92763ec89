package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// Get returns what the admin server answers with status 200.
func Get(t testing.TB, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	testenv.Must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(url, resp.Status, err)
	}
	return string(text)
}

// Metrics returns the metrics, by name and labels as /metrics writes them.
func (s *Site) Metrics(t testing.TB) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(Get(t, "http://"+s.Admin+"/metrics"))); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "} ")
		if name += "}"; !ok {
			name, value, _ = strings.Cut(lines.Text(), " ")
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(name, "#") {
			all[name] = v
		}
	}
	return all
}

// Health is what /healthz?verbose answers.
type Health struct {
	Status, Revision string
	Refused          struct {
		Stage    string
		Findings []struct {
			File, Message string
			Line          int
		}
	} `json:"policy_refused"`
}

// UntilHealth waits until ok accepts the program's health, for at most a minute. what says in the failure message what was awaited.
func (s *Site) UntilHealth(t testing.TB, what string, ok func(Health) bool) {
	t.Helper()
	var text []byte
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + s.Admin + "/healthz?verbose")
		testenv.Must(t, err)
		text, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		var h Health
		if err == nil && json.Unmarshal(text, &h) == nil && ok(h) {
			return
		}
	}
	t.Fatalf("the health was not %s after a minute. The last answer:\n%s", what, text)
}
