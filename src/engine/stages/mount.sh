# Mounts the disk with the serial number $1 below $2 as the helper's own disk is mounted: both were the same disk when the
# helper was booted, so a partition of the one has the number of its twin on the other. Run as root.
set -eu
serial=$1 root=$2
fail() { echo "E: $*"; exit 1; }

# A kernel finds an attached disk in its own time.
tries=0
until disk=$(readlink -e /dev/disk/by-id/*"$serial") && [ -b "$disk" ]; do
  tries=$((tries + 1))
  [ $tries -le 300 ] || fail "the attached disk does not appear in /dev/disk/by-id/*$serial"
  sleep 0.2
done
if command -v udevadm >/dev/null 2>&1; then udevadm settle --timeout=30 || true; fi

# The twin of a block device of the helper, where that is a whole disk or a partition of one.
twin() {
  system=$(readlink -e "/sys/dev/block/$1") || return 1
  [ ! -e "$system/dm" ] && [ ! -e "$system/md" ] || return 1
  if [ ! -e "$system/partition" ]; then echo "$disk"; return; fi
  for found in "/sys/class/block/${disk##*/}"/*/partition; do
    if [ "$(cat "$found")" = "$(cat "$system/partition")" ]; then
      found=${found%/partition}
      echo "/dev/${found##*/}"
      return
    fi
  done
  return 1
}

# The disk that a block device of the helper lies on.
whole() {
  system=$(readlink -e "/sys/dev/block/$1") || return 1
  if [ -e "$system/partition" ]; then system=${system%/*}; fi
  echo "${system##*/}"
}

attach() {
  case $3 in xfs) options=rw,nouuid ;; *) options=rw ;; esac
  mount -t "$3" -o "$options" "$1" "$2"
  echo "$1 ($3) is mounted on $2"
}

# Of /proc/self/mountinfo: the device, what of its file system is mounted, where, and the kind after a dash. What is
# mounted on / last is what counts.
mounts() { sed 's/^\([^ ]* \)\{2\}\([^ ]* [^ ]* [^ ]*\) .* - \([^ ]*\) .*$/\2 \3/' /proc/self/mountinfo; }
own=$(mounts | sed -n 's|^\([^ ]*\) [^ ]* / \([^ ]*\)$|\1 \2|p' | tail -n 1)
device=${own% *} kind=${own#* }
from=$(twin "$device") || fail "the root file system ($kind) is not on a plain disk or partition: LVM, RAID, encryption and btrfs can't be changed before the first boot"
mkdir -p "$root"
attach "$from" "$root" "$kind"
# What else of the same disk is mounted: /boot, /boot/efi.
mounts | while read -r other part where kind; do
  [ "$part" = / ] && [ "$where" != / ] && [ "$other" != "$device" ] && [ -d "$root$where" ] || continue
  [ "$(whole "$other")" = "$(whole "$device")" ] || continue
  attach "$(twin "$other")" "$root$where" "$kind"
done
for system in dev proc sys; do
  if [ -d "$root/$system" ]; then mount --bind "/$system" "$root/$system"; fi
done
