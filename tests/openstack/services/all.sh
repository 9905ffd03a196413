# shellcheck shell=bash disable=SC2154 # read by `cloud`, which has the settings and the doors
# Placement, Nova, Neutron and Heat with MariaDB and RabbitMQ, and libvirt's guests under QEMU: what root may bring up once
# on a host. Neutron's migrations don't run on sqlite, and Nova makes no server without Neutron.

# The host's address in the network that guests are in; .20 and above are theirs.
host_address=172.31.77.1
# The network devices: one end for the host, one for Neutron.
host_device=fctd-ext0 neutron_device=fctd-phy0
databases=(keystone glance placement nova_api nova_cell0 nova_cell1 neutron heat)
rabbit_url() { echo "rabbit://guest:guest@127.0.0.1:$port_rabbit/"; }

up_all() {
  [ "$(id -u)" -eq 0 ] || fail "the whole cloud is for root: it makes network devices and starts libvirt"
  # Every process of the cloud holds this lock, so nobody else's devices are taken for ours, here or in `down`.
  exec 9>/run/lock/factoryd-test-cloud
  flock -n 9 || fail "another one is up on this host, or goes down at this moment"
  if ip link show "$host_device" >/dev/null 2>&1; then fail "$host_device is there already, and of nobody who can be asked"; fi
  touch "$etc/hosted"
  since=$(date -u +%Y-%m-%dT%H:%M:%S)
  start_rabbit
  start_mariadb
  configure_keystone
  configure_glance
  configure_placement
  configure_nova
  configure_neutron
  configure_heat
  prepare_keystone & local keystone=$!
  { prepare_glance && prepare_heat; } & local glance=$!
  { prepare_nova && prepare_neutron; } || exit 1
  wait "$keystone" && wait "$glance" || exit 1
  say "the databases are ready"
  start_keystone
  start_glance
  start_uwsgi placement /usr/bin/placement-api OS_PLACEMENT_CONFIG_DIR
  await rabbit 60 "it listens" bash -c ": </dev/tcp/127.0.0.1/$port_rabbit"
  make_host_network
  start_program neutron-server neutron.cmd.eventlet.server main neutron/neutron.conf
  start_libvirt
  await keystone 60 "it answers" answers "http://127.0.0.1:$port_keystone/v3"
  bootstrap identity
  for part in conductor scheduler api; do
    start_program "nova-$part" "nova.cmd.$part" main nova/nova.conf
  done
  start_heat
  await neutron-server 120 "it answers" answers "http://127.0.0.1:$port_neutron/"
  start_program neutron-bridges neutron.cmd.eventlet.plugins.linuxbridge_neutron_agent main neutron/neutron.conf
  start_program neutron-dhcp neutron.cmd.eventlet.agents.dhcp main neutron/neutron.conf
  start_program neutron-metadata neutron.cmd.eventlet.agents.metadata main neutron/neutron.conf
  start_program neutron-l3 neutron.cmd.eventlet.agents.l3 main neutron/neutron.conf
  start_program nova-compute nova.cmd.compute main nova/nova.conf
  await nova-api 120 "it answers" answers "http://127.0.0.1:$port_nova/"
  await placement 60 "it answers" answers "http://127.0.0.1:$port_placement/"
  await glance 60 "it answers" answers "http://127.0.0.1:$port_glance/"
  await heat 60 "it answers" answers "http://127.0.0.1:$port_heat/"
  bootstrap cloud
  SINCE=$since bootstrap compute
  step discover-hosts nova_manage cell_v2 discover_hosts
  SINCE=$since bootstrap agents
}

# Runs what a package's program of this name would: program NAME MODULE FUNCTION; sets `line`.
program() { line="import sys; sys.argv[0] = '$1'; from $2 import $3; sys.exit($3())"; }
start_program() {
  local line
  program "$1" "$2" "$3"
  start "$1" "$python" -c "$line" --config-file "$etc/$4"
}
nova_manage() {
  local line
  program nova-manage nova.cmd.manage main
  "$python" -c "$line" --config-file "$etc/nova/nova.conf" "$@"
}
start_uwsgi() { # NAME PROGRAM VARIABLE
  local port=port_$1
  start "$1" env "$3=$etc/$1" uwsgi --http-socket "127.0.0.1:${!port}" --plugin python3 --wsgi-file "$2" \
    --master --processes 1 --threads 4 --enable-threads --lazy-apps --buffer-size 65535 --die-on-term --need-app \
    --disable-logging --add-header 'Connection: close'
}

