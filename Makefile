# Everything builds without cgo; the tests run as whoever calls them and skip what
# needs root if that is not root.
export CGO_ENABLED = 0

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME = 30s
CLANG = clang-19
NEEDS = jq tcpdump ip nft dockerd podman conmon runc containerd $(CLANG) llvm-strip-19
DEBS = jq tcpdump iproute2 nftables docker.io podman conmon runc containerd $(CLANG) llvm-19
# Debian has Caddy and Node as well; what is not there is skipped, aloud.
WITNESSES = tcpdump ip nft nginx apache2 haproxy lighttpd /usr/bin/gunicorn /usr/bin/uvicorn curl node caddy java
WITNESS_DEBS = tcpdump iproute2 nftables nginx-light apache2 haproxy lighttpd gunicorn uvicorn python3-aiohttp python3-requests curl nodejs caddy default-jdk-headless

.PHONY: test check build fuzz bench bench-cost bench-truth test-kernel tools generate generated

# What CI runs: all that must hold for a change.
# One package at a time: real programs keep their time only on a machine that is
# not busy with other tests.
test: tools check generated build
	go test -p 1 ./...

check:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not gofmt-clean:"; echo "$$out"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

# Makes the programs for the kernel anew from their C.
generate:
	go generate ./bpf

# Fails if that changes anything: what is committed is what its source says.
generated:
	@before=$$(cat bpf/*_bpfe?.* | sha256sum); $(MAKE) --no-print-directory generate; \
	if [ "$$before" != "$$(cat bpf/*_bpfe?.* | sha256sum)" ]; then \
		echo "the objects in bpf are not those of its C files: make generate, and commit them"; exit 1; \
	fi

build:
	GOOS=linux GOARCH=amd64 go build -trimpath -o /dev/null .
	GOOS=linux GOARCH=arm64 go build -trimpath -o /dev/null .

# Every fuzz target for FUZZTIME. Not part of test, which runs their seeds: what is
# said of a commit must not depend on which inputs were thought of that day.
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

# Holds verdicts against the logs of real servers and clients.
bench-truth:
	@$(MAKE) --no-print-directory tools NEEDS="$(WITNESSES)" DEBS="$(WITNESS_DEBS)"
	go run ./bench/witness

# What watching costs the machine. Nothing else should run on it.
bench-cost:
	@$(MAKE) --no-print-directory tools NEEDS="nginx wrk tcpdump ip" DEBS="nginx-light wrk tcpdump iproute2"
	go run ./bench/cost

# The tests of package bpf on Debian's kernels 5.10, 6.1 and 6.12, in virtual machines
# that need no support of the processor: a minute or two each.
test-kernel:
	@$(MAKE) --no-print-directory tools NEEDS="qemu-system-x86_64 ip" DEBS="qemu-system-x86 iproute2"
	go run ./bench/kernels

# What some tests call and a fresh Debian lacks.
tools:
	@missing=; for c in $(NEEDS); do command -v $$c >/dev/null || missing=1; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(DEBS); \
	fi
