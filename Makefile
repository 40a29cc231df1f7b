# Every target sets up what it needs by itself. `make help` lists them.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
NEWEST := .venv-peers6
BENCH := .venv-bench
SERVICES := .venv-services
PIP := -m pip install --quiet --disable-pip-version-check
REFUSAL := graphsurgery needs Python 3.11 or newer, and $(PYTHON) is {}.{}. Name another one: make PYTHON=python3.12 TARGET
CHECK_PYTHON = @$(PYTHON) -c 'import sys; sys.exit("$(REFUSAL)".format(*sys.version_info) if sys.version_info < (3, 11) else 0)'
export HF_HUB_OFFLINE := 1
unexport PYTHONDONTWRITEBYTECODE # or every test process would compile the package and the tests anew

PEER_TESTS := -m pytest -q -n 2 --dist worksteal --override-ini="addopts=-ra --strict-markers" tests/peers
SERVICE_TESTS := -m pytest -q --override-ini="addopts=-ra --strict-markers" tests/services

.DEFAULT_GOAL := help
.PHONY: help demo demo-minilm serve-demo first-hour test test-peers test-peers-newest test-services test-combinations lint types format fixtures bench bench-peers bench-padding-free bench-embedder bench-quantize bench-serve fault-table exports-table optimize-table attention-lengths pooled-token optimize-cost clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## inspect, pool, normalise and verify a fixture export, then embed sentences with it (no torch)
	$(VENV)/bin/python demo/demo.py

demo-minilm: $(PEERS)/.peers ## the same from the real all-MiniLM-L6-v2, Optimum export included (installs torch)
	$(PEERS)/bin/python demo/demo_minilm.py

test: $(VENV)/.test ## the torch-free test suite
	$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal

test-peers: $(PEERS)/.peers ## reference tests against PyTorch, sentence-transformers 5.7 and Optimum
	$(PEERS)/bin/python $(PEER_TESTS)

test-peers-newest: $(NEWEST)/.peers ## those that say something new beside sentence-transformers 6 and transformers 5
	$(NEWEST)/bin/python $(PEER_TESTS)

test-services: $(SERVICES)/.services ## the service beside real clients and Redis, and Ray (needs redis-server)
	$(SERVICES)/bin/python $(SERVICE_TESTS) --ignore tests/services/test_ray_serve.py
	$(SERVICES)/bin/python $(SERVICE_TESTS)/test_ray_serve.py # a second Ray in one process may wait for ever

serve-demo: $(VENV)/.serve ## serve a folder, ask it with OpenAI's client, and end the service
	$(VENV)/bin/python demo/serve_demo.py

first-hour: $(VENV)/.test ## do the README as a newcomer does, in fresh clones and environments, and compare what the terminal shows
	$(VENV)/bin/python tests/first_hour/first_hour.py

test-combinations: $(VENV)/.test ## every rewrite behind every other one on every fixture (many minutes; `make test` has a sample)
	$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal --override-ini="addopts=-ra --strict-markers" tests/combinations

lint: $(VENV)/.test ## ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.test ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.test ## mypy, strict
	$(VENV)/bin/mypy

generated: $(VENV)/.test ## the stub, the tables of edits and the reference pages, from declarations and docstrings
	$(VENV)/bin/python scripts/generate.py

fixtures: $(PEERS)/.peers $(NEWEST)/.peers ## make the committed fixtures again, in both forms
	$(PEERS)/bin/python fixtures/make_fixtures.py
	$(NEWEST)/bin/python fixtures/make_fixtures.py

bench: $(PEERS)/.peers ## what an edit costs, beside onnx, onnx-graphsurgeon and onnx-ir
	$(PEERS)/bin/python benchmarks/surgery_cost.py

bench-peers: $(BENCH)/.bench ## all-MiniLM-L6-v2 on PyTorch, ONNX Runtime, fastembed, OpenVINO and by our files (Linux, half an hour)
	$(BENCH)/bin/python benchmarks/peers.py --write

bench-padding-free: $(PEERS)/.peers ## padding-free files of all-MiniLM-L6-v2 by several plans: speed and memory (Linux, a quarter of an hour)
	$(PEERS)/bin/python benchmarks/padding_free.py --write

bench-embedder: $(BENCH)/.bench ## the Embedder beside other ways to embed the same texts, and its options (Linux, half an hour)
	$(BENCH)/bin/python benchmarks/embedder.py --write
	$(BENCH)/bin/python benchmarks/session_options.py --write

bench-quantize: $(BENCH)/.bench ## quantised files of all-MiniLM-L6-v2, ours and other programs': quality, size and speed (Linux, some two hours)
	$(BENCH)/bin/python benchmarks/quantize.py --write

bench-serve: $(SERVICES)/.services $(PEERS)/.peers ## the service beside a tutorial's, on all-MiniLM-L6-v2, for docs/serving.md (Linux, redis-server, 40 minutes)
	test -f .demo/minilm/model.onnx || $(PEERS)/bin/python demo/demo_minilm.py
	$(SERVICES)/bin/python benchmarks/serve.py --write

fault-table: $(VENV)/.test ## the table of docs/verification.md: planted faults by kind of interface, and how many are caught
	$(VENV)/bin/python benchmarks/planted_faults.py --write

exports-table: $(NEWEST)/.peers ## the table of docs/verification.md: exports in dynamo form, by family
	$(NEWEST)/bin/python benchmarks/exports_table.py --write

optimize-table: $(PEERS)/.peers ## the table of docs/optimize.md: what fuses, how exact, how fast, by architecture
	$(PEERS)/bin/python benchmarks/optimize_table.py --write

attention-lengths: $(PEERS)/.peers ## the table of docs/optimize.md: attention by length, speed and memory (Linux, some minutes)
	$(PEERS)/bin/python benchmarks/attention_lengths.py --write

pooled-token: $(PEERS)/.peers ## all-MiniLM-L6-v2 with cls pooling: what the rewrite pooled-token gains, for docs/performance.md (some minutes)
	$(PEERS)/bin/python benchmarks/pooled_token.py --write

optimize-cost: $(VENV)/.test ## the table of docs/optimize.md: seconds and memory by size (6 GB of disk)
	$(VENV)/bin/python benchmarks/optimize_cost.py --write

clean: ## remove environments, caches and demo output
	rm -rf $(VENV) $(PEERS) $(NEWEST) $(BENCH) $(SERVICES) .demo .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) -e .
	@touch $@

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) -e '.[serve]' 'openai>=1.50'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python $(PIP) -e '.[test]'
	@touch $@ $(VENV)/.demo

# An unpinned torch pulls gigabytes of CUDA packages, so the pinned one goes in first.
$(PEERS)/.peers: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP) torch==2.13.0
	$(PEERS)/bin/python $(PIP) -e '.[peers]'
	@touch $@

$(NEWEST)/.peers: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(PIP) torch==2.13.0
	$(NEWEST)/bin/python $(PIP) -e '.[peers-newest]'
	@touch $@

$(BENCH)/.bench: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python $(PIP) torch==2.13.0
	$(BENCH)/bin/python $(PIP) -e '.[bench-peers]'
	@touch $@

$(SERVICES)/.services: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(SERVICES)
	$(SERVICES)/bin/python $(PIP) -e '.[services]'
	@touch $@
