package main

import (
	"bufio"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// metrics holds the values of /metrics by name with labels. Under the name alone is the sum of all its labels.
type metrics map[string]float64

func (s *site) metrics() (metrics, error) {
	client := http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := metrics{}
	in := bufio.NewScanner(resp.Body)
	for in.Scan() {
		line := in.Text()
		i := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || i < 0 {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			continue
		}
		m[line[:i]] += v
		if name, _, labelled := strings.Cut(line[:i], "{"); labelled {
			m[name] += v
		}
	}
	return m, in.Err()
}

// sum returns the sum of the values with the name and a label.
func (m metrics) sum(name, label string) float64 {
	total := 0.0
	for k, v := range m {
		if strings.HasPrefix(k, name+"{") && strings.Contains(k, label) {
			total += v
		}
	}
	return total
}

// revision returns the metric with the revision of the active policy.
func (m metrics) revision() string {
	for k, v := range m {
		if strings.HasPrefix(k, "postern_policy_revision{") && v == 1 {
			return k
		}
	}
	return ""
}
