package policies_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine"
)

// TestChecked: `postern check` has no findings in the default bundle, alone and with each recipe of the cookbook, tests
// included. Data that a recipe asks the operator for is not in the bundle.
func TestChecked(t *testing.T) {
	recipes := cookbook(t)
	recipes["none"] = nil
	for title, files := range recipes {
		t.Run(title, func(t *testing.T) {
			all := embedded(t)
			maps.Copy(all, files)
			b := &bundle.Bundle{Data: data()}
			for _, name := range slices.Sorted(maps.Keys(all)) {
				b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Raw: all[name]})
			}
			for _, f := range engine.Check(context.Background(), b, engine.Options{Timeout: 10 * time.Second, Tests: true}) {
				if title == "none" || f.Code != "missing-data" {
					t.Errorf("%v", f)
				}
			}
		})
	}
}
