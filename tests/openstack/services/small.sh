# shellcheck shell=bash disable=SC2154 # read by `cloud`, which has the settings and the doors
# Keystone under uwsgi and Glance by itself, each with what it keeps in one directory.

configure_keystone() {
  mkdir -p "$etc/keystone" "$data/fernet" "$data/credential"
  chmod 700 "$data/fernet" "$data/credential"
  cat >"$etc/keystone/keystone.conf" <<INI
[DEFAULT]
use_stderr = true
[database]
connection = $(database keystone)
[token]
provider = fernet
[fernet_tokens]
key_repository = $data/fernet
[fernet_receipts]
key_repository = $data/fernet
[credential]
key_repository = $data/credential
[identity]
# As cheap as bcrypt gets: nothing is guarded here.
password_hash_rounds = 4
[cache]
enabled = true
backend = dogpile.cache.memory
INI
}

# Two keys each, as its own command makes them: one to come and one in use.
make_keys() {
  local repository key
  for repository in fernet credential; do
    for key in 0 1; do
      (umask 077 && head -c 32 /dev/urandom | base64 | tr '+/' '-_' >"$data/$repository/$key")
    done
  done
}

prepare_keystone() {
  local manage=(keystone-manage --config-file "$etc/keystone/keystone.conf")
  local url=http://127.0.0.1:$port_keystone/v3/
  make_keys
  step keystone-sync "${manage[@]}" db_sync
  step keystone-bootstrap "${manage[@]}" bootstrap --bootstrap-password "$secret" --bootstrap-region-id RegionOne \
    --bootstrap-public-url "$url" --bootstrap-internal-url "$url" --bootstrap-admin-url "$url"
}

start_keystone() {
  start keystone env OS_KEYSTONE_CONFIG_DIR="$etc/keystone" uwsgi --http-socket "127.0.0.1:$port_keystone" \
    --plugin python3 --wsgi-file /usr/bin/keystone-wsgi-public --master --processes 1 --threads 4 --enable-threads \
    --lazy-apps --buffer-size 65535 --die-on-term --need-app --disable-logging --add-header 'Connection: close'
}

configure_glance() {
  mkdir -p "$etc/glance" "$data"/{images,staging,tasks,locks}
  cat >"$etc/glance/glance-api.conf" <<INI
[DEFAULT]
bind_host = 127.0.0.1
bind_port = $port_glance
workers = 0
use_stderr = true
enabled_backends = file:file
enabled_import_methods = [glance-direct,web-download]
worker_self_reference_url = http://127.0.0.1:$port_glance
node_staging_uri = file://$data/staging
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = $data/images
[os_glance_staging_store]
filesystem_store_datadir = $data/staging
[os_glance_tasks_store]
filesystem_store_datadir = $data/tasks
[database]
connection = $(database glance)
[paste_deploy]
flavor = keystone
config_file = $etc/glance/paste.ini
[keystone_authtoken]
www_authenticate_uri = http://127.0.0.1:$port_keystone/v3
$(as_user glance)
[oslo_messaging_notifications]
driver = noop
[oslo_concurrency]
lock_path = $data/locks
[task]
task_executor = taskflow
work_dir = $data/tasks
INI
  cat >"$etc/glance/paste.ini" <<'INI'
[pipeline:glance-api-keystone]
pipeline = versionnegotiation authtoken context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
delay_auth_decision = true
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
INI
}

# Their programs are in packages that start services when they are installed; the library has all but the file's name.
glance() {
  local module=$1
  shift
  echo "import sys; sys.argv[0] = 'glance-$module'; from glance.cmd.$module import main; sys.exit(main())"
}

prepare_glance() {
  step glance-sync "$python" -c "$(glance manage)" --config-file "$etc/glance/glance-api.conf" db_sync
}

start_glance() {
  start glance "$python" -c "$(glance api)" --config-file "$etc/glance/glance-api.conf"
}
