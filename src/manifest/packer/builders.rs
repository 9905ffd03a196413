//! The builder of a template: which one it is, and what of it shapes the machine.

use std::sync::Arc;
use std::time::Duration;

use super::super::fault::{Source, Span, quoted};
use super::super::node::{Kind, Node};
use super::engine::{Piece, is_credential};
use super::keys::{Keys, Reader, Said};
use crate::domain::expression::Text;
use crate::domain::id::Digest;
use crate::domain::pipeline::{BaseImage, DiskFormat, Placement};
use crate::domain::value::Value;

/// The builders that are understood.
pub(super) const TYPES: [&str; 2] = ["openstack", "qemu"];

/// Variables of the factory's environment that a cloud's driver knows.
const FACTORY: [&str; 3] = ["FACTORY_NETWORK_ID", "FACTORY_SECURITY_GROUP_ID", "FACTORY_SECURITY_GROUP_NAME"];

/// Keys of the connection, for every builder: the session of the build takes their place.
const CONNECTION: [&str; 17] = [
    "type",
    "name",
    "communicator",
    "ssh_username",
    "ssh_timeout",
    "ssh_wait_timeout",
    "ssh_pty",
    "ssh_port",
    "ssh_handshake_attempts",
    "ssh_keep_alive_interval",
    "ssh_read_write_timeout",
    "ssh_disable_agent_forwarding",
    "ssh_clear_authorized_keys",
    "ssh_file_transfer_method",
    "pause_before_connecting",
    "temporary_key_pair_name",
    "temporary_key_pair_type",
];

/// Keys of `openstack` that are understood.
const OPENSTACK: [&str; 10] = [
    "image_name",
    "source_image",
    "source_image_name",
    "flavor",
    "networks",
    "security_groups",
    "instance_name",
    "force_delete",
    "ssh_ip_version",
    "temporary_key_pair_bits",
];

/// Keys that packer's `openstack` has besides.
const OPENSTACK_KNOWN: &str = "username user_id password identity_endpoint tenant_id tenant_name domain_id domain_name \
     insecure region endpoint_type cacert cert key token application_credential_name application_credential_id \
     application_credential_secret cloud metadata image_visibility image_members image_auto_accept_members \
     image_disk_format image_tags image_min_disk external_source_image_url external_source_image_format \
     source_image_filter availability_zone rackconnect_wait floating_ip_network instance_floating_ip_net floating_ip \
     reuse_ips ports network_discovery_cidrs user_data user_data_file instance_metadata config_drive floating_ip_pool \
     use_blockstorage_volume volume_name volume_type volume_size volume_availability_zone openstack_provider \
     use_floating_ip ssh_interface";

/// Keys of `qemu` that are understood: with an effect, then without.
const QEMU: [&str; 44] = [
    "disk_size",
    "memory",
    "cpus",
    "disk_image",
    "iso_url",
    "iso_urls",
    "iso_checksum",
    "format",
    "disk_interface",
    "net_device",
    "shutdown_command",
    "accelerator",
    "headless",
    "vm_name",
    "output_directory",
    "shutdown_timeout",
    "boot_wait",
    "boot_key_interval",
    "boot_keygroup_interval",
    "disable_vnc",
    "vnc_bind_address",
    "vnc_use_password",
    "vnc_port_min",
    "vnc_port_max",
    "host_port_min",
    "host_port_max",
    "ssh_host_port_min",
    "ssh_host_port_max",
    "skip_nat_mapping",
    "skip_compaction",
    "disk_compression",
    "disk_cache",
    "disk_discard",
    "disk_detect_zeroes",
    "iso_target_path",
    "iso_target_extension",
    "iso_skip_cache",
    "use_default_display",
    "display",
    "use_backing_file",
    "qemu_binary",
    "qmp_enable",
    "qmp_socket_path",
    "temporary_key_pair_bits",
];

/// Keys that packer's `qemu` has besides.
const QEMU_KNOWN: &str = "http_directory http_content http_port_min http_port_max http_bind_address http_interface \
     boot_command shutdown_timeout floppy_files floppy_dirs floppy_content floppy_label cd_files cd_content cd_label \
     disk_additional_size skip_resize_disk machine_type net_bridge qemuargs qemu_img_args run_once cdrom_interface \
     firmware efi_boot cpu_model sockets cores threads iso_checksum_type iso_checksum_url use_pflash vtpm";

