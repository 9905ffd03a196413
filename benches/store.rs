//! The store on a real disk: what one line of a journal costs, and what `status` asks with a long history behind it.

use criterion::{Criterion, criterion_group, criterion_main};
use factoryd::domain::build::{Event, Moment, Outcome};
use factoryd::domain::bundle::BundleKey;
use factoryd::domain::id::{BuildNo, Digest, Fingerprint};
use factoryd::domain::inputs::{Input, Inputs};
use factoryd::domain::path::RepoPath;
use factoryd::domain::pipeline::Stage;
use factoryd::store::{Enqueue, NewBuild, Store};
use tokio::runtime::Runtime;

const BUNDLES: usize = 500;
const BUILDS: usize = 5000;

fn key(number: usize) -> BundleKey {
    let path = RepoPath::new(format!("images/bundle-{:03}", number % BUNDLES)).expect("inside the repository");
    BundleKey { repository: "factory".into(), branch: "main".into(), path }
}

fn order(number: usize) -> NewBuild {
    let inputs = |stage: Stage| {
        let own = Inputs::new(vec![Input::value(stage.word(), number.to_string())]);
        (stage, Fingerprint(Digest::of(format!("{stage} {number}").as_bytes())), own)
    };
    NewBuild {
        key: key(number),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        reason: "provision: ansible/bootstrap.yml differs".into(),
        by: "push".into(),
        from: None,
        until: None,
        no_cache: false,
        tracked: true,
        stages: Stage::ALL.to_vec(),
        inputs: Stage::ALL.into_iter().map(inputs).collect(),
    }
}

/// A store whose builds have all failed, but for one that runs.
async fn grown(store: &Store) -> BuildNo {
    let new = (0..=BUILDS).map(order).collect();
    let orders = store.enqueue(Enqueue { new, at: Moment(1), ..Enqueue::default() }).await.expect("queued");
    let end = Event::Finished { outcome: Outcome::Cancelled, failure: None, reason: String::new() };
    for order in &orders[..BUILDS] {
        store.append(order.number, Moment(2), end.clone(), Vec::new()).await.expect("appended");
    }
    let last = orders[BUILDS].number;
    store.append(last, Moment(2), Event::Started { attempt: 1 }, Vec::new()).await.expect("appended");
    last
}

fn stores(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("state")).expect("opens");
    let runtime = Runtime::new().expect("a runtime");
    let running = runtime.block_on(grown(&store));
    let keys: Vec<BundleKey> = (0..BUNDLES).map(key).collect();
    let mut group = criterion.benchmark_group(format!("store with {BUILDS} builds of {BUNDLES} bundles"));
    group.sample_size(30);
    group.bench_function("append", |bencher| {
        let event = || Event::CancelAsked { by: "somebody".into() };
        bencher.iter(|| {
            runtime.block_on(store.append(running, Moment(3), event(), Vec::new())).expect("appended");
        });
    });
    group.bench_function("last builds, for status", |bencher| {
        bencher.iter(|| runtime.block_on(store.last_builds(keys.clone())).expect("read"));
    });
    group.bench_function("open builds", |bencher| {
        bencher.iter(|| runtime.block_on(store.open_builds()).expect("read"));
    });
    group.finish();
}

criterion_group!(benches, stores);
criterion_main!(benches);