start_rabbit() {
  mkdir -p "$data/rabbit"
  cat >"$etc/rabbit.conf" <<INI
listeners.tcp.1 = 127.0.0.1:$port_rabbit
disk_free_limit.absolute = 10MB
vm_memory_high_watermark.absolute = 512MB
log.console = true
log.console.level = warning
log.file = false
INI
  echo '[].' >"$etc/rabbit.plugins"
  start rabbit env HOME="$data/rabbit" ERL_CRASH_DUMP="$data/rabbit/erl_crash.dump" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$port_epmd" \
    RABBITMQ_NODENAME=factoryd-test@localhost RABBITMQ_CONFIG_FILE="$etc/rabbit.conf" RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_ENABLED_PLUGINS_FILE="$etc/rabbit.plugins" RABBITMQ_MNESIA_BASE="$data/rabbit/mnesia" \
    RABBITMQ_LOG_BASE="$log" RABBITMQ_LOGS=- RABBITMQ_DIST_PORT="$port_dist" RABBITMQ_PID_FILE="$data/rabbit/pid" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}" \
    /usr/lib/rabbitmq/bin/rabbitmq-server
}

start_mariadb() {
  step mariadb-install mariadb-install-db --no-defaults --user=root --datadir="$data/mysql" \
    --auth-root-authentication-method=normal --skip-test-db
  start mariadb mariadbd --no-defaults --user=root --datadir="$data/mysql" --socket="$run/mysql.sock" --skip-networking \
    --pid-file="$data/mysql.pid" --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 --skip-log-bin \
    --innodb-buffer-pool-size=128M --innodb-log-file-size=32M --performance-schema=0 --max-connections=400
  await mariadb 60 "it answers" mysqladmin --no-defaults -uroot -S "$run/mysql.sock" ping
  { echo "CREATE USER cloud@localhost IDENTIFIED BY '$secret'; GRANT ALL ON *.* TO cloud@localhost;"
    printf 'CREATE DATABASE %s CHARACTER SET utf8mb3;\n' "${databases[@]}"
  } | mysql --no-defaults -uroot -S "$run/mysql.sock"
}

configure_placement() {
  mkdir -p "$etc/placement"
  cat >"$etc/placement/placement.conf" <<INI
[DEFAULT]
use_stderr = true
[placement_database]
connection = $(database placement)
[api]
auth_strategy = keystone
[keystone_authtoken]
$(as_user placement)
INI
}

# The start of every paste file: who lets requests in.
authtoken='[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory'

configure_nova() {
  mkdir -p "$etc/nova" "$data"/{nova,instances}
  cat >"$etc/nova/paste.ini" <<INI
[composite:metadata]
use = egg:Paste#urlmap
/: metaapp
[app:metaapp]
paste.app_factory = nova.api.metadata.handler:MetadataRequestHandler.factory
[composite:osapi_compute]
use = call:nova.api.openstack.urlmap:urlmap_factory
/: versions
/v2.1: v21
[composite:v21]
use = call:nova.api.auth:pipeline_factory_v21
keystone = request_id faultwrap sizelimit authtoken keystonecontext app_v21
[pipeline:versions]
pipeline = faultwrap versions_app
[filter:request_id]
paste.filter_factory = nova.api.compute_req_id:ComputeReqIdMiddleware.factory
[filter:faultwrap]
paste.filter_factory = nova.api.openstack:FaultWrapper.factory
[filter:sizelimit]
paste.filter_factory = oslo_middleware:RequestBodySizeLimiter.factory
[app:app_v21]
paste.app_factory = nova.api.openstack.compute:APIRouterV21.factory
[app:versions_app]
paste.app_factory = nova.api.openstack.compute.versions:Versions.factory
[filter:keystonecontext]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory
$authtoken
INI
  local privsep
  privsep=$(for part in os_brick vif_plug_linux_bridge vif_plug_ovs nova_sys_admin; do
    case $part in vif_*) part=${part}_privileged ;; os_brick) part=privsep_osbrick ;; esac
    printf '[%s]\nhelper_command = privsep-helper --config-file %s\n' "$part" "$etc/nova/nova.conf"
  done)
  cat >"$etc/nova/nova.conf" <<INI
