# What people and machines do with this repository. `make help` lists it.

# Everything below goes through scripts/cargo, which finds a toolchain that is not on the PATH too.
CARGO   ?= scripts/cargo
# Where `make install` puts things; packagers set DESTDIR.
PREFIX  ?= /usr
DESTDIR ?=

target  := $(or $(CARGO_TARGET_DIR),target)
libdir  := $(DESTDIR)$(PREFIX)/lib
etcdir  := $(DESTDIR)/etc/factoryd

.DEFAULT_GOAL := help
.PHONY: help setup lint check test test-openstack bench bench-build demo clean-demo build-images build-os release install

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## Install what building, testing and running need (Debian; root or sudo)
	@scripts/setup

lint: # Formatting and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

check: lint ## The fast loop: formatting, clippy, unit tests, the rules of the house
	$(CARGO) test --lib --test tidy

# The tests of `check` are among all tests, so they run once. No test is left out anywhere: the real QEMU builds are
# among them, by emulation where there is no working KVM. --no-fail-fast: one red test does not hide another.
test: setup lint ## Install what is missing, then check and run every test, real QEMU builds included
	$(CARGO) test --no-fail-fast

# Not among all tests: it takes the host for itself, and puts it back as it was.
test-openstack: ## Bring up a whole OpenStack with real guests and build in it: root, tens of minutes without KVM
	@scripts/setup build run cloud
	$(CARGO) test --test whole_cloud -- --nocapture

bench: ## Measure the daemon and the library: ratios, and figures of this machine
	CARGO='$(CARGO)' bench/run
	$(CARGO) bench --bench plan --bench render --bench store

bench-build: ## Measure whole builds beside Debian's packer, in pairs: tens of minutes without KVM; pairs=N
	CARGO='$(CARGO)' bench/run build $(pairs)

demo: ## Install what is missing, start a factory in ./.demo, push images/ to it and follow the builds
	@scripts/demo

clean-demo: ## Stop the demo's daemon and remove everything it made
	@scripts/demo stop

build-images: ## Build one bundle on the running daemon and wait: bundle=NAME, for images/NAME
	@scripts/build-bundle images '$(bundle)'

build-os: ## Build one system image on the running daemon and wait: os=NAME, for os/NAME
	@scripts/build-bundle os '$(os)'

release: ## Build the binary that is installed
	$(CARGO) build --release --locked

install: release ## Install binary, unit, user, directories and an example config (PREFIX, DESTDIR)
	install -D -m 0755 $(target)/release/factoryd '$(DESTDIR)$(PREFIX)/bin/factoryd'
	install -d '$(libdir)/systemd/system' '$(etcdir)'
	sed 's|^ExecStart=/usr/bin/|ExecStart=$(PREFIX)/bin/|' systemd/factoryd.service >'$(libdir)/systemd/system/factoryd.service'
	chmod 0644 '$(libdir)/systemd/system/factoryd.service'
	install -D -m 0644 systemd/factoryd.sysusers '$(libdir)/sysusers.d/factoryd.conf'
	install -D -m 0644 systemd/factoryd.tmpfiles '$(libdir)/tmpfiles.d/factoryd.conf'
	install -D -m 0644 config.example.toml '$(DESTDIR)$(PREFIX)/share/doc/factoryd/config.example.toml'
	test -e '$(etcdir)/config.toml' || install -m 0644 config.example.toml '$(etcdir)/config.toml'
	@if [ -z '$(DESTDIR)' ]; then echo 'Next: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl enable --now factoryd'; fi
