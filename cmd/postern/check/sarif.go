package check

import (
	"path"
	"path/filepath"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine/contract"
)

// A SARIF 2.1.0 log with what code scanning reads: one run, its rules, and a result for each finding about the policy.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		URI   string      `json:"informationUri"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID    string    `json:"id"`
		Short sarifText `json:"shortDescription"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations,omitempty"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region *sarifRegion `json:"region,omitempty"`
		} `json:"physicalLocation"`
	}
	sarifRegion struct {
		Line   int `json:"startLine"`
		Column int `json:"startColumn,omitempty"`
	}
)

// SARIF returns the findings about the policy as a SARIF log, to be written as JSON. File names are relative to the working directory,
// which in CI is the root of the repository. cfg may be nil.
func (r *Report) SARIF(cfg *config.Config) any {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "postern check", URI: "https://github.com/postern-mail/postern/blob/main/docs/reference/check.md"}
	for _, rule := range contract.Rules() {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{rule.Code, sarifText{rule.About}})
	}
	root := ""
	if cfg != nil && !gate.IsTarball(cfg.Policy.Bundle) {
		root = filepath.ToSlash(cfg.Policy.Bundle)
	}
	for _, f := range r.Policy {
		text := f.Message
		if f.Hint != "" {
			text += ". " + f.Hint
		}
		result := sarifResult{RuleID: f.Code, Level: string(f.Severity), Message: sarifText{text}}
		if f.File != "" {
			var at sarifLocation
			at.Physical.Artifact.URI = path.Join(root, f.File)
			if f.Line > 0 {
				at.Physical.Region = &sarifRegion{f.Line, f.Column}
			}
			result.Locations = []sarifLocation{at}
		}
		run.Results = append(run.Results, result)
	}
	return sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
}
