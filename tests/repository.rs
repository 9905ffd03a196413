//! Scenarios on real git repositories: what people push, what the daemon then sees, and what wakes it.
//!
//! Needs the `git` program (`scripts/setup` installs it).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use factoryd::domain::build::Moment;
use factoryd::domain::id::{Branch, CommitId, RepoName};
use factoryd::domain::path::RepoPath;
use factoryd::domain::tree::{EntryKind, Tree, TreeError};
use factoryd::engine::ports::{Clock, LocalTime, PortErrorKind, Repositories as _, Wait};
use factoryd::source::mirror::{self, Fetched, Receiving};
use factoryd::source::poll::{self, PollStates, Polled};
use factoryd::source::repositories::GitRepositories;
use factoryd::source::trees::{self, OpenError};
use factoryd::source::watch::RefWatch;
use git2::{ObjectType, Oid, Repository};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);
const NULL_ID: &str = "0000000000000000000000000000000000000000";

/// A person's clone, a factory's state directory, and a home that holds nothing.
struct World {
    dir: TempDir,
    repositories: GitRepositories,
    name: RepoName,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let repositories = GitRepositories::new(dir.path().join("state/repos"));
        let world = Self { dir, repositories, name: RepoName::from("factory") };
        fs::create_dir(world.path("work")).expect("a directory");
        world.git(&["init", "--quiet", "-b", "main"]);
        world
    }

    /// A world whose clone pushes to a receiving repository of the factory.
    fn receiving() -> Self {
        let world = Self::new();
        world.prepare(10 << 20, &world.path("no-such-factoryd"));
        world.git(&["remote", "add", "origin", text(&world.bare())]);
        world
    }

    fn prepare(&self, max_input: u64, factoryd: &Path) {
        let receiving = Receiving { max_input, factoryd: factoryd.to_owned(), socket: self.path("factoryd.sock") };
        mirror::prepare_receiving(&self.repositories, &self.name, &receiving).expect("a receiving repository");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bare(&self) -> PathBuf {
        self.path("state/repos/factory.git")
    }

    /// Runs git in the clone; it has to succeed.
    fn git(&self, arguments: &[&str]) -> String {
        let output = self.try_git(&self.path("work"), arguments);
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn try_git(&self, at: &Path, arguments: &[&str]) -> Output {
        let mut git = Command::new("git");
        git.current_dir(at).args(arguments).env("HOME", self.dir.path()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "Ada").env(format!("GIT_{who}_EMAIL"), "ada@factory.example");
            git.env(format!("GIT_{who}_DATE"), "2026-11-23T14:02:00Z");
        }
        git.output().expect("git runs: scripts/setup installs it")
    }

    fn write(&self, path: &str, content: &str) {
        let file = self.path("work").join(path);
        fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
        fs::write(file, content).expect("a file");
    }

    /// Commits all there is; gives the commit.
    fn commit(&self, subject: &str) -> CommitId {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", subject]);
        CommitId::new(self.git(&["rev-parse", "HEAD"]))
    }

    fn push(&self, arguments: &[&str]) {
        self.git(&[&["push", "--quiet", "origin"], arguments].concat());
    }

    fn tips(&self) -> BTreeMap<String, CommitId> {
        let tips = self.repositories.tips(&self.name).expect("tips");
        tips.into_iter().map(|tip| (tip.branch.to_string(), tip.commit)).collect()
    }

    fn head(&self) -> Option<Branch> {
        self.repositories.head(&self.name).expect("HEAD")
    }

    fn tree(&self, commit: &CommitId) -> Box<dyn Tree> {
        self.repositories.tree(&self.name, commit).expect("a tree")
    }

    /// Checks paths out into a fresh directory below a fresh one; gives both, the outer to look for what escaped.
    fn checkout(&self, commit: &CommitId, paths: &[&str]) -> (Result<(), String>, PathBuf) {
        let into = self.path("outer/checkout");
        fs::create_dir_all(&into).expect("directories");
        let paths: Vec<RepoPath> = paths.iter().map(|path| repo_path(path)).collect();
        let result = self.repositories.checkout(&self.name, commit, &paths, &into);
        (result.map_err(|error| error.to_string()), into)
    }

    /// A commit of a tree object written byte by byte, as no git command would write it.
    fn hand_made(&self, entries: &[(&str, &[u8], Oid)]) -> CommitId {
        let repository = Repository::open(self.bare()).expect("the repository");
        commit_of(&repository, hand_made_tree(&repository, entries))
    }

    fn blob(&self, content: &[u8]) -> Oid {
        Repository::open(self.bare()).expect("the repository").blob(content).expect("a blob")
    }
}

