package main

import (
	"bufio"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// metrics are those of a running site, by name and labels as /metrics writes them.
func (s *site) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	r, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
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
