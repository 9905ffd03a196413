#!/bin/sh
# Brings the packages up to date. Runs as the user `cloud`.
set -eu

# cloud-init may still be at work, with apt too; where something of it failed, this says what and ends here.
cloud-init status --wait >/dev/null || { cloud-init status --long; exit 1; }
sudo apt-get --quiet update
sudo env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes upgrade
