# make demo    three web processes elect a leader, lose it and elect another   (ROUNDS=3 runs without a person)
# make test    all tests, WORKERS at a time   (ARGS=tests/unit; REDIS_SERVER=/usr/bin/valkey-server: all on this server)
# make simulate   the protocol against faults, for as long as it is told   (ARGS="--seconds 600 --jobs 2")
# make chaos   harms a fleet in every way known, FAULTS times, and tells whether it held   (SEED=7 ARGS=--dup-id)
# make handovers   a job of every second passes from leader to leader, NUMBER times: each slot is run once, or told of
# make lint    format, lint, types, import contracts
# make coverage   every branch of the modules that decide is tested
# make rules   which tests hold which rule of safety; an error if one has none
# make bench   this package beside its peers, in eight minutes; writes benchmarks/RESULTS.md   (ARGS="handover --effort 3")
# make servers  Django in every way in which it is run: which process is a candidate, which leads next   (ROUNDS=3 ARGS=gunicorn)
# make docs    the manual, as build/docs/index.html; a warning is an error
# make messages  compiles the translations, and names what one lacks or has too much
# make release-check   builds what is released, and elects a leader with it in an empty environment
#
# PYTHON names the interpreter (3.10 or newer); everything is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROUNDS ?= 0
FAULTS ?= 100
NUMBER ?= 70
SEED ?=
# Most tests wait most of the time, so there are more of them at a time than processors.
WORKERS ?= $(shell expr 3 '*' $$(getconf _NPROCESSORS_ONLN))
ARGS ?=
# Tests start hundreds of processes. Each would compile the package again where this variable is set, as in containers.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test simulate chaos handovers lint coverage rules bench servers docs messages release-check clean

# A stamp for each dependency group, so that the second run starts at once. Older versions of pip know no groups.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL = { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && $(PIP) 'pip>=25.1' && $(PIP) -e . --group
$(VENV)/.%: pyproject.toml
	@$(INSTALL) $*
	@touch $@

# All groups at once, for .ci/run: pip builds the package once, and asks once what is missing.
GROUPS := browser servers release lint docs
$(VENV)/.all: pyproject.toml
	@$(INSTALL) test $(GROUPS:%=--group %)
	@touch $@ $(patsubst %,$(VENV)/.%,demo test $(GROUPS))

demo: $(VENV)/.demo
	@$(BIN)/python -m testproject.demo --rounds $(ROUNDS) $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

chaos: $(VENV)/.test
	@$(BIN)/python -m tests.chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED)) $(ARGS)

handovers: $(VENV)/.test
	@$(BIN)/python -m tests.process.handovers --number $(NUMBER) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate: $(VENV)/.test
	@$(BIN)/python -m tests.simulation $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The modules that decide have every branch tested. The folders run beside each other.
CORE := */machine.py,*/session.py,*/errands.py,*/template.py,*/requests.py,*/replies.py,*/runner.py,*/pace.py,*/expiry.py,*/hold.py,*/lease.py,*/election.py,*/answers.py,*/term.py,*/guards.py,*/config.py,*/records.py,*/pidfd.py,*/worker.py,*/grant.py,*/waits.py,*/queries.py,*/fence.py,*/fenced.py
coverage: $(VENV)/.test
	$(BIN)/coverage erase
	printf 'tests/%s\n' unit redis django | xargs -P 3 -I {} $(BIN)/coverage run -m pytest -q {} $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --fail-under=100 --include="$(CORE)"

rules: $(VENV)/.test
	@$(BIN)/python -m tests.rules

# A peer that does not install here is left out. redlock-ng asks for an older redis-py, but does not need it.
PEERS := kazoo pottery pydantic python-redis-lock 'tooz[redis]'
$(VENV)/.bench: pyproject.toml
	@$(INSTALL) bench || { $(INSTALL) demo && for peer in $(PEERS); do $(PIP) "$$peer" || true; done; }
	@$(PIP) --no-deps redlock-ng || true
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# uWSGI is compiled: a server that does not install here is left out.
SERVERS := celery cheroot daphne django-extensions django-rq dramatiq-crontab eventlet gevent granian gunicorn huey Hypercorn uvicorn uWSGI watchfiles Werkzeug
$(VENV)/.servers: pyproject.toml
	@$(INSTALL) servers || { $(INSTALL) test && for server in $(SERVERS); do $(PIP) "$$server" || true; done; }
	@touch $@

servers: $(VENV)/.servers
	@$(BIN)/python -m tests.process.servers $(if $(filter-out 0,$(ROUNDS)),--rounds $(ROUNDS)) $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs $(ARGS)

messages: $(VENV)/.test
	@DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python -m tests.support.messages

release-check: $(VENV)/.release
	$(BIN)/python -m pytest tests/wheel $(ARGS)

clean:
	rm -rf $(VENV) dist build *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
