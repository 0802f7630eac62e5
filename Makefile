# Everything runs in .venv. Needs Python 3.11 or newer with venv, and make.
#   make demo     the embedded pool: target alone, then the router's chain, and that both agree
#   make test     unit, integration, chaos tests; GPU tests where there is a GPU
#   make check    ruff, mypy --strict, unit tests
#   make serve    the OpenAI-compatible service on PORT
#   make bench    beside vLLM and transformers, the short form; first: make bench-peers
#   make bench-clients    lm_eval, aiperf and locust against the service, and what the service costs
#   make tasks-report     what the tasks' drafters of the pool ALIGNED bring, beside CONTROL, the short form
# Another build of torch, e.g. a CUDA one:
#   make demo TORCH=torch==2.13.0+cu130 PIP_ARGS="--extra-index-url <the build's index>"

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
POOL ?= tiny
PORT ?= 8000
PYTEST_ARGS ?=
PEERS ?= .peers
CLIENTS ?= .clients
USERS_SECONDS ?= 300
DATA ?= ../shared/data
ALIGNED ?= tiny-tasks
CONTROL ?=
BENCH_ARGS ?= --short

VENV := .venv
BIN := $(VENV)/bin
# The name holds the torch build, so that asking for another one installs it.
STAMP := $(VENV)/.installed-$(subst /,_,$(subst =,_,$(TORCH)))
# What starts no Ray is on its own; of Ray's clusters, and of a GPU, there can only be one at a time.
AT_ONCE := --numprocesses logical --maxprocesses 4 --dist worksteal
RAY_OR_GPU := ray or gpu

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test check format serve bench bench-peers bench-clients tasks-report clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): pyproject.toml $(wildcard specrouter_dist/engine/cpu/*.cpp specrouter_dist/engine/cpu/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch by itself and first: the build is then chosen by TORCH and PIP_ARGS alone.
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) "$(TORCH)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[dev]"
	rm -f $(VENV)/.installed-*
	touch $@

demo: setup
	$(BIN)/specrouter demo --pool $(POOL)

test: setup
	$(BIN)/python -m pytest tests -m "not ($(RAY_OR_GPU))" $(AT_ONCE) $(PYTEST_ARGS)
	$(BIN)/python -m pytest tests -m "$(RAY_OR_GPU)" $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit $(AT_ONCE) $(PYTEST_ARGS)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

serve: setup
	$(BIN)/specrouter serve --pool $(POOL) --port $(PORT)

bench-peers:
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" PIP_ARGS="$(PIP_ARGS)" benchmarks/peers/setup.sh $(PEERS)

bench: setup
	$(BIN)/python -m benchmarks.beside --pool $(POOL) --peers $(PEERS) --data $(DATA) \
	  --json build/beside.json $(BENCH_ARGS)

bench-clients: setup
	PYTHON="$(PYTHON)" PIP_ARGS="$(PIP_ARGS)" benchmarks/clients/setup.sh $(CLIENTS)
	$(BIN)/python -m benchmarks.clients.evaluation --pool $(POOL) --clients $(CLIENTS)
	$(BIN)/python -m benchmarks.clients.acceptance --pool $(POOL) --clients $(CLIENTS)
	$(BIN)/python -m benchmarks.clients.users --pool $(POOL) --clients $(CLIENTS) \
	  --seconds $(USERS_SECONDS)
	$(BIN)/python -m benchmarks.service_price --pool $(POOL) --data $(DATA)

tasks-report: setup
	$(BIN)/python -m benchmarks.tasks_report --pool $(ALIGNED) $(if $(CONTROL),--control $(CONTROL)) \
	  --data $(DATA) --out build/tasks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(PEERS) $(CLIENTS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
