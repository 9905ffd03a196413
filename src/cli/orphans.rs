//! `factoryd orphans`: what builds that are over have left outside.

use clap::Args;

use super::text::plural;
use super::{Context, Failure};
use crate::server::wire::{OrphanView, OrphansView};

/// What `orphans` is told.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Remove it.
    #[arg(long)]
    delete: bool,
}

pub(super) async fn run(context: &Context, options: &Options) -> Result<(), Failure> {
    let answer: OrphansView = match options.delete {
        true => context.client.delete("/v1/orphans").await?,
        false => context.client.get("/v1/orphans").await?,
    };
    context.print(&answer, |found, _| shown(found))?;
    match options.delete && !answer.orphans.is_empty() {
        true => Err(Failure::failed("not everything could be removed; the daemon's log says why")),
        false => Ok(()),
    }
}

fn shown(found: &OrphansView) -> String {
    let line = |verb: &str, orphan: &OrphanView| {
        let name = if orphan.name == orphan.id { String::new() } else { format!(" {}", orphan.name) };
        format!("{verb}#{} {} {}{name}\n", orphan.build, orphan.kind, orphan.id)
    };
    let mut text: String = found.removed.iter().map(|orphan| line("removed ", orphan)).collect();
    text.extend(found.orphans.iter().map(|orphan| line("", orphan)));
    match (found.orphans.len(), found.removed.len()) {
        (0, 0) => "Nothing is left of builds that are over.\n".to_owned(),
        (0, removed) => format!("{text}{} removed.\n", plural(removed, "thing")),
        (left, 0) => format!(
            "{text}{} left of builds that are over; remove with factoryd orphans --delete\n",
            plural(left, "thing")
        ),
        (left, removed) => format!("{text}{removed} removed, {left} left.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_listed_by_build() {
        let of = |kind: &str, id: &str, name: &str| OrphanView {
            build: 7,
            kind: kind.to_owned(),
            id: id.to_owned(),
            name: name.to_owned(),
        };
        let found = OrphansView {
            orphans: vec![of("server", "5c", "factoryd-7-test"), of("key pair", "k", "k")],
            removed: Vec::new(),
        };
        insta::assert_snapshot!(shown(&found), @r"
        #7 server 5c factoryd-7-test
        #7 key pair k
        2 things left of builds that are over; remove with factoryd orphans --delete
        ");
        let gone = OrphansView { orphans: Vec::new(), removed: found.orphans };
        assert!(shown(&gone).ends_with("2 things removed.\n"));
        assert_eq!(shown(&OrphansView::default()), "Nothing is left of builds that are over.\n");
    }
}