[DEFAULT]
my_ip = 127.0.0.1
host = factoryd-test
use_stderr = true
transport_url = $(rabbit_url)
compute_driver = libvirt.LibvirtDriver
state_path = $data/nova
instances_path = $data/instances
osapi_compute_listen = 127.0.0.1
osapi_compute_listen_port = $port_nova
osapi_compute_workers = 1
metadata_listen = 127.0.0.1
metadata_listen_port = $port_meta
metadata_workers = 1
enabled_apis = osapi_compute,metadata
reserved_host_memory_mb = 0
cpu_allocation_ratio = 16
ram_allocation_ratio = 4
disk_allocation_ratio = 4
vif_plugging_timeout = 120
shutdown_timeout = 10
mkisofs_cmd = genisoimage
resume_guests_state_on_host_boot = false
[api]
auth_strategy = keystone
[wsgi]
api_paste_config = $etc/nova/paste.ini
[api_database]
connection = $(database nova_api)
max_pool_size = 3
max_overflow = 20
[database]
connection = $(database nova_cell1)
max_pool_size = 3
max_overflow = 20
[keystone_authtoken]
$(as_user nova)
[placement]
$(as_user placement)
[glance]
api_servers = http://127.0.0.1:$port_glance
[neutron]
$(as_user neutron)
service_metadata_proxy = true
metadata_proxy_shared_secret = $secret
[service_user]
send_service_user_token = true
$(as_user nova)
[scheduler]
workers = 1
[conductor]
workers = 1
[image_cache]
manager_interval = -1
[libvirt]
virt_type = $virt
connection_uri = qemu+unix:///system?socket=$run/libvirt/libvirt-sock
cpu_mode = $(if [ "$virt" = kvm ]; then echo host-passthrough; else echo none; fi)
use_virtio_for_bridges = true
inject_partition = -2
[vnc]
enabled = false
[spice]
enabled = false
[oslo_concurrency]
lock_path = $data/locks
[oslo_messaging_notifications]
driver = noop
[workarounds]
disable_rootwrap = true
$privsep
INI
}

prepare_nova() {
  step placement-sync placement-manage --config-file "$etc/placement/placement.conf" db sync
  step nova-api-sync nova_manage api_db sync
  step nova-cell0 nova_manage cell_v2 map_cell0 --database_connection "$(database nova_cell0)"
  step nova-sync nova_manage db sync
  step nova-cell1 nova_manage cell_v2 create_cell --name cell1 --database_connection "$(database nova_cell1)" \
    --transport-url "$(rabbit_url)"
}

configure_neutron() {
  mkdir -p "$etc/neutron" "$data/neutron"
  # dnsmasq drops to nobody, and then can't read its hosts below a directory that is root's alone.
  echo user=root >"$etc/neutron/dnsmasq.conf"
  cat >"$etc/neutron/paste.ini" <<INI
[composite:neutron]
use = egg:Paste#urlmap
/: versions_composite
/v2.0: v2
[composite:v2]
use = call:neutron.auth:pipeline_factory
keystone = request_id catch_errors authtoken keystonecontext extensions app_v2
[composite:versions_composite]
use = call:neutron.auth:pipeline_factory
keystone = versions
[filter:request_id]
paste.filter_factory = oslo_middleware:RequestId.factory
[filter:catch_errors]
paste.filter_factory = oslo_middleware:CatchErrors.factory
[filter:keystonecontext]
paste.filter_factory = neutron.auth:NeutronKeystoneContext.factory
[filter:extensions]
paste.filter_factory = neutron.api.extensions:plugin_aware_extension_middleware_factory
[app:versions]
paste.app_factory = neutron.pecan_wsgi.app:versions_factory
[app:app_v2]
paste.app_factory = neutron.api.v2.router:APIRouter.factory
$authtoken
INI
  cat >"$etc/neutron/neutron.conf" <<INI
[DEFAULT]
bind_host = 127.0.0.1
bind_port = $port_neutron
host = factoryd-test
use_stderr = true
core_plugin = ml2
service_plugins = router
state_path = $data/neutron
transport_url = $(rabbit_url)
api_paste_config = $etc/neutron/paste.ini
api_workers = 0
rpc_workers = 1
rpc_state_report_workers = 0
global_physnet_mtu = 1500
agent_down_time = 75
interface_driver = linuxbridge
enable_isolated_metadata = true
force_metadata = true
dnsmasq_config_file = $etc/neutron/dnsmasq.conf
metadata_proxy_shared_secret = $secret
nova_metadata_host = 127.0.0.1
nova_metadata_port = $port_meta
metadata_workers = 0
send_arp_for_ha = 0
[agent]
root_helper = env
root_helper_daemon =
report_interval = 30
[privsep]
helper_command = privsep-helper --config-file $etc/neutron/neutron.conf
[database]
connection = $(database neutron)
max_pool_size = 3
max_overflow = 20
[keystone_authtoken]
$(as_user neutron)
[nova]
$(as_user nova)
[placement]
$(as_user placement)
[oslo_concurrency]
lock_path = $data/locks
[oslo_messaging_notifications]
driver = noop
[experimental]
linuxbridge = true
[ml2]
type_drivers = local,flat
tenant_network_types = local
mechanism_drivers = linuxbridge
extension_drivers = port_security
[ml2_type_flat]
flat_networks = physnet1
[linux_bridge]
physical_interface_mappings = physnet1:$neutron_device
[vxlan]
enable_vxlan = false
[securitygroup]
enable_security_group = true
firewall_driver = iptables
enable_ipset = true
INI
}

