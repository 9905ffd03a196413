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
    if let Some(away) = answer.away.first() {
        return Err(Failure::failed(format!("the driver {} could not be asked: {}", away.driver, away.reason)));
    }
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
        (0, 0) if !found.away.is_empty() => {
            let away: Vec<&str> = found.away.iter().map(|away| away.driver.as_str()).collect();
            format!("Nothing is known to be left of builds that are over, but for {}.\n", away.join(", "))
        }
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
    use crate::server::wire::AwayView;

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
            ..OrphansView::default()
        };
        insta::assert_snapshot!(shown(&found), @r"
        #7 server 5c factoryd-7-test
        #7 key pair k
        2 things left of builds that are over; remove with factoryd orphans --delete
        ");
        let gone = OrphansView { removed: found.orphans, ..OrphansView::default() };
        assert!(shown(&gone).ends_with("2 things removed.\n"));
        assert_eq!(shown(&OrphansView::default()), "Nothing is left of builds that are over.\n");
        let away = AwayView { driver: "cloud".to_owned(), reason: "Keystone is not reached".to_owned() };
        let unknown = OrphansView { away: vec![away], ..OrphansView::default() };
        assert_eq!(shown(&unknown), "Nothing is known to be left of builds that are over, but for cloud.\n");
    }
}