fn hand_made_tree(repository: &Repository, entries: &[(&str, &[u8], Oid)]) -> Oid {
    let mut bytes = Vec::new();
    for (mode, name, oid) in entries {
        bytes.extend([mode.as_bytes(), b" ", name, b"\0", oid.as_bytes()].concat());
    }
    repository.odb().expect("objects").write(ObjectType::Tree, &bytes).expect("a tree")
}

fn commit_of(repository: &Repository, tree: Oid) -> CommitId {
    let who = "Eve <eve@factory.example> 1763906520 +0000";
    let commit = format!("tree {tree}\nauthor {who}\ncommitter {who}\n\nby hand\n");
    let oid = repository.odb().expect("objects").write(ObjectType::Commit, commit.as_bytes()).expect("a commit");
    CommitId::new(oid.to_string())
}

fn repo_path(path: &str) -> RepoPath {
    RepoPath::new(path).expect("a path inside the repository")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn names(tree: &dyn Tree, directory: &str) -> Vec<String> {
    let entries = tree.list(&repo_path(directory)).expect("a list");
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
}

fn kind(tree: &dyn Tree, path: &str) -> Option<EntryKind> {
    tree.entry(&repo_path(path)).expect("an entry").map(|entry| entry.kind)
}

fn wait() -> Wait {
    Wait { cancel: CancellationToken::new(), deadline: Instant::now() + PATIENCE }
}

/// Every file and directory below one, with size and time of change.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![directory.to_owned()]);
    while let Some(path) = open.pop() {
        let data = fs::symlink_metadata(&path).expect("metadata");
        if data.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        }
        found.insert(path, (data.len(), data.modified().expect("a time")));
    }
    found
}

// Pushes into a receiving repository.

#[test]
fn a_first_push_is_seen_with_its_branch_commit_and_files() {
    let world = World::receiving();
    assert_eq!((world.tips().len(), world.head()), (0, None));

    world.write("images/bundle-x/build-vars.yml", "bundle: {name: x}\n");
    world.write("images/bundle-x/output/stack.yaml.j2", "id: {{ result_img_id }}\n");
    let commit = world.commit("Add bundle x");
    world.push(&["main"]);

    assert_eq!(world.tips(), BTreeMap::from([("main".to_owned(), commit.clone())]));
    assert_eq!(world.head(), Some("main".into()));
    let info = world.repositories.describe(&world.name, &commit).expect("a description");
    assert_eq!((info.subject.as_str(), info.author.as_str()), ("Add bundle x", "Ada"));
    let tree = world.tree(&commit);
    assert_eq!(names(&*tree, "images/bundle-x"), ["build-vars.yml", "output"]);
    assert_eq!(tree.read(&repo_path("images/bundle-x/build-vars.yml"), 100).expect("a file"), b"bundle: {name: x}\n");
    assert_eq!(kind(&*tree, ""), Some(EntryKind::Directory));
    assert_eq!(kind(&*tree, "images/bundle-y"), None);
    assert_eq!(kind(&*tree, "images/bundle-x/build-vars.yml/below-a-file"), None);
    assert!(names(&*tree, "images/bundle-x/build-vars.yml").is_empty());
}

#[test]
fn head_is_the_first_branch_pushed_and_stays() {
    let world = World::receiving();
    world.commit("Begin");
    world.git(&["branch", "-m", "trunk"]);
    world.push(&["trunk"]);
    assert_eq!(world.head(), Some("trunk".into()));

    world.push(&["trunk:main", "trunk:feature"]);
    assert_eq!(world.head(), Some("trunk".into()));

    world.push(&["--delete", "trunk"]);
    assert_eq!(world.head(), None, "another branch does not become the one that publishes");
    world.prepare(10 << 20, &world.path("no-such-factoryd"));
    assert_eq!(world.head(), None, "nor does it after a restart");
}

#[test]
fn force_push_deletion_and_two_pushes_show_the_newest_tips_alone() {
    let world = World::receiving();
    let first = world.commit("First");
    world.push(&["main", "main:feature/a"]);
    let second = world.commit("Second");
    world.push(&["main"]);
    let third = world.commit("Third");
    world.push(&["main"]);
    assert_eq!(world.tips()["main"], third);

    world.git(&["reset", "--quiet", "--hard", first.as_str()]);
    let other = world.commit("Another second");
    world.push(&["--force", "main"]);
    assert_eq!(world.tips(), BTreeMap::from([("feature/a".to_owned(), first), ("main".to_owned(), other)]));
    assert!(world.repositories.describe(&world.name, &second).is_ok(), "what was pushed away can be built again");

    world.push(&["--delete", "feature/a"]);
    assert_eq!(world.tips().len(), 1);
}

