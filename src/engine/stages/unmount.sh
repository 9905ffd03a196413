# Takes away everything that is mounted below $1, what was mounted last first. Run as root.
set -eu
sync
mounted=$(awk -v root="$1" '$2 == root || index($2, root "/") == 1 { print $2 }' /proc/mounts | sort -r)
for where in $mounted; do
  umount "$where" || { echo "E: $where is still used: a change left something running there"; exit 1; }
done
sync