/// Keys of the connection that packer has besides.
const CONNECTION_KNOWN: &str = "ssh_host ssh_password ssh_keypair_name ssh_ciphers ssh_key_exchange_algorithms \
     ssh_private_key_file ssh_certificate_file ssh_agent_auth ssh_bastion_host ssh_bastion_port \
     ssh_bastion_agent_auth ssh_bastion_username ssh_bastion_password ssh_bastion_interactive \
     ssh_bastion_private_key_file ssh_bastion_certificate_file ssh_proxy_host ssh_proxy_port ssh_proxy_username \
     ssh_proxy_password ssh_remote_tunnels ssh_local_tunnels ssh_public_key ssh_private_key winrm_username \
     winrm_password winrm_host winrm_no_proxy winrm_port winrm_timeout winrm_use_ssl winrm_insecure winrm_use_ntlm";

/// What a builder says of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// The user that SSH logs in as.
    pub(crate) user: Option<String>,
    /// How long until SSH must answer.
    pub(crate) timeout: Option<Duration>,
    /// Whether commands are given a terminal.
    pub(crate) terminal: bool,
    /// Virtual processors.
    pub(crate) cpus: Option<u32>,
    /// Memory in bytes.
    pub(crate) memory: Option<u64>,
    /// The disk's virtual size in bytes.
    pub(crate) disk: Option<u64>,
    /// Where a cloud puts it.
    pub(crate) placement: Placement,
    /// What it boots from.
    pub(crate) image: Option<BaseImage>,
    /// Where that stands.
    pub(crate) image_at: Option<(Arc<Source>, Span)>,
}

/// A builder of the template: its name, its type and its map.
#[derive(Clone, Debug)]
pub(super) struct Builder<'n> {
    /// Its name as it is written: by it, provisioners name it.
    pub(super) name: String,
    /// Its name with the expressions in it evaluated: what the build is called.
    pub(super) called: String,
    pub(super) kind: &'n str,
    pub(super) node: &'n Node,
}

