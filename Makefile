# Shorthands. Each is one command of the Go toolchain, or .ci/run.

GO ?= go

# How long each fuzz target runs, how often each benchmark.
FUZZTIME ?= 30s
COUNT    ?= 5

GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: check test race lint bench fuzz cover

check: ## what to run before a commit
	.ci/run static
	$(GO) test -shuffle=on ./...

test:
	$(GO) test ./...

race:
	$(GO) test -race -shuffle=on ./...

lint: ## all linters but those that .golangci.yml gives a reason against
	$(GO) run $(GOLANGCI_LINT) run ./...

bench:
	$(GO) test -run '^$$' -bench . -benchmem -count $(COUNT) ./...

fuzz: ## every fuzz target in turn
	@set -e; for pkg in $$($(GO) list ./...); do \
		targets=$$($(GO) test -list '^Fuzz' $$pkg); \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

cover:
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./...
	$(GO) tool cover -func=coverage.out | tail -1
