// Command gen writes what is derived from the declaration of the policy input (contract.Facts). Run it by go generate in
// engine/contract; a test fails where a generated file is stale.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run("../.."); err != nil { // go generate runs in engine/contract
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// run writes every generated file below root, the directory of the module.
func run(root string) error {
	files, err := generate(root)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the content of every generated file by its path below root. It reads the documentation page of which it
// writes a part.
func generate(root string) (map[string][]byte, error) {
	files := map[string][]byte{"policies/schemas/input.json": schema()}
	for name, make := range map[string]func() ([]byte, error){
		"engine/contract/facts_gen.go": contractSource,
		"engine/facts_gen.go":          engineSource,
		docsPage:                       func() ([]byte, error) { return docs(filepath.Join(root, docsPage)) },
	} {
		content, err := make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[name] = content
	}
	return files, nil
}
