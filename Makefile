CLANG ?= clang-14
STRIP ?= llvm-strip-14
export BPF2GO_CC := $(CLANG)
export BPF2GO_STRIP := $(STRIP)
export BPF2GO_CFLAGS := -O2 -g -Wall -Wextra -Werror -mcpu=v2 -fno-ident

generate: ## rebuild the committed BPF objects (needs clang-14)
	go generate ./bpf
