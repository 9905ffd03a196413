#!/bin/sh
# Changes the image before anything boots from it: its root is at $ROOT.
set -eu

# The user that the cloud's images have: never made under Debian's own name, so there is none to remove later.
sed -i -e 's/^     name: debian$/     name: cloud/' -e 's/^     gecos: Debian$/     gecos: Cloud user/' "$ROOT/etc/cloud/cloud.cfg"
grep -q '^     name: cloud$' "$ROOT/etc/cloud/cloud.cfg" || { echo "E: cloud.cfg has no default user to rename"; exit 1; }

# What a machine is called until its metadata says it.
echo unnamed >"$ROOT/etc/hostname"
