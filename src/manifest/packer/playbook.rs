//! Whom a playbook is for: one that names `localhost` would change the factory host and not the guest.

use super::super::fault::{Fault, Source, Span};
use super::super::node::{Kind, Node};
use super::super::yaml;
use super::Remote;

/// Names that Ansible takes for the host it runs on.
const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What is wrong with a playbook that the host runs against a guest, and what an author should know.
///
/// A text that is no playbook gives nothing: Ansible says better what is wrong with it.
pub(in super::super) fn check(text: &str, remote: &Remote) -> (Vec<Fault>, Vec<Fault>) {
    let source = Source::new(remote.path.to_string(), text);
    let mut unread = Vec::new();
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    let Some(Node { kind: Kind::List(plays), .. }) = yaml::load(&source, &mut unread) else {
        return (faults, warnings);
    };
    for node in plays.iter().filter_map(|play| play.get("hosts")) {
        let names = names(node);
        let here = names.iter().find(|(name, _)| HERE.contains(&name.as_str()));
        if let Some((name, span)) = here.filter(|(name, _)| !known(remote, name)) {
            let message = format!("`hosts: {name}` is the factory host, and the playbook is run against the guest");
            let fault = source.fault(*span, "localhost", message);
            faults.push(fault.with_help(format!(
                "write `hosts: {}`; the playbook is named at {}",
                remote.names.as_ref().and_then(|names| names.first()).map_or("all", String::as_str),
                remote.named_at
            )));
        } else if !names.is_empty() && names.iter().all(|(name, _)| matches_nobody(remote, name)) {
            let message = format!("`hosts: {}` is nobody: this play does nothing", names[0].0);
            let fault = source.fault(node.span, "no-host", message);
            let help = format!("the inventory has {}", remote.names.as_deref().unwrap_or_default().join(", "));
            warnings.push(fault.with_help(help));
        }
    }
    (faults, warnings)
}

fn known(remote: &Remote, name: &str) -> bool {
    remote.names.as_ref().is_some_and(|names| names.iter().any(|known| known == name))
}

/// Whether a pattern is a plain name that the inventory does not have.
fn matches_nobody(remote: &Remote, name: &str) -> bool {
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    remote.names.is_some() && is_plain && !matches!(name, "all" | "ungrouped" | "") && !known(remote, name)
}

/// The patterns of `hosts`, one by one, without those that leave out.
fn names(node: &Node) -> Vec<(String, Span)> {
    let items: Vec<&Node> = if let Kind::List(items) = &node.kind { items.iter().collect() } else { vec![node] };
    let texts = items.into_iter().filter_map(|item| Some((item.text()?, item.span)));
    let split = |(text, span): (&str, Span)| {
        let parts = if text == "::1" || text.contains("{{") { vec![text] } else { text.split([',', ':']).collect() };
        parts.into_iter().map(|part| (part.trim().to_owned(), span)).collect::<Vec<_>>()
    };
    texts.flat_map(split).filter(|(name, _)| !name.is_empty() && !name.starts_with(['!', '&'])).collect()
}