#[test]
fn branches_tags_and_short_ids_name_commits() {
    let world = World::receiving();
    let first = world.commit("First");
    world.git(&["tag", "v1"]);
    world.git(&["tag", "-a", "v1-signed-off", "-m", "annotated"]);
    world.git(&["tag", "main", "HEAD"]);
    let second = world.commit("Second");
    world.git(&["push", "--quiet", "--tags", "origin", "refs/heads/main"]);

    let resolve = |revision: &str| world.repositories.resolve(&world.name, revision);
    assert_eq!(resolve("v1").expect("a tag"), first);
    assert_eq!(resolve("v1-signed-off").expect("an annotated tag"), first);
    assert_eq!(resolve(second.short()).expect("a short id"), second);
    assert_eq!(resolve("main").expect("a branch"), second, "a tag of the same name does not stand in for the branch");
    let error = resolve("nope").expect_err("there is none");
    assert_eq!(error.to_string(), "\"nope\" names no commit of the repository factory");
    assert_eq!(world.tips().len(), 1, "tags are no branches");
}

#[test]
fn no_branch_stands_in_for_head_or_for_a_commit() {
    let world = World::receiving();
    let first = world.commit("First");
    let second = world.commit("Second");
    world.git(&["push", "--quiet", "origin", "refs/heads/main"]);
    assert_eq!(world.head().map(|head| head.to_string()).as_deref(), Some("main"));
    let called = format!("{first}:refs/heads/{second}");
    world.git(&["push", "--quiet", "origin", &format!("{first}:refs/heads/HEAD"), &called]);
    let resolve = |revision: &str| world.repositories.resolve(&world.name, revision).expect("a commit");
    assert_eq!(resolve("HEAD"), second, "the default branch, whatever a branch is called");
    assert_eq!(resolve(&second.to_string()), second);
}

#[test]
fn mode_link_rename_and_submodule_are_seen_in_the_tree() {
    let world = World::receiving();
    world.write("b/run.sh", "true\n");
    symlink("run.sh", world.path("work/b/link")).expect("a link");
    let before = world.commit("Before");
    fs::set_permissions(world.path("work/b/run.sh"), fs::Permissions::from_mode(0o755)).expect("a mode");
    world.git(&["mv", "b/link", "b/renamed"]);
    world.git(&["add", "b/run.sh"]);
    world.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{before},b/module")]);
    world.git(&["commit", "--quiet", "-m", "After"]);
    let after = CommitId::new(world.git(&["rev-parse", "HEAD"]));
    world.push(&["main"]);

    let (old, new) = (world.tree(&before), world.tree(&after));
    assert_eq!(kind(&*old, "b/run.sh"), Some(EntryKind::File));
    assert_eq!(kind(&*new, "b/run.sh"), Some(EntryKind::Executable));
    let link = |tree: &dyn Tree, path| tree.entry(&repo_path(path)).expect("an entry").and_then(|entry| entry.oid);
    assert_eq!(link(&*old, "b/link"), link(&*new, "b/renamed"), "a rename keeps the object's id");
    assert_eq!(new.read(&repo_path("b/renamed"), 100).expect("a link's target"), b"run.sh");
    assert_eq!(kind(&*new, "b/module"), Some(EntryKind::Submodule));
    assert_eq!(new.read(&repo_path("b/module"), 100), Err(TreeError::Missing(repo_path("b/module"))));
}

#[test]
fn names_are_bytes_and_sorted_by_them() {
    let world = World::receiving();
    for name in [&b"a.b"[..], b"a0", b"\xff\xfe", b"new\nline"] {
        fs::write(world.path("work").join(OsStr::from_bytes(name)), "x").expect("a file");
    }
    world.write("a/file", "x");
    let commit = world.commit("Odd names");
    world.push(&["main"]);

    let entries = world.tree(&commit).list(&RepoPath::root()).expect("a list");
    let listed: Vec<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(listed, [&b"a"[..], b"a.b", b"a0", b"new\nline", b"\xff\xfe"]);
    let (result, into) = world.checkout(&commit, &[""]);
    assert_eq!(result, Ok(()));
    assert!(into.join(OsStr::from_bytes(b"\xff\xfe")).is_file());
}