/// The builders as they are named. What is wrong with them is said by `fault`.
pub(super) fn all<'n>(node: &'n Node, mut fault: impl FnMut(Span, &'static str, String, &str)) -> Vec<Builder<'n>> {
    let Kind::List(items) = &node.kind else {
        fault(node.span, "wrong-type", "`builders` takes a list of maps".to_owned(), "");
        return Vec::new();
    };
    let mut builders: Vec<Builder<'n>> = Vec::new();
    for item in items {
        let Kind::Map(_) = &item.kind else {
            fault(item.span, "wrong-type", "a builder is a map".to_owned(), "");
            continue;
        };
        let Some(kind) = item.get("type").and_then(Node::text).filter(|kind| !kind.is_empty()) else {
            fault(item.span, "missing-key", "a builder lacks `type`".to_owned(), "it is `openstack` or `qemu`");
            continue;
        };
        let name = item.get("name").and_then(Node::text).filter(|name| !name.is_empty()).unwrap_or(kind).to_owned();
        if builders.iter().any(|known| known.name == name) {
            let span = item.get("name").map_or(item.span, |node| node.span);
            let help = "give one of them a `name` of its own";
            fault(span, "two-builders", format!("two builders are called {}", quoted(&name)), help);
            continue;
        }
        builders.push(Builder { called: name.clone(), name, kind, node: item });
    }
    builders
}

/// What the chosen builder says.
pub(super) fn read(reader: &mut Reader<'_>, builder: &Builder<'_>) -> Machine {
    let Kind::Map(entries) = &builder.node.kind else { return Machine::default() };
    let what = format!("the builder {}", quoted(builder.kind));
    let keys = Keys { what, span: builder.node.span, entries: entries.clone() };
    reader.label = "packer builder".to_owned();
    let is_qemu = builder.kind == "qemu";
    let (own, own_known) = if is_qemu { (&QEMU[..], QEMU_KNOWN) } else { (&OPENSTACK[..], OPENSTACK_KNOWN) };
    let understood: Vec<&str> = CONNECTION.iter().chain(own).copied().collect();
    let known: Vec<&str> = own_known.split_whitespace().chain(CONNECTION_KNOWN.split_whitespace()).collect();
    reader.check(&keys, &understood, &known);
    let mut machine = Machine::default();
    connection(reader, &keys, &mut machine);
    if is_qemu {
        qemu(reader, &keys, &mut machine);
    } else {
        openstack(reader, &keys, &mut machine);
    }
    reader.said.clear();
    machine
}

fn connection(reader: &mut Reader<'_>, keys: &Keys, machine: &mut Machine) {
    if let Some((communicator, span)) = reader.plain(keys, "communicator")
        && communicator != "ssh"
    {
        let message = format!("the communicator {} is not understood", quoted(&communicator));
        reader.fault(span, "unsupported-key", message, "guests are reached by `ssh`");
    }
    if let Some(port) = reader.number(keys, "ssh_port")
        && port != 22
    {
        reader.fault(keys.place("ssh_port"), "unsupported-key", "`ssh_port` is not understood", "SSH answers at 22");
    }
    machine.user = reader.plain(keys, "ssh_username").map(|(text, _)| text);
    if let Some(user) = &machine.user {
        reader.count("ssh_username", &Value::String(user.clone()));
    }
    // `ssh_wait_timeout` is what `ssh_timeout` was called.
    let older = reader.time(keys, "ssh_wait_timeout");
    machine.timeout = reader.time(keys, "ssh_timeout").or(older).filter(|time| *time > Duration::ZERO);
    machine.terminal = reader.flag(keys, "ssh_pty").unwrap_or(false);
    if machine.terminal {
        reader.count("ssh_pty", &Value::Bool(true));
    }
}

fn openstack(reader: &mut Reader<'_>, keys: &Keys, machine: &mut Machine) {
    let flavor = reader.text(keys, "flavor");
    machine.placement.flavor = flavor.as_ref().and_then(|said| placed(reader, said, "flavor"));
    if let Some(said) = &flavor {
        reader.count_text("flavor", said);
    }
    for name in ["networks", "security_groups"] {
        let texts = reader.texts(keys, name).unwrap_or_default();
        let found = texts.iter().filter_map(|said| placed(reader, said, name)).collect();
        if !texts.is_empty() {
            reader.count_texts(name, &texts);
        }
        match name {
            "networks" => machine.placement.networks = found,
            _ => machine.placement.security_groups = found,
        }
    }
    for name in ["source_image", "source_image_name"] {
        let Some((text, span)) = image_text(reader, keys, name) else { continue };
        machine.image = Some(BaseImage::Named(text));
        machine.image_at = Some((Arc::clone(reader.source), span));
    }
}

/// The image's name or id. It is no input here: the pipeline's `boot` says what is booted, and counts it.
fn image_text(reader: &mut Reader<'_>, keys: &Keys, name: &str) -> Option<(String, Span)> {
    let said = reader.text(keys, name)?;
    Some((reader.closed(&said, name)?, said.span))
}

/// A place in a cloud; what the factory's environment says of it is the driver's to fill in.
fn placed(reader: &mut Reader<'_>, said: &Said, name: &str) -> Option<String> {
    let known = |piece: &Piece| match piece {
        Piece::Env(variable) => FACTORY.contains(&variable.as_str()) && !is_credential(variable),
        _ => true,
    };
    if said.value.pieces.iter().all(known) {
        let open: Vec<Piece> = said
            .value
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Env(variable) => Piece::Given(variable.clone(), Text::literal(format!("${variable}"))),
                other => other.clone(),
            })
            .collect();
        let mut value = said.value.clone();
        value.pieces = open;
        return reader.closed(&Said { value, span: said.span }, name);
    }
    reader.closed(said, name)
}

