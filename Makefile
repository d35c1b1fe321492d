# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
SHELL := /bin/bash
.DEFAULT_GOAL := help

# One environment for every tool: the virtual environment first, this checkout under its collection name,
# and nothing of the user's own Ansible configuration or cache.
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.ansible/collections:$(CURDIR)/.cache/colls
export ANSIBLE_HOME := $(CURDIR)/.cache/ansible
export ANSIBLE_CONFIG := $(CURDIR)/tests/lab/ansible.cfg
unexport ANSIBLE_ROLES_PATH ANSIBLE_INVENTORY ANSIBLE_LIBRARY

COLLECTION := .ansible/collections/ansible_collections/mysql_ops/replica_backup
RESULTS := .test/results
PYTEST := python -m pytest
CHECK := tests/lab/check.sh
LAB := PYTHONPATH=$(CURDIR)/.ansible/collections python -m ansible_collections.mysql_ops.replica_backup.tests.lab

SCENARIOS := default mysql97 mysql56 mariadb_multisource scattered_files faults
# The longest first: they run three at a time.
STAGES := molecule integration restore unit faults sanity lint

# GiB of data, and how often each is measured.
SIZES := 0.6 2.5 10
ROUNDS := 3

.PHONY: help setup setup-tests demo test $(STAGES) soak bench bench-quick image clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Virtual environment, collection path and (as root) missing Debian packages
	@tests/lab/setup.sh

setup-tests:
	@tests/lab/setup.sh --tests

demo: setup ## A source and two replicas on this machine, backed up one after the other
	@$(LAB).demo

test: setup-tests ## Everything below, and a count at the end
	@$(LAB).cleanup leftovers
	@rm -rf $(RESULTS)
	@status=0; tests/lab/stages.sh $(RESULTS) $(STAGES) || status=1; \
	printf '\n'; $(LAB).results $(RESULTS) || status=1; exit $$status

lint: setup-tests ## ansible-lint (production), ruff, mypy, yamllint, changelog
	@status=0; \
	$(CHECK) lint ruff ruff check . || status=1; \
	$(CHECK) lint ruff-format ruff format --check . || status=1; \
	$(CHECK) lint mypy mypy --cache-dir .cache/mypy $(COLLECTION)/plugins $(COLLECTION)/tests \
	    $(addprefix $(COLLECTION)/,$(wildcard molecule/*/tests)) || status=1; \
	$(CHECK) lint yamllint yamllint --strict . || status=1; \
	$(CHECK) lint changelog antsibull-changelog lint || status=1; \
	$(CHECK) lint ansible-lint ansible-lint --offline --profile production || status=1; \
	exit $$status

sanity: setup ## ansible-test sanity
	@tests/lab/sanity.sh $(RESULTS)

unit: setup-tests ## Unit tests, with the branch coverage gate
	@mkdir -p $(RESULTS)
	@status=0; \
	$(PYTEST) tests/unit --junitxml=$(RESULTS)/unit.xml --cov --cov-report= || status=1; \
	$(CHECK) unit coverage coverage report --show-missing --skip-covered --fail-under=90 || status=1; \
	exit $$status

integration: setup-tests ## Tests against real servers on this machine
	@mkdir -p $(RESULTS)
	@$(PYTEST) tests/integration --ignore=tests/integration/restore --ignore=tests/integration/races --junitxml=$(RESULTS)/integration.xml

faults: setup-tests ## Faults injected into runs on this machine; FAULTS=all for every point of every kind
	@mkdir -p $(RESULTS)
	@$(PYTEST) tests/faults --junitxml=$(RESULTS)/faults.xml

soak: setup-tests image ## Rolls with faults drawn from a seed (ROLLS=50 SEED=1 MINUTES=120)
	@tests/soak/run.sh .test/results-soak

restore: setup-tests ## Restores, drills, lost relay logs, and runs that meet, on real servers of this machine
	@mkdir -p $(RESULTS)
	@$(PYTEST) tests/integration/restore tests/integration/races --junitxml=$(RESULTS)/restore.xml

# An image that cannot be built fails its own scenario, in the count as well, and no other.
molecule: setup-tests ## Fleets under writes: MariaDB 10.11 and 11.8, MySQL 5.6 and 9.7; controllers and hosts that fail
	@status=0; $(LAB).containers image || status=1; \
	for scenario in $(SCENARIOS); do \
	    tests/lab/molecule.sh $(RESULTS) "$$scenario" || status=1; \
	done; exit $$status

bench: setup-tests ## Benchmarks, and what docs/performance.md says of them (SIZES="0.6 2.5 10" ROUNDS=3; ONLY="names")
	@tests/benchmarks/setup.sh
	@python tests/benchmarks/run_all.py --docs --sizes $(SIZES) --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY))

bench-quick: setup-tests ## The same with little data and once, to see that they work; the documentation stays
	@tests/benchmarks/setup.sh
	@python tests/benchmarks/run_all.py --quick --sizes 0.1 --rounds 1 --into .test/results-bench-quick $(if $(ONLY),--only $(ONLY))

image: setup-tests
	@$(LAB).containers image

clean: ## Remove every trace: processes, containers, networks, images, caches
	@tests/lab/clean.sh