#[test]
fn an_oversized_push_is_refused_with_a_reason() {
    let world = World::receiving();
    world.prepare(10_000, &world.path("no-such-factoryd"));
    let noise: String = (0..40_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    world.write("noise", &noise);
    world.commit("Too much");

    let push = world.try_git(&world.path("work"), &["push", "origin", "main"]);
    let said = String::from_utf8_lossy(&push.stderr);
    assert!(!push.status.success() && said.contains("pack exceeds maximum allowed size"), "{said}");
    assert!(world.tips().is_empty());
}

#[test]
fn a_hand_made_tree_that_leads_elsewhere_is_refused_at_the_push() {
    let world = World::receiving();
    let work = Repository::open(world.path("work")).expect("the clone");
    let blob = work.blob(b"x").expect("a blob");
    let inner = hand_made_tree(&work, &[("100644", b"escaped", blob)]);
    let commit = commit_of(&work, hand_made_tree(&work, &[("40000", b"..", inner)]));

    let spec = format!("{commit}:refs/heads/main");
    let push = world.try_git(&world.path("work"), &["push", "origin", &spec]);
    let said = String::from_utf8_lossy(&push.stderr);
    assert!(!push.status.success() && said.contains("hasDotdot"), "{said}");
}

#[test]
fn the_hook_tells_the_daemon_what_was_pushed() {
    let world = World::receiving();
    let binary = world.path("it's factoryd");
    let heard = world.path("heard");
    let script = format!(
        "#!/bin/sh\n{{ echo \"$@ $FACTORYD_REPOSITORY $FACTORYD_SOCKET\"; cat; }} >'{}'\necho planned >&2\nexit 1\n",
        text(&heard)
    );
    fs::write(&binary, script).expect("a script");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("a mode");
    world.prepare(10 << 20, &binary);
    let commit = world.commit("Begin");

    let push = world.try_git(&world.path("work"), &["push", "origin", "main"]);
    let said = String::from_utf8_lossy(&push.stderr);
    assert!(push.status.success() && said.contains("remote: planned"), "{said}");
    let socket = world.path("factoryd.sock");
    let expected = format!("hook post-receive factory {}\n{NULL_ID} {commit} refs/heads/main\n", text(&socket));
    assert_eq!(fs::read_to_string(heard).expect("the hook ran"), expected);
}

#[test]
fn preparing_again_changes_nothing_and_puts_a_lost_hook_back() {
    let world = World::receiving();
    let before = snapshot(&world.bare());
    world.prepare(10 << 20, &world.path("no-such-factoryd"));
    assert_eq!(snapshot(&world.bare()), before);

    let hook = world.bare().join("hooks/post-receive");
    fs::write(&hook, "#!/bin/sh\nexit 1\n").expect("a foreign hook");
    world.prepare(10 << 20, &world.path("no-such-factoryd"));
    assert!(fs::read_to_string(&hook).expect("the hook").contains("hook post-receive"));
}

// Checkouts.

#[test]
fn a_checkout_has_the_files_modes_and_links_that_were_asked_for() {
    let world = World::receiving();
    world.write("images/x/run.sh", "true\n");
    world.write("images/x/deep/er/file", "text\r\n");
    world.write("images/y/other", "no\n");
    world.write("ansible/all.yml", "[]\n");
    world.write(".gitattributes", "* text eol=crlf filter=evil ident\n");
    fs::set_permissions(world.path("work/images/x/run.sh"), fs::Permissions::from_mode(0o755)).expect("a mode");
    symlink("../../ansible/all.yml", world.path("work/images/x/shared.yml")).expect("a link");
    let commit = world.commit("Files");
    world.push(&["main"]);

    let (result, into) = world.checkout(&commit, &["images/x", "ansible/all.yml", "images/x/run.sh"]);
    assert_eq!(result, Ok(()));
    let mode = |path: &str| fs::metadata(into.join(path)).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode("images/x/run.sh"), mode("images/x/deep/er/file"), mode("images/x")), (0o755, 0o644, 0o755));
    let blob = world.git(&["show", "HEAD:images/x/deep/er/file"]);
    assert_eq!(fs::read_to_string(into.join("images/x/deep/er/file")).expect("a file").trim(), blob.trim());
    assert_eq!(fs::read_to_string(into.join("images/x/shared.yml")).expect("through the link"), "[]\n");
    assert!(!into.join("images/y").exists() && !into.join(".gitattributes").exists());

    let missing = world.checkout(&commit, &["images/z"]).0;
    assert_eq!(missing, Err("images/z is not in the commit".to_owned()));
}

