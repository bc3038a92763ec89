# Postern: the commands that people and CI run. `make test` is the gate's own command.
GO ?= go
FUZZTIME ?= 30s
SOAK ?= 10m

.PHONY: build test rego fuzz bench soak golden clean

build: ## one static binary in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/postern ./cmd/postern

test: rego ## everything, with the race detector, nothing skipped
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'gofmt would change these files'; exit 1; }
	$(GO) vet ./...
	$(GO) test -race -timeout 15m ./...

rego: ## the default bundle with stock OPA alone
	$(GO) tool opa fmt --fail --list policies
	$(GO) tool opa check --strict --schema policies/schemas/input.json policies
	$(GO) tool opa test policies

golden: ## rewrite the wanted results of the golden transactions; review the diff like code
	$(GO) test ./cmd/postern -run Golden -update

fuzz: ## every fuzz target for FUZZTIME each
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x -parallel 2 $$pkg || exit 1; \
	  done; done

bench: build ## figures: engine alone, then submission and milter end to end
	$(GO) test -run '^$$' -bench . -benchmem ./engine/...
	$(GO) run ./testdata/bench -postern bin/postern

soak: build ## load, reloads, faults and bad clients for SOAK; fails where something is lost or grows
	$(GO) run ./testdata/soak -postern bin/postern -for $(SOAK) $(SOAKFLAGS)

clean:
	rm -rf bin
