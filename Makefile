# The commands that people and CI run. `.ci/test` installs what `make test` needs on Debian and then calls it.
GO ?= go
FUZZ ?= Fuzz.*
FUZZTIME ?= 30s
SOAK ?= 10m
KILLS ?= 200

.PHONY: build test quick lint rego vuln fuzz fuzz-targets bench bench-once bench-peers soak nightly golden clean

build: ## one static binary in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o bin/postern ./cmd/postern

test: lint rego ## all tests, with the race detector; needs root and what .ci/install installs
	$(GO) test -race -timeout 15m ./...

quick: ## in about a minute: the tests that need neither real servers nor many seconds, without the race detector
	$(GO) test -short ./...
	@echo 'left out: tests that need real servers or many seconds; .ci/test runs them'

lint: ## gofmt, vet, staticcheck, deadcode
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "$$unformatted"; echo 'gofmt would change these files'; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@unused=$$($(GO) tool deadcode -test ./...) || exit 1; test -z "$$unused" || { echo "$$unused"; echo 'nothing calls these functions: delete them'; exit 1; }

rego: ## the default bundle, by stock OPA
	$(GO) tool opa fmt --fail --list policies
	$(GO) tool opa check --strict --schema policies/schemas/input.json policies
	$(GO) tool opa test --timeout 60s policies

vuln: ## known vulnerabilities in called code; .ci/vuln exits with 4 if no database could be reached
	.ci/vuln

golden: ## rewrite the expected results of the golden transactions; review the diff like code
	$(GO) test ./cmd/postern -run Golden -update

fuzz: ## each fuzz target for FUZZTIME; only some: make fuzz FUZZ=FuzzHeader FUZZTIME=10m
	@list=$$($(MAKE) -s --no-print-directory fuzz-targets) || exit 1; \
	ulimit -v 8388608; n=0; \
	echo "$$list" | while read -r pkg target; do \
	  n=$$((n + 1)); echo "== $$n of $$(echo "$$list" | wc -l): $$target in $$pkg for $(FUZZTIME)"; \
	  GOMEMLIMIT=1GiB $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x -parallel 1 -timeout 0 $$pkg || { \
	    seed=$$(ls -t $$pkg/testdata/fuzz/$$target 2>/dev/null | head -1); \
	    echo "== $$target failed. If it found an input, that is $$pkg/testdata/fuzz/$$target/$$seed. Fix the fault, give the file a name that describes it, and commit it"; \
	    echo "== to run it again: $(GO) test $$pkg -run '^$$target\$$/^$$seed\$$'"; exit 1; }; \
	done

fuzz-targets: ## lists the fuzz targets that FUZZ matches, each with its package
	@git grep -Eo '^func Fuzz[A-Za-z0-9]+' -- '*_test.go' | sed -E 's|^(.*)/[^/]*:func (.*)$$|./\1 \2|' | grep -E ' ($(FUZZ))$$' || { echo 'no fuzz target matches FUZZ=$(FUZZ)' >&2; exit 1; }

bench: build ## measure the engine, then submission and milter together with comparable servers, and how costs grow
	$(GO) test -run '^$$' -bench 'Input$$|Least|IndexedRules|WithData|DecideMessage|Decode|Record' -benchmem ./engine/...
	$(GO) run ./internal/tools/bench -postern bin/postern -json bench.json -svg docs/img

bench-peers: ## install the servers that bench compares with (Debian packages, Haraka from npm); starts none
	$(GO) run ./internal/tools/bench -install-peers

bench-once: ## run every Go benchmark once, to see that it works; times are not checked
	$(GO) test -short -run '^$$' -bench . -benchtime 1x $$(git grep -l '^func Benchmark' -- '*_test.go' | xargs -n 1 dirname | sort -u | sed 's|^|./|')

soak: build ## load, reloads, faults and bad clients for the time SOAK; fails if anything is lost or grows
	$(GO) run ./internal/tools/soak -postern bin/postern -for $(SOAK) $(SOAKFLAGS)

# These differ from the defaults above. SINCE=COMMIT fuzzes only what changed since COMMIT, and BESIDE=1 gives soak and the rest a processor each.
nightly: SOAK = 60m
nightly: FUZZTIME = 10m
nightly: ## an hour's soak, 200 kill -9 of each kind, and all fuzz targets for 10 minutes each; logs and summary in nightly/
	$(GO) run ./internal/tools/nightly -soak '$(SOAK)' -soak-flags '$(SOAKFLAGS)' -kills '$(KILLS)' -fuzz '$(FUZZ)' -fuzz-time '$(FUZZTIME)' -since '$(SINCE)' $(if $(BESIDE),-beside)

clean:
	rm -rf bin bench.json nightly