#[test]
fn links_that_leave_the_checkout_are_left_out() {
    let world = World::receiving();
    let secret = world.path("outer/secret");
    fs::create_dir_all(world.path("outer")).expect("a directory");
    fs::write(&secret, "canary").expect("a file");
    world.write("a/b/file", "inside");
    let links = [
        ("absolute", text(&secret)),
        ("up", "../secret"),
        ("a/b/root", "../.."),
        ("a/round", "b/root/../secret"),
        ("a/b/down", "../../a/b/file"),
        ("dangling", "a/nothing"),
    ];
    for (link, target) in links {
        symlink(target, world.path("work").join(link)).expect("a link");
    }
    let commit = world.commit("Links");
    world.push(&["main"]);

    let (result, into) = world.checkout(&commit, &[""]);
    assert_eq!(result, Ok(()));
    let is_link = |path: &str| fs::symlink_metadata(into.join(path)).is_ok();
    let written: Vec<&str> = links.iter().map(|(link, _)| *link).filter(|link| is_link(link)).collect();
    assert_eq!(written, ["a/b/root", "a/b/down", "dangling"]);
    assert_eq!(fs::read_to_string(into.join("a/b/down")).expect("through the link"), "inside");
}

#[test]
fn hostile_names_are_never_written() {
    let world = World::receiving();
    let blob = world.blob(b"#!/bin/sh\n");
    let inner = |name: &[u8]| {
        hand_made_tree(&Repository::open(world.bare()).expect("the repository"), &[("100755", name, blob)])
    };
    let hostile: [(&str, &[u8], Oid); 5] = [
        ("40000", b"..", inner(b"escaped")),
        ("40000", b".git", inner(b"hooks")),
        ("40000", b".GIT", inner(b"hooks")),
        ("100644", b"../escaped", blob),
        ("100644", b".", blob),
    ];
    for entry in hostile {
        let commit = world.hand_made(&[entry]);
        let (result, into) = world.checkout(&commit, &[""]);
        let name = String::from_utf8_lossy(entry.1).into_owned();
        assert!(result.as_ref().is_err_and(|error| error.contains(&format!("{name:?}"))), "{name}: {result:?}");
        assert_eq!(snapshot(&into).len(), 1, "{name}: nothing was written");
        assert_eq!(snapshot(&world.path("outer")).len(), 2, "{name}: nothing escaped");
    }
}

#[test]
fn a_checkout_writes_through_no_link_that_lies_in_its_way() {
    let world = World::receiving();
    world.write("a/file", "x");
    let commit = world.commit("Files");
    world.push(&["main"]);
    let into = world.path("outer/checkout");
    fs::create_dir_all(&into).expect("directories");
    fs::create_dir_all(world.path("elsewhere")).expect("a directory");
    symlink(world.path("elsewhere"), into.join("a")).expect("a link");

    let (result, _) = world.checkout(&commit, &["a"]);
    assert!(result.is_err_and(|error| error.starts_with("a can't be written")));
    assert_eq!(snapshot(&world.path("elsewhere")).len(), 1);
}

// Trees that are made to harm.

#[test]
fn a_directory_with_too_many_entries_is_refused_in_words() {
    let world = World::receiving();
    let blob = world.blob(b"");
    let names: Vec<String> = (0..=200_000).map(|n| format!("{n:06}")).collect();
    let entries: Vec<_> = names.iter().map(|name| ("100644", name.as_bytes(), blob)).collect();
    let tree = world.tree(&world.hand_made(&entries));
    let error = tree.list(&RepoPath::root()).expect_err("too many");
    assert!(error.to_string().contains("the directory holds 200001 entries, more than 200000"), "{error}");
}

