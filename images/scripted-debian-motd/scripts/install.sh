#!/bin/sh
# Greets at login with the name of the image and the uploaded notice. Usage: install.sh NAME
set -eu

install -d /etc/update-motd.d
cat >/etc/update-motd.d/20-factory <<EOF
#!/bin/sh
echo "$1"
cat /etc/factory-notice
EOF
chmod 0755 /etc/update-motd.d/20-factory
