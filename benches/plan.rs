//! A plan without git, database and daemon: manifest and domain over a tree in memory.
//!
//! `read, nothing kept` reads every bundle; `read, one file changed` is what a push costs: the next commit of the same
//! repository, with what the reading before it parsed. `plan` is the decision alone, `fingerprint` one bundle's.
//! `whole history` reads a git repository commit by commit, and plans each against the one before: this repository, or the
//! one that the environment variable HISTORY names.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use factoryd::domain::id::{CommitId, Digest, Oid, RepoName};
use factoryd::domain::inputs::{Inputs, declared};
use factoryd::domain::path::RepoPath;
use factoryd::domain::plan::{Facts, plan};
use factoryd::domain::tree::{Entry, EntryKind, Tree, TreeError};
use factoryd::manifest::{Cache, read};
use factoryd::source::trees;

const BUNDLES: usize = 10_000;

/// Files by path. What a directory's id covers is left to whoever changes a file: [`Repository::change`].
#[derive(Default)]
struct Repository {
    files: BTreeMap<RepoPath, Vec<u8>>,
    directories: BTreeMap<RepoPath, BTreeMap<Vec<u8>, Entry>>,
}

impl Repository {
    fn new() -> Self {
        let mut repository = Self::default();
        repository.change("pipelines/bundle.yml", include_str!("../pipelines/bundle.yml"));
        for number in 0..BUNDLES {
            let file = |path: &str| format!("images/bundle-{number:05}/{path}");
            let vars = format!("bundle:\n  name: b{number}\n  img_base: debian\n  properties: {{ img_os: Debian }}\n");
            repository.change(&file("build-vars.yml"), &vars);
            for path in ["ansible/bootstrap.yml", "ansible/templates/index.html.j2", "ansible/files/motd"] {
                repository.change(&file(path), &format!("{path} of {number}\n"));
            }
            repository.change(&file("tests/test_page.py"), &format!("# {number}\n"));
            repository.change(&file("output/stack.yml.j2"), "image: {{ result_img_id }}\n");
        }
        repository
    }

    /// Writes a file, and gives every directory above it a new id.
    fn change(&mut self, path: &str, text: &str) {
        let mut path = RepoPath::new(path).expect("inside the repository");
        self.files.insert(path.clone(), text.as_bytes().to_vec());
        let mut kind = EntryKind::File;
        while !path.is_root() {
            let oid = Some(oid(format!("{path} {text}").as_bytes()));
            let entry = Entry { name: path.name().to_vec(), kind, oid };
            self.directories.entry(path.parent()).or_default().insert(path.name().to_vec(), entry);
            (path, kind) = (path.parent(), EntryKind::Directory);
        }
    }
}

fn oid(bytes: &[u8]) -> Oid {
    let Digest(sum) = Digest::of(bytes);
    let mut oid = [0; 20];
    oid.copy_from_slice(&sum[..20]);
    Oid(oid)
}

impl Tree for Repository {
    fn entry(&self, path: &RepoPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry { name: Vec::new(), kind: EntryKind::Directory, oid: None }));
        }
        Ok(self.directories.get(&path.parent()).and_then(|directory| directory.get(path.name())).cloned())
    }

    fn list(&self, directory: &RepoPath) -> Result<Vec<Entry>, TreeError> {
        Ok(self.directories.get(directory).map(|entries| entries.values().cloned().collect()).unwrap_or_default())
    }

    fn read(&self, path: &RepoPath, _limit: u64) -> Result<Vec<u8>, TreeError> {
        self.files.get(path).cloned().ok_or_else(|| TreeError::Missing(path.clone()))
    }
}

fn plans(criterion: &mut Criterion) {
    let (name, commit) = (RepoName::from("factory"), CommitId::from("feed"));
    let mut repository = Repository::new();
    let mut group = criterion.benchmark_group(format!("{BUNDLES} bundles"));
    group.sample_size(10);
    group.bench_function("read, nothing kept", |bencher| {
        let cold = |cache| black_box(read(&repository, &name, &cache).expect("a tree"));
        bencher.iter_batched(Cache::default, cold, BatchSize::PerIteration);
    });
    let cache = Cache::default();
    let before = read(&repository, &name, &cache).expect("a tree").as_built();
    let turn = Cell::new(0_u64);
    group.bench_function("read, one file changed", |bencher| {
        bencher.iter(|| {
            turn.set(turn.get() + 1);
            repository.change("images/bundle-00500/ansible/files/motd", &turn.get().to_string());
            black_box(read(&repository, &name, &cache).expect("a tree"));
        });
    });
    let reading = read(&repository, &name, &cache).expect("a tree");
    group.bench_function("plan, one of them changed", |bencher| {
        bencher.iter(|| black_box(plan(commit.clone(), None, &reading.candidates(), &before)));
    });
    group.finish();

    let buildable = reading.bundles[0].verdict.as_ref().expect("a bundle that can be built");
    let own: Vec<&Inputs> = buildable.stages.iter().map(|stage| &stage.own).collect();
    criterion.bench_function("fingerprint of a bundle's five stages", |bencher| {
        bencher.iter(|| {
            let chain = buildable.stages.iter().zip(&own);
            black_box(chain.fold(None, |parent, (need, own)| Some(declared(need.stage, parent, own.digest()))));
        });
    });
}

/// The commits of a repository, the oldest first, along first parents.
fn commits(repository: &Path) -> Vec<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(repository).args(["rev-list", "--first-parent", "--reverse", "HEAD"]);
    let listed = git.output().expect("git is there: scripts/setup build");
    assert!(listed.status.success(), "{} has no history: name a git repository in HISTORY", repository.display());
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
}

fn history(criterion: &mut Criterion) {
    let repository = PathBuf::from(std::env::var_os("HISTORY").unwrap_or_else(|| ".".into()));
    let (name, commits) = (RepoName::from("factory"), commits(&repository));
    let mut group = criterion.benchmark_group("whole history");
    group.sample_size(10);
    group.bench_function(format!("{} commits", commits.len()), |bencher| {
        bencher.iter(|| {
            let (cache, mut before) = (Cache::default(), Facts::default());
            for revision in &commits {
                let (commit, tree) = trees::open(&repository, revision).expect("a commit");
                let reading = read(&tree, &name, &cache).expect("a tree");
                black_box(plan(commit, None, &reading.candidates(), &before));
                before = reading.as_built();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, plans, history);
criterion_main!(benches);