prepare_neutron() {
  local line
  program neutron-db-manage neutron.db.migration.cli main
  step neutron-sync "$python" -c "$line" --config-file "$etc/neutron/neutron.conf" upgrade heads
}

configure_heat() {
  mkdir -p "$etc/heat"/{environment.d,templates}
  cat >"$etc/heat/paste.ini" <<INI
[pipeline:heat-api]
pipeline = request_id faultwrap versionnegotiation authurl authtoken context apiv1app
[app:apiv1app]
paste.app_factory = heat.common.wsgi:app_factory
heat.app_factory = heat.api.openstack.v1:API
[filter:versionnegotiation]
paste.filter_factory = heat.common.wsgi:filter_factory
heat.filter_factory = heat.api.openstack:version_negotiation_filter
[filter:faultwrap]
paste.filter_factory = heat.common.wsgi:filter_factory
heat.filter_factory = heat.api.openstack:faultwrap_filter
[filter:context]
paste.filter_factory = heat.common.context:ContextMiddleware_filter_factory
[filter:authurl]
paste.filter_factory = heat.common.auth_url:filter_factory
[filter:request_id]
paste.filter_factory = oslo_middleware.request_id:RequestId.factory
$authtoken
INI
  cat >"$etc/heat/heat.conf" <<INI
[DEFAULT]
use_stderr = true
transport_url = fake://
num_engine_workers = 1
rpc_response_timeout = 30
convergence_engine = false
heat_metadata_server_url = http://127.0.0.1:8000
heat_waitcondition_server_url = http://127.0.0.1:8000/v1/waitcondition
stack_user_domain_name = heat
stack_domain_admin = heat_domain_admin
stack_domain_admin_password = $secret
deferred_auth_method = password
environment_dir = $etc/heat/environment.d
template_dir = $etc/heat/templates
[heat_api]
bind_host = 127.0.0.1
bind_port = $port_heat
workers = 0
[paste_deploy]
api_paste_config = $etc/heat/paste.ini
[database]
connection = $(database heat)
[keystone_authtoken]
www_authenticate_uri = http://127.0.0.1:$port_keystone/v3
$(as_user heat)
[trustee]
auth_type = password
auth_url = http://127.0.0.1:$port_keystone/v3
username = heat
password = $secret
user_domain_name = Default
[clients_keystone]
auth_uri = http://127.0.0.1:$port_keystone
[clients]
region_name_for_services = RegionOne
[oslo_concurrency]
lock_path = $data/locks
[oslo_messaging_notifications]
driver = noop
INI
  # heat-all forks, and what stands for a message queue here lives in one process: API and engine share this one.
  cat >"$etc/heat/one_process.py" <<'PYTHON'
import eventlet
eventlet.monkey_patch(os=False)
import __original_module_threading as original
import threading
original.current_thread.__globals__["_active"] = threading._active
import eventlet.wsgi
from heat.cmd import engine
from heat.common import config
from oslo_config import cfg
config.set_config_defaults()
launcher = engine.launch_engine()
app = config.load_paste_app(app_name="heat-api")
eventlet.wsgi.server(eventlet.listen((cfg.CONF.heat_api.bind_host, cfg.CONF.heat_api.bind_port)), app, log_output=False)
PYTHON
}

