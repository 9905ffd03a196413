//! What plans remember of the database must be read again after anything of it changed.

use super::factory;
use super::fixture::{Fixture, finished, key, new, print, sealed};
use crate::domain::build::{Event, Moment, Outcome, StageEnd};
use crate::store::{Enqueue, Record};

#[tokio::test]
async fn whatever_plans_read_counts_as_moved_when_it_changes() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let mut before = store.moves();
    let mut is_moved = || std::mem::replace(&mut before, store.moves()) != store.moves();

    let stopped = fixture.started(new("images/a", "1")).await;
    assert!(!is_moved(), "queuing and starting builds changes no answer");
    fixture.provision(stopped, "1", StageEnd::Cancelled, vec![]).await;
    assert!(is_moved(), "what did not pass is a failure");
    fixture.append(stopped, 1100, Event::Interrupted).await;
    let supersede = vec![(stopped, "superseded by a newer push".into())];
    store.enqueue(Enqueue { supersede, at: Moment(1200), ..Enqueue::default() }).await.expect("queued");
    let failed = store.failures(&factory(), vec![print("provision 1")], true).await.expect("read");
    assert!(failed.is_empty() && is_moved(), "a superseded build takes its failures away");

    let number = fixture.started(new("images/a", "2")).await;
    fixture.provision(number, "2", StageEnd::Passed, vec![Record::Result(sealed(number, "2"))]).await;
    assert!(is_moved(), "a result and its time");
    fixture.append(number, 2000, finished(Outcome::Passed)).await;
    assert!(is_moved(), "the last inputs are those of a build that passed");
    store.clear_failures(&factory(), vec![print("provision 2")]).await.expect("cleared");
    assert!(is_moved(), "failures that somebody cleared");
    let results = store.all_results().await.expect("read");
    store.forget(results.iter().filter_map(|result| result.number).collect()).await.expect("forgotten");
    assert!(is_moved(), "results that are kept no more");
    store.unserve(vec![key("images/a")]).await.expect("done");
    assert!(is_moved(), "what is served may be the last");
    store.remove_image(&"0aaa-1".into()).await.expect("nothing to do");
    assert!(is_moved(), "an image takes its results along");
}
