# Verbs. `make up` is the first one.
#
# LAB=full adds a Kubernetes node to the lab: make up LAB=full
#
# LAB_NAME, LAB_SUBNET, LAB_POSTGRESQL_FIRST_PORT and DEBIAN (12 or 13) say something else than settings/ does:
# make up LAB_NAME=second LAB_POSTGRESQL_FIRST_PORT=25432

SHELL := /bin/sh
.DEFAULT_GOAL := help

LAB_NAME ?= $(shell sed -n 's/^lab_name: *//p' settings/lab.yml)
DEBIAN ?= $(shell sed -n 's/^lab_debian: *"\(.*\)"/\1/p' settings/lab.yml)
HOST ?= segment1
FORMAT ?= text
export LAB_NAME LAB_SUBNET LAB_POSTGRESQL_FIRST_PORT DEBIAN

ifeq ($(LAB),full)
export ANSIBLE_INVENTORY := inventories/lab_full
UP := playbooks/up_full.yml
RESULTS_OF_LAB := kubernetes kine coredns metrics_server network_policies pause cni_plugins pulumi
THEN = && $(MAKE) --no-print-directory stacks
else
UP := playbooks/up.yml
endif

# Text of a person reaches programs through the environment, and neither make nor a shell reads it.
unexport SQL CMD WITH
export CAISSON_SQL := $(value SQL)
export CAISSON_CMD := $(value CMD)
export CAISSON_WITH := $(value WITH)

AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
BIN := .venv/bin/
PLAYBOOK := ANSIBLE_STDOUT_CALLBACK=phases $(AS_ROOT) $(BIN)ansible-playbook
BUILDER := $(AS_ROOT) $(BIN)python -m builder
# what takes longest comes first
RESULTS := $(RESULTS_OF_LAB) runtime_r runtime_python plr lab_host/$(DEBIAN) plpython plcontainer/$(DEBIAN) protocol_server/$(DEBIAN) base/$(DEBIAN)

CONTAINER = $(LAB_NAME)-$(HOST)
KUBECONFIG_OF_LAB = $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/caisson/$(LAB_NAME).kubeconfig
EXEC = $(AS_ROOT) docker exec -i
NEED_HOST = @[ "$$($(AS_ROOT) docker container inspect --format '{{.State.Running}}' "$(CONTAINER)" 2>/dev/null)" = true ] || { \
	echo "The lab $(LAB_NAME) has no host $(HOST) that is up. Its hosts:" \
	  "$$($(AS_ROOT) docker ps --filter label=caisson.lab=$(LAB_NAME) --format '{{.Names}}' | sed 's/^$(LAB_NAME)-//' | sort | xargs)." \
	  'Bring it up: make up' >&2; exit 1; }
PSQL = -u postgres "$(CONTAINER)" psql -X

.PHONY: help up stacks down status check sql psql shell test lint docs bench lock bootstrap dev test-kubernetes test-selinux

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 24

up: ## build everything, start the lab and ask its hosts a question
	@started=$$(date +%s); ./bootstrap && $(BUILDER) all $(RESULTS) && $(PLAYBOOK) $(UP) $(THEN) && \
	  echo "Up in $$(( $$(date +%s) - started )) s."

# The state has the kubeconfig's path, so it stays where it is.
stacks: bootstrap ## deploy the platform on the lab's Kubernetes node
	@umask 077; mkdir -p "$(dir $(KUBECONFIG_OF_LAB))" && \
	  $(EXEC) "$(LAB_NAME)-node1" cat /etc/kubernetes/admin.conf >"$(KUBECONFIG_OF_LAB)" && \
	  $(AS_ROOT) $(BIN)python scripts/stack.py up platform --refresh --stack "$(LAB_NAME)" \
	  --kubeconfig "$(KUBECONFIG_OF_LAB)" --provider tests/support/kubernetes_provider/bin

down: bootstrap ## remove everything the lab has in Docker; caches stay
	@$(PLAYBOOK) playbooks/lab_down.yml
	@rm -f "$(KUBECONFIG_OF_LAB)"

status: bootstrap ## show the state of every piece of every host; FORMAT=json for programs
	@$(PLAYBOOK) playbooks/status.yml -e status_format=$(FORMAT)

check: bootstrap ## tell how the hosts differ from what is asked, and change nothing
	@$(PLAYBOOK) playbooks/check.yml

sql: ## run SQL='...' on HOST=segment1
	$(NEED_HOST)
	@printf '%s\n' "$$CAISSON_SQL" | $(EXEC) $(PSQL) -v ON_ERROR_STOP=1

psql: ## open a session as superuser on HOST=segment1, or run the SQL on standard input
	$(NEED_HOST)
	@if [ -t 0 ]; then exec $(EXEC) -t $(PSQL); else exec $(EXEC) $(PSQL) -A -t -v ON_ERROR_STOP=1; fi

shell: ## open a shell on HOST=segment1, or run CMD='...'
	$(NEED_HOST)
	@if [ -n "$$CAISSON_CMD" ]; then exec $(EXEC) "$(CONTAINER)" sh -c "$$CAISSON_CMD"; \
	  else exec $(EXEC) -t "$(CONTAINER)" bash -l; fi

# WITH names scenarios that have verbs of their own: make test WITH=selinux
test: lint ## lint, and run all tests
	@$(AS_ROOT) $(BIN)pytest

# Of its own: where the processor is emulated, one guest takes as long as half of all other tests.
test-selinux: dev ## run the scenario under SELinux in a virtual machine
	@$(AS_ROOT) env PATH="$(CURDIR)/.venv/bin:$$PATH" $(BIN)molecule test --scenario-name selinux

# Of its own: compiling Kubernetes takes minutes the first time.
test-kubernetes: dev ## run what needs Kubernetes: two scenarios, and make up LAB=full
	@$(AS_ROOT) env PATH="$(CURDIR)/.venv/bin:$$PATH" $(BIN)molecule test --scenario-name kubernetes
	@$(AS_ROOT) env PATH="$(CURDIR)/.venv/bin:$$PATH" $(BIN)molecule test --scenario-name kubernetes_changed
	@$(AS_ROOT) $(BIN)pytest -m kubernetes

lint: dev ## check style and types of everything
	@$(BIN)ruff check
	@$(BIN)ruff format --check
	@$(BIN)mypy
	@$(BIN)shellcheck bootstrap $$(git ls-files '*.sh' .ci)
	@$(BIN)yamllint .
	@PATH="$(CURDIR)/.venv/bin:$$PATH" ansible-lint -q
	@$(BIN)python scripts/role_options.py --check

docs: dev ## write the tables of options in the roles' README files
	@$(BIN)python scripts/role_options.py

bench: dev ## measure calls and provisioning on the lab that is up
	@$(AS_ROOT) $(BIN)python bench/calls.py
	@$(AS_ROOT) $(BIN)python bench/provisioning.py

lock: dev ## renew the locks of Python packages and the records of Debian packages
	@$(BIN)python scripts/lock.py
	@$(BUILDER) record

bootstrap:
	@./bootstrap

dev:
	@./bootstrap --dev
