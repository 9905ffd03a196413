//! Functions, provisioners and post-processors that are refused by name, each with the steps that do the same.

use super::super::fault::quoted;
use super::super::node::{Kind, Node};
use super::engine::Trouble;
use super::keys::{Keys, Reader};
use super::provisioners::names;

/// Says that a provisioner is not understood, at its `type`.
pub(super) fn provisioner(reader: &mut Reader<'_>, kind: &str, keys: &Keys) {
    let span = keys.get("type").map_or(keys.span, |(_, node)| node.span);
    let message = format!("the provisioner {} is not understood", quoted(kind));
    let help = same_steps(kind, keys);
    reader.fault(span, "unsupported-provisioner", message, help);
}

/// The steps that do the same, with the names that the template has.
fn same_steps(kind: &str, keys: &Keys) -> String {
    let first = |name: &str| match keys.get(name).map(|(_, node)| &node.kind) {
        Some(Kind::List(items)) => items.first().and_then(Node::text).map(str::to_owned),
        Some(Kind::Scalar { raw, .. }) => Some(raw.clone()),
        _ => None,
    };
    let base = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    match kind {
        "puppet-masterless" => {
            let manifest = first("manifest_file").unwrap_or_else(|| "manifests/site.pp".to_owned());
            let modules = first("module_paths").unwrap_or_else(|| "modules".to_owned());
            format!(
                "steps that do the same: `- upload: {{ from: {modules}, to: /tmp/puppet/modules }}`, `- upload: {{ from: \
                 {manifest}, to: /tmp/puppet/{name} }}`, `- shell: sudo puppet apply --modulepath=/tmp/puppet/modules \
                 /tmp/puppet/{name}`",
                name = base(&manifest)
            )
        }
        "chef-solo" | "chef-client" => {
            let cookbooks = first("cookbook_paths").unwrap_or_else(|| "cookbooks".to_owned());
            let list = first("run_list").unwrap_or_else(|| "recipe[default]".to_owned());
            format!(
                "steps that do the same: `- upload: {{ from: {cookbooks}, to: /tmp/chef/cookbooks }}`, `- shell: cd \
                 /tmp/chef && sudo chef-client --local-mode --override-runlist '{list}'`"
            )
        }
        "salt-masterless" => {
            let states = first("local_state_tree").unwrap_or_else(|| "salt".to_owned());
            format!(
                "steps that do the same: `- upload: {{ from: {states}, to: /srv/salt }}`, `- shell: sudo salt-call --local \
                 state.highstate`"
            )
        }
        "puppet-server" => "a step that does the same: `- shell: sudo puppet agent --onetime --no-daemonize --server …`".into(),
        "shell-local" => "the factory host runs playbooks and tests alone: say it as `- ansible: …` with \
                          `delegate_to: localhost`, or as `- shell: …` in the guest"
            .to_owned(),
        "inspec" | "goss" | "testinfra" => {
            "a stage that does the same: `- test: { steps: [{ pytest: tests }] }`; it runs on a clone of the sealed disk".into()
        }
        "breakpoint" => "take it out, or say `\"disable\": true`".to_owned(),
        "powershell" | "windows-shell" | "windows-restart" | "windows-update" => {
            "guests are reached by SSH and run a POSIX shell; steps for those are `shell`, `script`, `upload`".to_owned()
        }
        "converge" => "steps that do the same: `- upload: …` of the module and `- shell: sudo converge apply …`".to_owned(),
        _ => "understood are shell, file, ansible and ansible-local; steps are shell, script, upload, ansible, \
              ansible-local and pytest"
            .to_owned(),
    }
}