#[test]
fn a_tree_of_few_objects_and_endless_paths_is_refused_in_words() {
    let world = World::receiving();
    let repository = Repository::open(world.bare()).expect("the repository");
    let names: Vec<String> = (1000..2000).map(|n| n.to_string()).collect();
    let mut tree = world.blob(b"");
    for level in 0..5 {
        let mode = if level == 0 { "100644" } else { "40000" };
        let entries: Vec<_> = names.iter().map(|name| (mode, name.as_bytes(), tree)).collect();
        tree = hand_made_tree(&repository, &entries);
    }
    let tree = world.tree(&commit_of(&repository, tree));
    let mut open = vec![RepoPath::root()];
    let error = loop {
        let directory = open.pop().expect("the walk does not end by itself");
        match tree.list(&directory) {
            Ok(entries) => open.extend(entries.iter().map(|entry| directory.join(&entry.name).expect("a path"))),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("more than 1000000 entries"), "{error}");
}

#[test]
fn directories_nested_too_deep_are_refused_in_words() {
    let world = World::receiving();
    let repository = Repository::open(world.bare()).expect("the repository");
    let mut tree = hand_made_tree(&repository, &[("100644", b"file", world.blob(b""))]);
    for _ in 0..65 {
        tree = hand_made_tree(&repository, &[("40000", b"d", tree)]);
    }
    let tree = world.tree(&commit_of(&repository, tree));
    assert!(tree.list(&repo_path(&["d"; 64].join("/"))).is_ok());
    let error = tree.list(&repo_path(&["d"; 65].join("/"))).expect_err("too deep");
    assert!(error.to_string().contains("directories nest deeper than 64"), "{error}");
}

#[test]
fn a_large_file_is_refused_by_its_size() {
    let world = World::receiving();
    let commit = world.hand_made(&[("100644", b"vars.yml", world.blob(&[b'x'; 1001]))]);
    let tree = world.tree(&commit);
    let path = repo_path("vars.yml");
    assert_eq!(tree.read(&path, 1000), Err(TreeError::TooLarge { path: path.clone(), limit: 1000 }));
    assert_eq!(tree.read(&path, 1001).map(|bytes| bytes.len()), Ok(1001));
}

#[test]
fn broken_and_missing_objects_name_the_path() {
    let world = World::receiving();
    let blob = world.blob(b"content");
    let nowhere = Oid::from_str("1234567890123456789012345678901234567890").expect("an id");
    let inner = hand_made_tree(
        &Repository::open(world.bare()).expect("the repository"),
        &[("100644", b"bad", blob), ("100644", b"gone", nowhere), ("40000", b"void", nowhere)],
    );
    let commit = world.hand_made(&[("40000", b"dir", inner)]);
    let id = blob.to_string();
    let object = world.bare().join("objects").join(&id[..2]).join(&id[2..]);
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).expect("a mode");
    fs::write(&object, "no zlib").expect("a broken object");

    let tree = world.tree(&commit);
    for path in ["dir/bad", "dir/gone"] {
        let error = tree.read(&repo_path(path), 100).expect_err("broken");
        assert!(error.to_string().starts_with(&format!("{path} can't be read from the repository: ")), "{error}");
    }
    let error = tree.list(&repo_path("dir/void")).expect_err("broken");
    assert!(error.to_string().starts_with("dir/void can't be read from the repository: "), "{error}");
}

// Planning without a daemon.

#[test]
fn opening_a_repository_that_lies_anywhere_writes_nothing() {
    let world = World::receiving();
    world.write("images/x/build-vars.yml", "bundle: {}\n");
    let commit = world.commit("Begin");
    world.push(&["main"]);
    for repository in [world.bare(), world.path("work")] {
        let before = snapshot(&repository);
        let (opened, tree) = trees::open(&repository, "HEAD").expect("a tree");
        assert_eq!(opened, commit);
        assert_eq!(names(&tree, "images/x"), ["build-vars.yml"]);
        assert!(matches!(trees::open(&repository, "nope"), Err(OpenError::Revision { .. })));
        assert!(matches!(trees::open(&repository, NULL_ID), Err(OpenError::Revision { .. })));
        assert_eq!(snapshot(&repository), before);
    }
    assert!(matches!(trees::open(&world.path("work/images"), "HEAD"), Err(OpenError::Repository { .. })));
}

// Mirrors.

/// A world whose clone is the remote of a mirror.
fn mirrored() -> (World, PathBuf, String) {
    let world = World::new();
    let mirror = mirror::prepare_mirror(&world.repositories, &world.name).expect("a mirror");
    let url = format!("file://{}", text(&world.path("work")));
    (world, mirror, url)
}

#[tokio::test]
async fn a_mirror_follows_branches_tags_and_head() {
    let (world, mirror, url) = mirrored();
    assert_eq!(mirror::fetch(&mirror, &url, &wait()).await.expect("an empty remote"), Fetched::Same);

    let first = world.commit("First");
    world.git(&["branch", "-m", "trunk"]);
    world.git(&["branch", "topic"]);
    world.git(&["tag", "-a", "v1", "-m", "one"]);
    assert_eq!(mirror::fetch(&mirror, &url, &wait()).await.expect("a fetch"), Fetched::Changed);
    assert_eq!(mirror::fetch(&mirror, &url, &wait()).await.expect("a fetch"), Fetched::Same);
    assert_eq!(world.head(), Some("trunk".into()));
    assert_eq!(world.repositories.resolve(&world.name, "v1").expect("the tag"), first);

    // A branch that turns into a directory of branches, a force push, a tag that is gone: all in one.
    world.git(&["branch", "-D", "topic"]);
    world.git(&["branch", "topic/one"]);
    world.git(&["tag", "-d", "v1"]);
    world.git(&["commit", "--quiet", "--amend", "--allow-empty", "-m", "First, again"]);
    let amended = CommitId::new(world.git(&["rev-parse", "HEAD"]));
    assert_eq!(mirror::fetch(&mirror, &url, &wait()).await.expect("a fetch"), Fetched::Changed);
    assert_eq!(world.tips(), BTreeMap::from([("topic/one".to_owned(), first), ("trunk".to_owned(), amended)]));
    assert!(world.repositories.resolve(&world.name, "v1").is_err());
}