prepare_heat() {
  local line
  program heat-manage heat.cmd.manage main
  step heat-sync "$python" -c "$line" --config-file "$etc/heat/heat.conf" db_sync
}
start_heat() { start heat "$python" "$etc/heat/one_process.py" --config-file "$etc/heat/heat.conf"; }

make_host_network() {
  local file
  step host-network ip link add "$host_device" type veth peer name "$neutron_device"
  touch "$etc/made-network"
  ip addr add "$host_address/24" dev "$host_device"
  ip link set "$host_device" up
  ip link set "$neutron_device" up
  for file in iptables ip6tables; do
    [ ! -e "/proc/sys/net/bridge/bridge-nf-call-$file" ] || echo 1 >"/proc/sys/net/bridge/bridge-nf-call-$file"
  done
  cat /proc/sys/net/ipv4/ip_forward >"$etc/ip_forward"
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

# libvirt reads how QEMU is run from /etc alone: what was there is put back by `down`.
start_libvirt() {
  getent group kvm >/dev/null || groupadd -r kvm
  getent group libvirt-qemu >/dev/null || groupadd -r libvirt-qemu
  getent passwd libvirt-qemu >/dev/null || useradd -r -g kvm -G libvirt-qemu -d /var/lib/libvirt -s /usr/sbin/nologin libvirt-qemu
  mkdir -p "$run/libvirt" /etc/libvirt
  if [ -e /etc/libvirt/qemu.conf ]; then cp -p /etc/libvirt/qemu.conf "$etc/qemu.conf.before"; fi
  touch "$etc/made-qemu.conf"
  cat >/etc/libvirt/qemu.conf <<INI
# Written by the tests of factoryd, which put back what was here.
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
security_default_confined = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
INI
  cat >"$etc/libvirtd.conf" <<INI
unix_sock_dir = "$run/libvirt"
auth_unix_ro = "none"
auth_unix_rw = "none"
INI
  start libvirtd libvirtd --config "$etc/libvirtd.conf" --pid-file "$run/libvirt/own"
  await libvirtd 60 "it answers" virt version
}
virt() { virsh -c "qemu+unix:///system?socket=$run/libvirt/libvirt-sock" "$@"; }

# Before the processes end: guests are libvirt's, devices and rules are the kernel's.
down_all() {
  local name table tool
  if [ -S "$run/libvirt/libvirt-sock" ]; then
    for name in $(virt list --all --name 2>/dev/null | grep '^instance-' || true); do
      virt destroy "$name" >/dev/null 2>&1 || true
      virt undefine "$name" >/dev/null 2>&1 || true
    done
  fi
  end_processes
  if [ -e "$etc/qemu.conf.before" ]; then
    mv "$etc/qemu.conf.before" /etc/libvirt/qemu.conf
  elif [ -e "$etc/made-qemu.conf" ]; then
    rm -f /etc/libvirt/qemu.conf
  fi
  # Whoever has it now has devices and rules of its own, and then none of ours are left.
  exec 9>/run/lock/factoryd-test-cloud
  flock -n 9 && [ -e "$etc/made-network" ] || return 0
  for name in $(ip netns list 2>/dev/null | awk '/^q(dhcp|router)-/ { print $1 }'); do ip netns del "$name" || true; done
  for name in $(ip -o link show | awk -F': ' '{ print $2 }' | cut -d@ -f1 | grep -E '^(brq|tap)[0-9a-f]{8}-' || true); do
    ip link del "$name" 2>/dev/null || true
  done
  ip link del "$host_device" 2>/dev/null || true
  for table in filter raw mangle nat; do
    for tool in iptables ip6tables; do
      if "$tool" -w -t "$table" -S 2>/dev/null | grep -q neutron-; then
        "$tool-save" -t "$table" 2>/dev/null | grep -v -- neutron- | "$tool-restore" -w -T "$table" 2>/dev/null || true
      fi
    done
  done
  if [ -s "$etc/ip_forward" ]; then cat "$etc/ip_forward" >/proc/sys/net/ipv4/ip_forward; fi
}