fn qemu(reader: &mut Reader<'_>, keys: &Keys, machine: &mut Machine) {
    machine.cpus = reader.number(keys, "cpus").and_then(|cpus| u32::try_from(cpus).ok()).filter(|cpus| *cpus > 0);
    let memory = reader.number(keys, "memory").and_then(|mib| u64::try_from(mib).ok()).filter(|mib| *mib > 0);
    machine.memory = memory.map(|mib| mib << 20);
    if let Some((text, span)) = reader.plain(keys, "disk_size") {
        machine.disk = disk_size(&text);
        if machine.disk.is_none() {
            let help = "packer takes MiB, or a number with K, M, G or T: `\"20G\"`";
            reader.fault(span, "bad-size", format!("{} is no size of a disk", quoted(&text)), help);
        }
    }
    for (name, value) in [("cpus", machine.cpus.map(u64::from)), ("memory", machine.memory), ("disk", machine.disk)] {
        if let Some(value) = value {
            reader.count(name, &Value::Int(i64::try_from(value).unwrap_or(i64::MAX)));
        }
    }
    for (name, usual) in [("disk_interface", "virtio"), ("net_device", "virtio-net")] {
        if let Some((text, span)) = reader.plain(keys, name)
            && !text.starts_with(usual)
        {
            let message = format!("`{name}` can't be {}", quoted(&text));
            reader.fault(span, "unsupported-key", message, "machines have virtio disks and networks");
        }
    }
    let format = match reader.plain(keys, "format") {
        Some((text, _)) if text == "raw" => DiskFormat::Raw,
        _ => DiskFormat::Qcow2,
    };
    shutdown(reader, keys);
    source(reader, keys, machine, format);
}

/// Sealing shuts the machine down; a command that does more has an effect.
fn shutdown(reader: &mut Reader<'_>, keys: &Keys) {
    let Some(said) = reader.text(keys, "shutdown_command") else { return };
    let shown = said.value.shown();
    let last = shown.rsplit('|').next().unwrap_or_default();
    let first = &shown[..shown.len() - last.len()];
    let fed = first.is_empty() || (first.trim_start().starts_with("echo ") && first.matches('|').count() == 1);
    let words = ["sudo", "shutdown", "now", "poweroff", "halt", "systemctl", "init", "0"];
    let plain = |word: &str| word.starts_with('-') || words.contains(&word.rsplit('/').next().unwrap_or_default());
    if !fed || !last.split_whitespace().all(plain) {
        let help = "sealing shuts the machine down by itself; put what else is to be done into a provisioner";
        reader.fault(said.span, "unsupported-key", "`shutdown_command` does more than to shut down", help);
    }
}

/// The disk image that is booted; an installer is none.
fn source(reader: &mut Reader<'_>, keys: &Keys, machine: &mut Machine, format: DiskFormat) {
    let is_disk = reader.flag(keys, "disk_image").unwrap_or(false);
    let urls = reader.texts(keys, "iso_urls").unwrap_or_default();
    let said = reader.text(keys, "iso_url").or_else(|| urls.into_iter().next());
    let checksum = reader.plain(keys, "iso_checksum").map(|(text, _)| text);
    let Some(said) = said else { return };
    let name = if keys.get("iso_url").is_some() { "iso_url" } else { "iso_urls" };
    if !is_disk {
        let help = "machines boot from disk images, not from installers: name one, and say `\"disk_image\": true`";
        return reader.fault(keys.place(name), "unsupported-key", format!("`{name}` names an installer"), help);
    }
    let Some(url) = reader.closed(&said, name) else { return };
    machine.image_at = Some((Arc::clone(reader.source), said.span));
    if !url.starts_with("http://") && !url.starts_with("https://") {
        machine.image = Some(BaseImage::Named(url));
        return;
    }
    let sum = checksum.as_deref().and_then(|text| text.trim().trim_start_matches("sha256:").parse::<Digest>().ok());
    match sum {
        Some(sha256) => machine.image = Some(BaseImage::Url { url, sha256, format }),
        None => {
            let help = "write the sum out: `\"sha256:…\"`";
            reader.fault(keys.place("iso_checksum"), "bad-sum", "`iso_checksum` takes a SHA-256 sum", help);
        }
    }
}

/// A number of MiB, or a number with a unit of QEMU's.
fn disk_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "" | "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    number
        .checked_shl(shift)
        .filter(|bytes| *bytes > 0 && *bytes <= i64::MAX.cast_unsigned() && bytes >> shift == number)
}