#[tokio::test]
async fn a_remote_that_vanished_gives_one_error_and_the_old_tips_stay() {
    let (world, mirror, url) = mirrored();
    let commit = world.commit("First");
    mirror::fetch(&mirror, &url, &wait()).await.expect("a fetch");
    fs::rename(world.path("work"), world.path("away")).expect("a rename");

    let error = mirror::fetch(&mirror, &url, &wait()).await.expect_err("it is gone");
    assert_eq!(error.kind, PortErrorKind::Unavailable);
    let message = error.to_string();
    assert!(message.starts_with(&format!("fetching {url} failed: ")), "{message}");
    assert!(message.contains("does not appear to be a git repository") && !message.contains('\n'), "{message}");
    assert_eq!(world.tips(), BTreeMap::from([("main".to_owned(), commit)]));
}

#[tokio::test]
async fn a_url_can_not_name_a_command_or_an_option() {
    let (world, mirror, _) = mirrored();
    let touched = world.path("touched");
    for url in [format!("ext::touch {}", text(&touched)), format!("--upload-pack=touch {}", text(&touched))] {
        assert!(mirror::fetch(&mirror, &url, &wait()).await.is_err(), "{url}");
        assert!(!touched.exists(), "{url}");
    }
}

#[tokio::test]
async fn locks_of_a_fetch_that_died_with_the_host_are_removed() {
    let (world, mirror, url) = mirrored();
    world.commit("First");
    fs::write(mirror.join("packed-refs.lock"), "").expect("a lock");
    fs::write(mirror.join("refs/heads/main.lock"), "").expect("a lock");
    mirror::fetch(&mirror, &url, &wait()).await.expect_err("the lock is in the way");
    mirror::prepare_mirror(&world.repositories, &world.name).expect("prepared again");
    mirror::fetch(&mirror, &url, &wait()).await.expect("a fetch");
    assert_eq!(world.tips().len(), 1);
}

#[tokio::test]
async fn a_fetch_from_a_remote_that_never_answers_ends_with_its_wait() {
    let (_world, mirror, _) = mirrored();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("git://{}/x.git", listener.local_addr().expect("an address"));
    let cancel = CancellationToken::new();
    let asked = cancel.clone();
    // Cancels when git has asked its question, and gives what comes after: the end of the connection, since git is gone.
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("git connects");
        connection.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        // The question is one line of git's protocol: its length in four digits, then the rest.
        let mut length = [0; 4];
        connection.read_exact(&mut length).expect("git asks");
        let length = std::str::from_utf8(&length).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let mut question = vec![0; length.expect("a length") - 4];
        connection.read_exact(&mut question).expect("the question");
        assert!(question.starts_with(b"git-upload-pack"));
        asked.cancel();
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest)
    });
    let wait = Wait { cancel, deadline: Instant::now() + PATIENCE };
    let error = timeout(PATIENCE, mirror::fetch(&mirror, &url, &wait)).await.expect("in time").expect_err("cancelled");
    assert_eq!(error.kind, PortErrorKind::Cancelled);
    server.join().expect("the server ran").expect("git is gone");
}

// What wakes the planner.

async fn hint(hints: &mut mpsc::Receiver<RepoName>) -> RepoName {
    timeout(PATIENCE, hints.recv()).await.expect("a hint in time").expect("somebody gives hints")
}

/// Takes hints until the look that each leads to shows what is expected; the last event may need a hint of its own.
async fn hinted_until(hints: &mut mpsc::Receiver<RepoName>, seen: impl Fn() -> bool) {
    while !seen() {
        hint(hints).await;
    }
}

#[tokio::test]
async fn the_watch_sees_pushes_without_a_hook_new_directories_and_packing() {
    let world = World::receiving();
    fs::remove_file(world.bare().join("hooks/post-receive")).expect("the hook is removed");
    let watch = RefWatch::start(vec![(world.name.clone(), world.bare())]).expect("a watch");
    let fault = watch.fault();
    let (sender, mut hints) = mpsc::channel(4);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(watch.run(sender, cancel.clone()));

    let first = world.commit("First");
    world.push(&["main"]);
    assert_eq!(hint(&mut hints).await, world.name);
    hinted_until(&mut hints, || world.tips().get("main") == Some(&first)).await;

    world.push(&["main:team/a/topic"]);
    hinted_until(&mut hints, || world.tips().contains_key("team/a/topic")).await;

    let second = world.commit("Second");
    world.push(&["main:team/a/topic"]);
    hinted_until(&mut hints, || world.tips().get("team/a/topic") == Some(&second)).await;

    world.try_git(&world.bare(), &["pack-refs", "--all", "--prune"]);
    assert_eq!(hint(&mut hints).await, world.name);
    world.push(&["main"]);
    hinted_until(&mut hints, || world.tips().get("main") == Some(&second)).await;
    world.push(&["--delete", "team/a/topic"]);
    hinted_until(&mut hints, || !world.tips().contains_key("team/a/topic")).await;

    assert_eq!(fault.get(), None);
    cancel.cancel();
    timeout(PATIENCE, task).await.expect("it ends").expect("without a panic");
}

