# Removes a machine's identity, as root, as the last thing that is done in it. What can't be there is no error.
set -eu

# Who it is: keys, ids, seeds of randomness.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/dbus/machine-id
: > /etc/machine-id

# Who may enter, and what they did.
for home in /root /home/*; do
  rm -f "$home/.ssh/authorized_keys" "$home/.ssh/authorized_keys2" "$home/.ssh/known_hosts"
  rm -f "$home/.bash_history" "$home/.python_history" "$home/.lesshst" "$home/.wget-hsts"
  rm -rf "$home/.ansible/tmp" "$home/.ansible/cp" "$home/.ansible_async"
done
rm -rf /tmp/ansible* /tmp/.ansible* /var/tmp/ansible*

# What was written down while it was made.
if command -v cloud-init >/dev/null 2>&1; then cloud-init clean --logs --seed >/dev/null 2>&1 || cloud-init clean --logs; fi
if command -v journalctl >/dev/null 2>&1; then journalctl --flush --rotate --vacuum-time=1s >/dev/null 2>&1 || true; fi
rm -rf /var/log/journal/* /run/log/journal/*
for log in /var/log/wtmp /var/log/btmp /var/log/lastlog; do
  if [ -e "$log" ]; then : > "$log"; fi
done
rm -f /etc/udev/rules.d/70-persistent-net.rules
rm -rf /var/lib/dhcp/*.leases /var/lib/dhclient/*.leases* /var/lib/systemd/network/* /var/lib/systemd/timesync/clock

# Freed blocks are given back, so that the image does not hold what was deleted.
sync
if command -v fstrim >/dev/null 2>&1; then fstrim / || true; fi
sync
