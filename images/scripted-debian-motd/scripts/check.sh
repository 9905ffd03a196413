#!/bin/sh
# The notice is whole, readable by everybody and shown.
set -eu

test "$(stat -c %A /etc/factory-notice | cut -c8)" = r
/etc/update-motd.d/20-factory | grep -q 'change the bundle instead'
