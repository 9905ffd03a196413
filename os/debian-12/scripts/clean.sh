#!/bin/sh
# Removes what the machines that are booted from the image need not inherit. Keys, ids, logs of cloud-init and the
# journal are none of it: they are removed when the machine is sealed.
set -eu

sudo apt-get clean
sudo rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/*.gz /var/tmp/*
# The names that this machine was given by its metadata.
echo unnamed | sudo tee /etc/hostname >/dev/null
