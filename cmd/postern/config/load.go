package config

import (
	"errors"
	"path/filepath"

	"github.com/postern-mail/postern/internal/yamldoc"
)

// maxFile bounds the size of postern.yaml, in bytes.
const maxFile = 1 << 20

// Load reads a configuration file. dir replaces its state_dir if it is not "". The error is yamldoc.Findings. If the file is YAML, Load also
// returns a Config with what is right and defaults for the rest, so that Validate can check more.
func Load(path, dir string) (*Config, error) {
	doc, err := yamldoc.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	return read(doc, dir)
}

// Check is Load and Validate. It returns all findings, warnings as well. The Config is nil if the file is not YAML.
func Check(path, dir string) (*Config, yamldoc.Findings) {
	c, err := Load(path, dir)
	var found yamldoc.Findings
	if err != nil && !errors.As(err, &found) {
		found = yamldoc.Findings{{File: path, Problem: err.Error()}}
	}
	if c == nil {
		return nil, found
	}
	return c, append(found, c.Validate()...).Sorted()
}

// read reads a parsed document.
func read(doc *yamldoc.Doc, dir string) (*Config, error) {
	c := defaults(filepath.Dir(doc.File))
	c.File, c.doc, c.at = doc.File, doc, map[string]yamldoc.Pos{}
	r := &reader{c: c, dir: filepath.Dir(doc.File)}
	r.root(doc.Root())
	if dir != "" {
		c.StateDir = dir
	}
	c.fill()
	if found := doc.Findings(); found != nil {
		return c, found
	}
	return c, nil
}

// Written reports whether the file has the key.
func (c *Config) Written(key string) bool { _, ok := c.at[key]; return ok }

// fill sets the defaults that depend on other values.
func (c *Config) fill() {
	// Without any listener, serve submission on loopback. A file with a milter and no submission section wants only the milter.
	if !c.Submission.Enabled() && !c.Written("submission.listen") && !c.Written("submission.listen_tls") &&
		(len(c.Milter.Listen) == 0 || c.Written("submission")) {
		c.Submission.Listen = []string{"127.0.0.1:2587"}
		c.Submission.ListenTLS = []string{"127.0.0.1:2465"}
	}
	if !c.Written("auth") {
		c.Auth = []Auth{{File: filepath.Join(c.StateDir, "users.yaml"), Scram: "auto"}}
	}
	if len(c.Relay.To) == 0 {
		c.Relay.To = []Target{{URL: "maildir:" + filepath.Join(c.StateDir, "outbox")}}
	}
	if c.Relay.Quarantine == "" {
		c.Relay.Quarantine = filepath.Join(c.StateDir, "quarantine")
	}
	if c.Relay.Connections == 0 {
		c.Relay.Connections = max(c.Submission.Limits.Connections/2, 1)
	}
	if !c.Written("decision_log") {
		c.DecisionLog.File = filepath.Join(c.StateDir, "decisions.jsonl")
	}
	if c.DecisionLog.Mask.KeyFile == "" {
		c.DecisionLog.Mask.KeyFile = filepath.Join(c.StateDir, "decision-mask.key")
	}
	for i := range c.Milter.Listen {
		if !c.Written(milterKey(i) + ".on_error") {
			c.Milter.Listen[i].OnError = c.Policy.OnError
		}
	}
}

// SelfSigned returns the files of the self-signed certificate, or false if the configuration names a certificate.
func (c *Config) SelfSigned() (cert, key string, ok bool) {
	if c.Submission.TLS.Cert != "" || c.Submission.TLS.Key != "" {
		return "", "", false
	}
	dir := filepath.Join(c.StateDir, "tls")
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), true
}