#[test]
fn a_repository_that_is_not_there_can_not_be_watched() {
    let world = World::new();
    let error = RefWatch::start(vec![(world.name.clone(), world.bare())]).expect_err("it is not there");
    assert!(
        error.to_string().contains("factory.git are not watched: it is not there; pushes are still found"),
        "{error}"
    );
}

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Moment {
        Moment(1_763_906_520_000)
    }

    fn local(&self, _: Moment) -> LocalTime {
        LocalTime { year: 2026, month: 11, day: 23, hour: 14, minute: 2, second: 0 }
    }
}

#[tokio::test]
async fn the_poll_alone_finds_new_commits_and_says_when_the_remote_is_gone() {
    let (world, mirror, url) = mirrored();
    let first = world.commit("First");
    let polled = Polled { name: world.name.clone(), path: mirror, url: Some(url), every: Duration::from_millis(50) };
    let (states, cancel) = (PollStates::default(), CancellationToken::new());
    let (sender, mut hints) = mpsc::channel(4);
    let task = tokio::spawn(poll::run(vec![polled], states.clone(), Arc::new(FixedClock), sender, cancel.clone()));

    assert_eq!(hint(&mut hints).await, world.name);
    assert_eq!(world.tips()["main"], first);
    // Each look is a hint: the plan that an earlier one led to may have failed.
    assert_eq!(hint(&mut hints).await, world.name);
    let second = world.commit("Second");
    hinted_until(&mut hints, || world.tips()["main"] == second).await;

    fs::rename(world.path("work"), world.path("away")).expect("a rename");
    let mut follow = states.follow();
    let failed = follow.wait_for(|states| states.get(&world.name).is_some_and(|state| state.error.is_some()));
    drop(timeout(PATIENCE, failed).await.expect("in time").expect("the poll goes on"));
    let state = states.get(&world.name);
    assert_eq!(state.fetched, Some(FixedClock.now()), "the last success is still known");
    assert_eq!(world.tips()["main"], second);

    fs::rename(world.path("away"), world.path("work")).expect("a rename");
    let third = world.commit("Third");
    hinted_until(&mut hints, || world.tips()["main"] == third).await;
    assert_eq!(states.get(&world.name).failures, 0);
    cancel.cancel();
    timeout(PATIENCE, task).await.expect("it ends").expect("without a panic");
}

#[tokio::test]
async fn a_receiving_repository_is_hinted_at_by_the_clock() {
    let world = World::receiving();
    let polled = Polled { name: world.name.clone(), path: world.bare(), url: None, every: Duration::from_millis(10) };
    let (sender, mut hints) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let states = PollStates::default();
    let task = tokio::spawn(poll::run(vec![polled], states, Arc::new(FixedClock), sender, cancel.clone()));
    for _ in 0..3 {
        assert_eq!(hint(&mut hints).await, world.name);
    }
    // The next hint may find no room: that must not keep the poll from ending.
    cancel.cancel();
    timeout(PATIENCE, task).await.expect("it ends").expect("without a panic");
}

#[tokio::test]
async fn packing_keeps_commits_that_no_branch_holds() {
    let world = World::receiving();
    let first = world.commit("First");
    world.push(&["main"]);
    world.git(&["commit", "--quiet", "--amend", "--allow-empty", "-m", "Instead"]);
    world.push(&["--force", "main"]);
    // git takes a sample for the whole: 27 objects in the directory 17 mean more than 6700 in all.
    let in_17 = (0_u32..)
        .map(|n| n.to_string())
        .filter(|text| Oid::hash_object(ObjectType::Blob, text.as_bytes()).is_ok_and(|oid| oid.as_bytes()[0] == 0x17));
    for text in in_17.take(40) {
        world.blob(text.as_bytes());
    }

    mirror::repack(&world.bare(), &wait()).await.expect("packed");
    let packs = fs::read_dir(world.bare().join("objects/pack")).expect("a directory").count();
    assert!(packs > 0, "there was something to pack");
    assert!(world.repositories.describe(&world.name, &first).is_ok());
}
