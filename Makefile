# The one version of the compiler that makes the committed objects.
CLANG := clang-14
STRIP := llvm-strip-14
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

export BPF2GO_CC := $(CLANG)
export BPF2GO_STRIP := $(STRIP)
export BPF2GO_CFLAGS := -O2 -g -Wall -Wextra -Werror -mcpu=v2 -fno-ident

# Those of make e2e beside them: runc, an old containerd, and nft for kube-proxy and the portmap plugin.
DEPS_E2E := busybox containerd musl-tools nftables nsd runc

# Debian packages that the tests talk to: nameservers, C libraries, clients.
DEPS := iproute2 make gcc libc6-dev musl-tools libc-ares-dev busybox curl bind9-dnsutils dnsperf \
	nsd unbound nodejs python3 $(CLANG) llvm-14 clang-format-14 \
	qemu-system-x86 xz-utils zstd

# The DNS servers of bench-resolver.
BENCH_DEPS := unbound dnsmasq-base dnsdist knot nsd smartdns pdns-recursor

PRIVILEGED = $(shell go list ./bpf/... ./loader/... ./test/... | grep -vE '/test/(matrix|vmexec|kube|cluster|e2e)')
UNPRIVILEGED = $(shell go list ./resolver/... ./cmd/... ./deploy/... | grep -v /kube/live)
RACE := $(if $(shell command -v gcc),-race)

.PHONY: help build image demo test test-names bench-names churn-names race matrix kube e2e lint generate check-generated fmt deps deps-bench deps-e2e bench bench-agent bench-coredns bench-resolver soak fuzz clean

help: ## show this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

build: ## build bin/dnsteer, bin/dnsteer-agent and bin/dnsteer-cni
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

image: build ## write bin/dnsteer-image.tar, the container image (IMAGE=name:tag)
	go run ./deploy/image $(if $(IMAGE),-name $(IMAGE))

demo: build ## the story, for real: netfilter, then dnsteer (needs root)
	go run ./test/demo -dnsteer bin/dnsteer

test: lint check-generated ## every test, the privileged ones included (needs root and 'make deps')
	go test $(RACE) -count=1 -timeout 20m $(UNPRIVILEGED)
	go test -count=1 -timeout 20m $(PRIVILEGED)
	go test -count=1 -timeout 20m -tags agent -run TestAgent ./test/conformance
	go test -count=1 -timeout 40m ./test/matrix/... ./test/vmexec/...

race: ## the privileged tests under the race detector
	go test -race -count=1 -timeout 40m $(PRIVILEGED)

matrix: ## the privileged tests inside every kernel that Debian serves, or KERNEL=6.1 alone
	go run ./test/matrix $(if $(KERNEL),-kernel $(KERNEL)) $(if $(LEVEL),-level $(LEVEL))

kube: ## build etcd, Kubernetes, containerd and CoreDNS for tests, into .cache/kube (20 minutes once)
	cd test/kube/programs && CGO_ENABLED=0 go build -trimpath -o $(CURDIR)/.cache/kube/ \
		-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)" \
		./hyperkube ./coredns tool
	cd test/kube/containerd && CGO_ENABLED=0 go build -trimpath -o $(CURDIR)/.cache/kube/ -ldflags '-s -w' tool

test-names: ## sources of names on real API servers (needs make kube)
	go test $(RACE) -count=1 -timeout 20m ./cmd/internal/names/kube/live
	go test -count=1 -tags kube -run 'TestCluster|TestRemoved' ./cmd/dnsteer-agent

e2e: kube ## dnsteer on a whole Kubernetes (needs root and 'make deps-e2e'), or RUN=TestHybrid alone
	go test -p 1 -count=1 -timeout 20m -v $(if $(RUN),-run $(RUN)) ./test/kube ./test/cluster ./test/e2e

bench-names: ## freshness, memory and CPU of names of a cluster, or SERVICES=50000 (needs make kube)
	go test -run '^$$' -bench Names -benchtime 1x -timeout 60m ./cmd/internal/names/kube/live

churn-names: ## 10,000 Services (CHURN) that change while 1,000 queries a second ask (needs make kube)
	CHURN=$(or $(CHURN),10000) go test -count=1 -v -run TestChurn -timeout 120m ./cmd/internal/names/kube/live

lint: ## vet, format, static checks, tidy
	go vet ./...
	@test -z "$$(gofmt -l bpf cmd deploy loader resolver test)" || { gofmt -l bpf cmd deploy loader resolver test; echo 'run: make fmt'; exit 1; }
	go run $(STATICCHECK) ./...
	go mod tidy -diff

generate: ## rebuild the committed BPF objects (needs clang-14, nothing else)
	go generate ./bpf

check-generated: ## tell whether the committed BPF objects are what clang makes
	@if command -v $(CLANG) >/dev/null; then \
		sum=$$(cat bpf/steer_bpfel.* | sha256sum) && $(MAKE) -s generate && \
		test "$$sum" = "$$(cat bpf/steer_bpfel.* | sha256sum)" || { echo 'bpf/ differs from its source: commit what make generate made'; exit 1; }; \
	else echo 'no $(CLANG): the committed BPF objects are used as they are'; fi

fmt: ## format Go and C
	gofmt -w bpf cmd deploy loader resolver test
	clang-format-14 -i bpf/*.c bpf/*.h bpf/headers/*.h

deps: ## install the Debian packages that the tests use
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(DEPS)

deps-bench: ## install the DNS servers that bench-resolver measures beside ours
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(BENCH_DEPS)

deps-e2e: ## install the Debian packages that 'make e2e' uses
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(DEPS_E2E)

bench-agent: ## 250 idle pods on a node, and 100 that come and go each second (needs root)
	go test -run '^$$' -bench . -benchtime 1x -timeout 20m ./cmd/dnsteer-agent

bench: ## what a hook costs, and a query (needs root)
	go test -run '^$$' -bench . -benchmem ./test/bench

bench-coredns: ## build bin/coredns for bench-resolver, which takes some minutes
	cd test/bench/coredns && go build -o ../../../bin/coredns github.com/coredns/coredns

bench-resolver: ## the resolver beside other DNS servers, 5 minutes (needs root and 'make deps-bench')
	go run ./test/bench/resolver

soak: ## dnsteer run for 10 minutes at 70 % of capacity, with reloads and outages (needs root)
	go test -count=1 -timeout 30m -v ./test/soak -soak 10m

fuzz: ## each fuzz test for FUZZTIME, 20s
	@for package in $$(go list ./...); do \
		for fuzz in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			go test -run '^$$' -fuzz "^$$fuzz$$" -fuzztime $(or $(FUZZTIME),20s) $$package || exit 1; \
		done; done

clean: ## remove what was built
	rm -rf bin