/// What to do instead of a key that is not understood.
pub(super) fn key(name: &str) -> &'static str {
    const ACCESS: &str = " username user_id password identity_endpoint tenant_id tenant_name domain_id domain_name \
         insecure region endpoint_type cacert cert key token application_credential_name application_credential_id \
         application_credential_secret cloud openstack_provider ";
    const NETWORK: &str = " floating_ip_network instance_floating_ip_net floating_ip reuse_ips ports \
         network_discovery_cidrs floating_ip_pool use_floating_ip rackconnect_wait availability_zone ";
    let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let is_in = |words: &str| words.contains(&format!(" {name} "));
    if is_in(ACCESS) {
        "clouds and their credentials belong into the configuration, as a driver; take it out"
    } else if is_in(NETWORK) {
        "how a machine is reached is the driver's; take it out"
    } else if begins(&["ssh_", "winrm_"]) {
        "guests are reached by SSH with a key that the build makes; take it out"
    } else if begins(&["boot_", "http_", "floppy_", "cd_", "cdrom_"]) {
        "machines boot from disk images, not from installers: name one in `boot.image`, or make it with a recipe"
    } else if begins(&["image_"]) {
        "the snapshot stage publishes, with the name, properties and minimum that it says"
    } else if begins(&["user_data", "metadata", "instance_metadata", "config_drive"]) {
        "what a machine must find at its first boot stands in `boot.changes`"
    } else {
        "it has an effect on the image; take it out, or say the same in other steps"
    }
}

/// Says every post-processor that would run for the builder.
pub(super) fn post_processors(reader: &mut Reader<'_>, node: &Node, builders: &[String]) {
    let items = match &node.kind {
        Kind::List(items) => items.as_slice(),
        _ => return reader.wrong(node.span, "post-processors", "a list", node),
    };
    for item in items {
        match &item.kind {
            Kind::List(chain) => chain.iter().for_each(|item| post_processor(reader, item, builders)),
            _ => post_processor(reader, item, builders),
        }
    }
}

fn post_processor(reader: &mut Reader<'_>, item: &Node, builders: &[String]) {
    let (kind, span) = match &item.kind {
        Kind::Map(entries) => {
            let keys = Keys { what: String::new(), span: item.span, entries: entries.clone() };
            let [only, except] =
                ["only", "except"].map(|name| names(reader, &keys, name, builders).unwrap_or_default());
            let is_named = |names: &[String]| names.iter().any(|name| name == reader.builder);
            let is_skipped = if only.is_empty() { is_named(&except) } else { !is_named(&only) };
            if is_skipped {
                return;
            }
            match item.get("type") {
                Some(node) => (node.text().unwrap_or_default().to_owned(), node.span),
                None => (String::new(), item.span),
            }
        }
        _ => (item.text().unwrap_or_default().to_owned(), item.span),
    };
    let help = match kind.as_str() {
        "vagrant" | "vagrant-cloud" => "images are published to the catalogue, not as Vagrant boxes",
        "manifest" | "checksum" | "artifice" => {
            "what a build made, its sums included, is in `factoryd show N` and `factoryd images`"
        }
        "compress" => "images are published compact and compressed",
        "shell-local" => "the factory host runs playbooks and tests alone",
        "glance" | "openstack" => "the snapshot stage publishes, with the properties that it names",
        _ => "what is done with an image after its build is the snapshot stage's",
    };
    reader.fault(
        span,
        "unsupported-post-processor",
        format!("the post-processor {} is not understood", quoted(&kind)),
        help,
    );
}

/// What is said of a function of Go's or packer's that is not understood.
pub(super) fn function(name: &str, piece: &str) -> Trouble {
    let help = match name {
        "consul_key" | "vault" | "aws_secretsmanager" => {
            "secrets come from the configuration, by `secrets:` of a host step; templates can't fetch them"
        }
        "build" => "what packer's builder knows of its machine is not known when a template is read",
        "sed" => "packer knows it no more; use `replace` or `replace_all`",
        "clean_resource_name" | "clean_image_name" | "clean_ami_name" => "it belongs to a builder of another cloud",
        "range" | "with" | "define" | "template" | "block" => {
            "of Go's control words only `if`, `else` and `end` are understood: write it out"
        }
        _ => {
            "known are user, env, build_name, build_type, template_dir, pwd, packer_version, isotime, strftime, timestamp, \
             uuid, upper, lower, split, replace, replace_all, print, printf, len, if, eq, ne, lt, le, gt, ge, not, and, or"
        }
    };
    Trouble::new(piece, format!("the template function {} is not understood", quoted(name)), help)
}
