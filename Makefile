# Everything builds without cgo; the tests run as whoever calls them and skip what
# needs root if that is not root.
export CGO_ENABLED = 0

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME = 5s
NEEDS = jq tcpdump ip
DEBS = jq tcpdump iproute2

.PHONY: test check build fuzz bench tools

# What CI runs: all that must hold for a change.
test: tools check build
	go test ./...
	$(MAKE) --no-print-directory fuzz

check:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not gofmt-clean:"; echo "$$out"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

build:
	GOOS=linux GOARCH=amd64 go build -trimpath -o /dev/null .
	GOOS=linux GOARCH=arm64 go build -trimpath -o /dev/null .

# Every fuzz target for FUZZTIME.
fuzz:
	@set -e; for p in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "fuzz $$p $$f"; \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; \
		done; \
	done

# Makes three captures of a gigabyte once, and compares whole processes on them.
bench:
	@$(MAKE) --no-print-directory tools NEEDS="tcpdump ip tcptrace tshark" DEBS="tcpdump iproute2 tcptrace tshark"
	go run ./bench/load
	go run ./bench/compare

# What some tests call and a fresh Debian lacks.
tools:
	@missing=; for c in $(NEEDS); do command -v $$c >/dev/null || missing=1; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(DEBS); \
	fi
