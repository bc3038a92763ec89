package policies_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/postern-mail/postern/policies"
)

// TestDocumentSchema: schemas/documents/operator.json accepts valid documents, among them the one in
// docs/reference/default-policy.md, and refuses common mistakes.
func TestDocumentSchema(t *testing.T) {
	schema := documentSchema(t)
	doc, err := os.ReadFile("../docs/reference/default-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```yaml\n(senders:.*?)```").FindSubmatch(doc)
	if shown == nil {
		t.Fatal("docs/reference/default-policy.md shows no data document")
	}
	bundled, err := fs.ReadFile(policies.FS, "data.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"shown":   string(shown[1]),
		"bundled": string(bundled),
		"date":    "senders: {alice: [{address: a@example.com, until: 2026-12-31}]}",
		"offset":  `senders: {alice: [{address: "@example.com", as: send-as, until: 2026-12-31T00:00:00.5+02:00}]}`,
	} {
		if !matches(t, schema, text) {
			t.Errorf("%s: refused:\n%s", name, text)
		}
	}
	for _, text := range []string{
		"sender: {}",
		"senders: [alice]",
		"senders: {alice: a@example.com}",
		"senders: {alice: [alice]}",
		"senders: {alice: [a@b@example.com]}",
		"senders: {alice: [1]}",
		"senders: {alice: [{as: on-behalf}]}",
		"senders: {alice: [{address: a@example.com, as: onbehalf}]}",
		"senders: {alice: [{address: a@example.com, until: soon}]}",
		"senders: {alice: [{address: a@example.com, untill: 2026-12-31}]}",
		"senders: {alice: [{address: a@example.com, until: 2026-13-31}]}",
		"groups: {sales: [group:other]}",
		"settings: {domian: example.com}",
		`settings: {domain: "@example.com"}`,
		"settings: {max_recipients: 0}",
		"settings: {require_auth: maybe}",
		"settings: {sender: drop}",
	} {
		if matches(t, schema, text) {
			t.Errorf("accepted: %s", text)
		}
	}
}

// TestSettingsAreDescribed: rules, schema and docs/reference/default-policy.md have the same settings.
func TestSettingsAreDescribed(t *testing.T) {
	properties := documentSchema(t)["properties"].(map[string]any)["settings"].(map[string]any)["properties"].(map[string]any)
	var inSchema, inRego, inDocs []string
	for name := range properties {
		inSchema = append(inSchema, name)
	}
	for _, r := range parse(t, embedded(t))["postern/lib/settings/settings.rego"].Rules {
		if r.Default {
			inRego = append(inRego, r.Head.Name.String())
		}
	}
	doc, err := os.ReadFile("../docs/reference/default-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)\n### Settings\n(.*?)\n## `).FindSubmatch(doc)
	if table == nil {
		t.Fatal("docs/reference/default-policy.md has no table of settings")
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllSubmatch(table[1], -1) {
		inDocs = append(inDocs, string(m[1]))
	}
	for _, names := range [][]string{inSchema, inRego, inDocs} {
		slices.Sort(names)
	}
	if len(inRego) == 0 || !slices.Equal(inSchema, inRego) || !slices.Equal(inSchema, inDocs) {
		t.Errorf("schema %v\nrules  %v\ndocs   %v", inSchema, inRego, inDocs)
	}
}

func documentSchema(t *testing.T) map[string]any {
	t.Helper()
	text, err := fs.ReadFile(policies.FS, "schemas/documents/operator.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// matches reports whether OPA's validator finds that a YAML document satisfies a schema.
func matches(t *testing.T, schema map[string]any, text string) bool {
	t.Helper()
	var document any
	if err := util.Unmarshal([]byte(text), &document); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	rs, err := rego.New(
		rego.Query("json.match_schema(input.document, input.schema)[0]"),
		rego.Input(map[string]any{"document": document, "schema": schema}),
		rego.StrictBuiltinErrors(true),
	).Eval(context.Background())
	if err != nil || len(rs) != 1 {
		t.Fatalf("%s: %v", text, err)
	}
	return rs[0].Expressions[0].Value.(bool)
}
