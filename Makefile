# Needs Python >= 3.11, pip and make; everything else goes into $(VENV).
#   make PYTHON=python3.13 demo      another interpreter
#   make DATA=/tmp/group cluster     another folder for the group to play with

PYTHON ?= python3
VENV   ?= .venv
DATA   ?= .dledger

BIN := $(VENV)/bin
COMPILED := broker/store/_columns
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Images often set this, and each of the many nodes of a test would compile all modules anew, which
# is as much work as all else of its start.
unexport PYTHONDONTWRITEBYTECODE

# An environment keeps the interpreter it was made with: who asks for another one shall not believe
# to have got it.
ifeq ($(origin PYTHON),command line)
ifneq ($(wildcard $(BIN)/python),)
WHICH := -c 'import sys; print(sys.version, sys.base_prefix)'
ifneq ($(shell $(PYTHON) $(WHICH)),$(shell $(BIN)/python $(WHICH)))
$(error $(VENV) was made with another Python than $(PYTHON): say VENV=.venv-other, or run `make clean` first)
endif
endif
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format interop cluster status kill-leader transfer-leader down bench bench-peers bench-growth fuzz sim mutants faults ci-real ci-seeds nemesis soak report clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(VENV)/.installed ## three nodes, real data, a leader killed in mid-stream, a verdict
	@$(BIN)/python examples/demo.py

# Groups of real nodes have the processors to themselves; all else is shared out among them.
test: $(VENV)/.test ## the whole test-suite
	$(BIN)/python -m pytest -q -n auto -m "not process"
	$(BIN)/python -m pytest -q -m process

interop: $(VENV)/.test ## RocketMQ's own clients against a real group; INTEROP=all also what takes minutes
	INTEROP=$(or $(INTEROP),1) $(BIN)/python -m pytest -q tests/interop

check: $(VENV)/.lint ## formatting, lint, types, import rules, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples tests/client/typed_flavours.py
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.lint ## let ruff lay out and sort what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cluster: $(VENV)/.installed ## a group of three to play with, in the background
	@$(BIN)/dledger up --data $(DATA) --detach

status: $(VENV)/.installed ## who leads it, how far each node has come
	@$(BIN)/dledger status --data $(DATA)

kill-leader: $(VENV)/.installed ## SIGKILL its leader; `make cluster` starts the node again
	@$(BIN)/dledger kill-leader --data $(DATA)

transfer-leader: $(VENV)/.installed ## hand its lead to another node
	@$(BIN)/dledger leader transfer --data $(DATA)

down: $(VENV)/.installed ## stop it; its data stays
	@$(BIN)/dledger down --data $(DATA)

OUT ?= bench-figures

bench: $(VENV)/.report ## how fast a group of three is on this machine: tables, JSON, a picture in OUT=bench-figures
	@$(BIN)/python -m bench --out $(OUT)

bench-peers: $(VENV)/.peers ## the same loads for us, NATS, Redis and RabbitMQ, as far as installed
	@$(BIN)/python -m bench.peers

bench-growth: $(VENV)/.installed ## by what power costs grow with messages, topics, queues, connections, ...
	@$(BIN)/python -m bench.growth

FUZZ_SECONDS ?= 60

fuzz: $(VENV)/.fuzz ## bad input for every reader of bytes, guided by coverage: FUZZ_SECONDS=60 each
	@$(BIN)/python -m jepsen_like fuzz --seconds $(FUZZ_SECONDS)

SEEDS ?= 20

sim: $(VENV)/.installed ## whole nodes in simulated time: SEEDS=20 mixes of faults, promises checked
	@$(BIN)/python -m jepsen_like sim --seeds $(SEEDS)

mutants: $(VENV)/.installed ## deliberate bugs in simulated time: is each one caught?
	@$(BIN)/python -m jepsen_like mutants --ci

# What continuous integration asks for in ten minutes: deliberate bugs, four real runs, seeds.
# Real runs need root; where they cannot be had they say why, and the rest counts.  They leave half
# of the processors idle, where seeds run meanwhile, which know no time but their own.
faults: $(VENV)/.report ## the fault tests' share of CI, about ten minutes
	@$(BIN)/python -m jepsen_like mutants --ci
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target ci-real ci-seeds

ci-real:
	@$(BIN)/python -m jepsen_like real --ci || [ $$? -eq 77 ]

ci-seeds:
	@nice -n 19 $(BIN)/python -m jepsen_like sim --seeds 150 --limit 240

RUN ?= runs

report: $(VENV)/.report ## the page and the picture of one run: RUN=runs/seed-7
	@$(BIN)/python -m jepsen_like report $(RUN)

FAULT ?= kill,pause,power,halves
FOR ?= 8h

nemesis: $(VENV)/.report ## real processes under FAULT=kill,pause,... for 45 s; needs root
	@$(BIN)/python -m jepsen_like real --fault $(FAULT)

soak: $(VENV)/.report ## simulated and real mixes in turn, FOR=8h, until the first that is invalid
	@$(BIN)/python -m jepsen_like soak --for $(FOR)

clean: ## remove the environment and caches; a group's data stays
	rm -rf $(VENV) build dist dledger.egg-info $(COMPILED).c $(COMPILED).*.so .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is newer than what it stands for, so that a second run starts at once.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11; run: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

# What was compiled before goes first: where that fails now, it must not stay in use.
$(VENV)/.installed: $(VENV)/.made pyproject.toml $(COMPILED).pyx broker/store/_sends.pxi
	@echo "installing dledger into $(VENV)"
	@rm -f $(COMPILED).c $(COMPILED).*.so
	@PYTHONWARNINGS=ignore $(PIP) install --editable .
	@$(BIN)/python -c 'from broker.store import compiled; print("the loops over every record run", compiled.told)'
	@touch $@

$(VENV)/.report: $(VENV)/.installed
	@echo "installing what draws reports"
	@$(PIP) install --group report
	@touch $@

$(VENV)/.peers: $(VENV)/.installed
	@echo "installing client libraries of other brokers"
	@$(PIP) install --group peers
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	@echo "installing the test tools"
	@$(PIP) install --group test
	@touch $@

$(VENV)/.fuzz: $(VENV)/.installed
	@echo "installing the fuzzer"
	@$(PIP) install --group fuzz
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@echo "installing the check tools"
	@$(PIP) install --group lint
	@touch $@
