//! Makes the bare repositories of the state directory and keeps mirrors like their remotes.
//!
//! A *receiving* repository is the remote that people push to: its post-receive hook gives a hint and can't fail a push.
//! A *mirror* follows the branches and tags of a URL; if that is away, the mirror keeps what it has.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use git2::{Config, ConfigLevel, Repository, RepositoryInitOptions};

use super::program::git;
use super::repositories::{self, GitRepositories, HEAD_KEY, HEAD_WAITS};
use super::trees;
use crate::blocking;
use crate::domain::id::{Branch, RepoName};
use crate::engine::ports::{PortError, Wait};

/// How long a remote may take to list its refs: nothing is transferred yet.
const LIST_WITHIN: Duration = Duration::from_secs(60);

/// Settings of every repository below the state directory. Objects are never pruned: a build may be repeated from a
/// commit that no branch holds any more. Packing is the daemon's, at its own time ([`repack`]), and never a push's.
const SETTINGS: [(&str, &str); 7] = [
    ("core.bare", "true"),
    ("core.logAllRefUpdates", "true"),
    ("gc.auto", "0"),
    ("gc.autoDetach", "false"),
    ("gc.pruneExpire", "never"),
    ("gc.reflogExpire", "never"),
    ("maintenance.auto", "false"),
];

/// Settings of a receiving repository. Force pushes and deletions are ordinary; objects that no git writes are not, but
/// for the faults that old histories really have.
const RECEIVING: [(&str, &str); 11] = [
    ("receive.denyNonFastForwards", "false"),
    ("receive.denyDeletes", "false"),
    ("receive.denyDeleteCurrent", "ignore"),
    ("receive.autogc", "false"),
    ("receive.advertisePushOptions", "true"),
    ("receive.fsckObjects", "true"),
    ("receive.fsck.zeroPaddedFilemode", "ignore"),
    ("receive.fsck.missingSpaceBeforeDate", "ignore"),
    ("receive.fsck.badTimezone", "ignore"),
    ("receive.fsck.missingEmail", "ignore"),
    ("transfer.hideRefs", "refs/factoryd"),
];

/// What a receiving repository is set up with.
#[derive(Clone, Debug)]
pub struct Receiving {
    /// The most bytes that one push may bring.
    pub max_input: u64,
    /// The factoryd binary that the hook runs: an absolute path.
    pub factoryd: PathBuf,
    /// The daemon's socket, given to the hook as `FACTORYD_SOCKET`: an absolute path.
    pub socket: PathBuf,
}

/// Makes or puts right a repository that people push to. Doing it again changes nothing; do it at each start.
///
/// # Errors
/// When it can't be made or written.
pub fn prepare_receiving(
    repositories: &GitRepositories,
    name: &RepoName,
    receiving: &Receiving,
) -> Result<PathBuf, PortError> {
    let path = repositories.path(name)?;
    set_up_receiving(&path, name, receiving).map_err(|error| not_made(name, &error))?;
    Ok(path)
}

/// Makes or puts right a repository that follows a URL. Doing it again changes nothing; do it at each start, before the
/// first fetch: locks that a fetch left behind when the host went down are removed.
///
/// # Errors
/// When it can't be made or written.
pub fn prepare_mirror(repositories: &GitRepositories, name: &RepoName) -> Result<PathBuf, PortError> {
    let path = repositories.path(name)?;
    initialise(&path)
        .map_err(from_git)
        .and_then(|_| remove_leftovers(&path))
        .map_err(|error| not_made(name, &error))?;
    Ok(path)
}

/// Whether a fetch brought anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// A branch, a tag or HEAD is another one now.
    Changed,
    /// All is as it was.
    Same,
}

/// Makes a mirror's branches, tags and HEAD those of the URL (https, http, ssh, git, file or a path).
///
/// # Errors
/// When the remote is away, refuses, or takes too long; branches and tags that were there stay.
pub async fn fetch(repository: &Path, url: &str, wait: &Wait) -> Result<Fetched, PortError> {
    fetch_refs(repository, url, wait).await.map_err(|error| {
        let message = without_password(&error.message, url);
        let help =
            "check the URL and the daemon's access to it (`git ls-remote` as its user); what was fetched before stays";
        PortError::new(error.kind, message).help(if error.help.is_empty() { help } else { &error.help })
    })
}

async fn fetch_refs(repository: &Path, url: &str, wait: &Wait) -> Result<Fetched, PortError> {
    let what = format!("fetching {url}");
    let list = ["ls-remote", "--symref", "--", url, "HEAD", "refs/heads/*", "refs/tags/*"];
    let remote = Refs::from_ls_remote(&git(repository, &what, &list, &wait.within(LIST_WITHIN)).await?);
    let before = read_refs(repository).await?;
    if remote.refs != before.refs {
        // One transaction, so that a renamed branch is never seen missing; where a branch turns into a directory of
        // branches git can't do that, and dies of it.
        let atomic = if remote.collides_with(&before) { "--no-atomic" } else { "--atomic" };
        let flags = ["fetch", atomic, "--prune", "--force", "--no-tags", "--quiet", "--no-write-fetch-head"];
        let more = ["--no-auto-maintenance", "--no-recurse-submodules", "--", url];
        let specs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        git(repository, &what, &[&flags[..], &more, &specs].concat(), wait).await?;
    }
    let after = follow_head(repository, remote.head).await?;
    Ok(if after == before { Fetched::Same } else { Fetched::Changed })
}

/// Packs a repository's objects if many lie about loose, and keeps all of them.
///
/// # Errors
/// When git fails or the wait ends; nothing is lost then.
pub async fn repack(repository: &Path, wait: &Wait) -> Result<(), PortError> {
    // git's own measure of "many"; the repository's configuration says 0, so that nobody else starts.
    let arguments = ["-c", "gc.auto=6700", "gc", "--auto", "--quiet"];
    git(repository, &format!("packing {}", repository.display()), &arguments, wait).await.map(drop)
}

/// Branches, tags and HEAD of a repository. Names are bytes, as git has them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Refs {
    head: Option<Branch>,
    refs: BTreeMap<Vec<u8>, String>,
}

impl Refs {
    fn from_ls_remote(printed: &[u8]) -> Self {
        let mut refs = Self::default();
        for line in printed.split(|byte| *byte == b'\n') {
            let Some(tab) = line.iter().position(|byte| *byte == b'\t') else { continue };
            let (left, name) = (String::from_utf8_lossy(&line[..tab]).into_owned(), &line[tab + 1..]);
            if let Some(branch) = left.strip_prefix("ref: refs/heads/").filter(|_| name == b"HEAD") {
                refs.head = Some(Branch::from(branch));
            } else if is_followed(name) && !name.ends_with(b"^{}") {
                refs.refs.insert(name.to_vec(), left);
            }
        }
        refs
    }

    fn from_repository(repository: &Repository) -> Result<Self, git2::Error> {
        let mut refs = Self::default();
        for reference in repository.references()? {
            let reference = reference?;
            if let Some(target) = reference.target().filter(|_| is_followed(reference.name_bytes())) {
                refs.refs.insert(reference.name_bytes().to_vec(), target.to_string());
            }
        }
        let head = repository.find_reference("HEAD")?;
        let name = head.symbolic_target_bytes().map(String::from_utf8_lossy);
        refs.head = name.and_then(|name| name.strip_prefix("refs/heads/").map(Branch::from));
        Ok(refs)
    }

    /// Whether a ref of the other lies where this one has a directory, or the reverse.
    fn collides_with(&self, other: &Self) -> bool {
        self.hides_directory_of(other) || other.hides_directory_of(self)
    }

    fn hides_directory_of(&self, other: &Self) -> bool {
        let parents = |name: &Vec<u8>| {
            let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            slashes.map(|at| name[..at].to_vec()).collect::<Vec<_>>()
        };
        other.refs.keys().flat_map(parents).any(|parent| self.refs.contains_key(&parent))
    }

    fn branches(&self) -> Vec<Branch> {
        let names = self.refs.keys().filter_map(|name| name.strip_prefix(b"refs/heads/"));
        names.map(|name| Branch::new(String::from_utf8_lossy(name))).collect()
    }
}

fn is_followed(name: &[u8]) -> bool {
    name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/")
}

async fn read_refs(repository: &Path) -> Result<Refs, PortError> {
    let path = repository.to_owned();
    blocking::run(move || Refs::from_repository(&open(&path)?).map_err(|error| unreadable(&path, &error))).await
}

/// Lets HEAD name the remote's branch. A remote that names none leaves it where it is, unless nothing is there.
async fn follow_head(repository: &Path, remote: Option<Branch>) -> Result<Refs, PortError> {
    let path = repository.to_owned();
    blocking::run(move || {
        let opened = open(&path)?;
        let mut refs = Refs::from_repository(&opened).map_err(|error| unreadable(&path, &error))?;
        let branches = refs.branches();
        let kept = refs.head.clone().filter(|head| branches.contains(head));
        let head = remote.or(kept).or_else(|| repositories::first_branch(&branches).cloned());
        if let Some(head) = head.filter(|head| refs.head.as_ref() != Some(head)) {
            repositories::point_head(&opened, &head).map_err(|error| unreadable(&path, &error))?;
            refs.head = Some(head);
        }
        Ok(refs)
    })
    .await
}

fn open(path: &Path) -> Result<Repository, PortError> {
    trees::open_repository(path).map_err(|error| PortError::unavailable(error.to_string()))
}

fn set_up_receiving(path: &Path, name: &RepoName, receiving: &Receiving) -> io::Result<()> {
    let repository = initialise(path).map_err(from_git)?;
    let hooks = path.join("hooks");
    // A hooks path of the system's or the user's configuration would take the place of our hook.
    let (hooks_path, max_input) = (hooks.to_string_lossy(), receiving.max_input.to_string());
    let own = [("core.hooksPath", &*hooks_path), ("receive.maxInputSize", &*max_input)];
    let mut config = local_config(&repository).map_err(from_git)?;
    set_all(&mut config, RECEIVING.into_iter().chain(own)).map_err(from_git)?;
    if config.get_string(HEAD_KEY).is_err() {
        config.set_str(HEAD_KEY, HEAD_WAITS).map_err(from_git)?;
    }
    write_hook(&hooks, name, receiving)
}

/// A bare repository without any template of the host, HEAD at `main`. One that is there stays as it is, and one that
/// was half made when the daemon died is made whole.
fn initialise(path: &Path) -> Result<Repository, git2::Error> {
    let mut options = RepositoryInitOptions::new();
    options.bare(true).mkdir(true).mkpath(true).external_template(false).initial_head("main");
    let repository = Repository::open_bare(path).or_else(|_| Repository::init_opts(path, &options))?;
    set_all(&mut local_config(&repository)?, SETTINGS)?;
    Ok(repository)
}

fn local_config(repository: &Repository) -> Result<Config, git2::Error> {
    repository.config()?.open_level(ConfigLevel::Local)
}

/// Writes only what differs, so that nothing wakes up for nothing.
fn set_all<'a>(config: &mut Config, settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), git2::Error> {
    for (key, value) in settings {
        if config.get_string(key).ok().as_deref() != Some(value) {
            config.set_str(key, value)?;
        }
    }
    Ok(())
}

/// Writes the hook beside its place and renames it, so that no push ever meets half of it.
fn write_hook(hooks: &Path, name: &RepoName, receiving: &Receiving) -> io::Result<()> {
    let (hook, text) = (hooks.join("post-receive"), hook_text(name, receiving));
    if fs::read(&hook).is_ok_and(|there| there == text) && fs::metadata(&hook)?.permissions().mode() & 0o100 != 0 {
        return Ok(());
    }
    fs::create_dir_all(hooks)?;
    let new = hooks.join("post-receive.new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(new, hook)
}

fn hook_text(name: &RepoName, receiving: &Receiving) -> Vec<u8> {
    let binary = quoted(receiving.factoryd.as_os_str().as_bytes());
    let lines: [&[u8]; 12] = [
        b"#!/bin/sh\n",
        b"# Written by factoryd at each start; changes made here do not stay.\n",
        b"FACTORYD_SOCKET=",
        &quoted(receiving.socket.as_os_str().as_bytes()),
        b"\nFACTORYD_REPOSITORY=",
        &quoted(name.as_str().as_bytes()),
        b"\nexport FACTORYD_SOCKET FACTORYD_REPOSITORY\n",
        b"# A push is accepted whether or not anybody hears of it: the daemon looks again by itself.\n[ -x ",
        &binary,
        b" ] || exit 0\nexec ",
        &binary,
        b" hook post-receive\n",
    ];
    lines.concat()
}

/// A word for the shell that means exactly these bytes.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'\'').collect();
    [b"'", parts.join(&b"'\\''"[..]).as_slice(), b"'"].concat()
}

/// Removes what a fetch leaves when the host goes down under it: locks that would stop every later fetch, and half a
/// pack. Nobody but the daemon writes to a mirror.
fn remove_leftovers(repository: &Path) -> io::Result<()> {
    remove_leftovers_in(repository)?;
    remove_leftovers_in(&repository.join("objects/pack"))?;
    let mut directories = vec![repository.join("refs")];
    while let Some(directory) = directories.pop() {
        directories.extend(remove_leftovers_in(&directory)?);
    }
    Ok(())
}

/// Clears one directory and gives the directories in it.
fn remove_leftovers_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    for entry in fs::read_dir(directory)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if fs::symlink_metadata(&entry)?.is_dir() {
            below.push(entry);
        } else if name.as_bytes().ends_with(b".lock") || name.as_bytes().starts_with(b"tmp_") {
            fs::remove_file(entry)?;
        }
    }
    Ok(below)
}

/// What git says, without the password that the URL may hold.
fn without_password(message: &str, url: &str) -> String {
    let user = url.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next()?.rsplit_once('@'));
    match user.and_then(|(user, _)| user.split_once(':')) {
        Some((_, password)) if !password.is_empty() => message.replace(password, "…"),
        _ => message.to_owned(),
    }
}

fn unreadable(path: &Path, error: &git2::Error) -> PortError {
    PortError::unavailable(format!("{} can't be read: {}", path.display(), error.message()))
}

fn from_git(error: git2::Error) -> io::Error {
    io::Error::other(error.message().to_owned())
}

fn not_made(name: &RepoName, why: &io::Error) -> PortError {
    PortError::unavailable(format!("the repository {name} can't be made or set up: {why}"))
        .help("see that the state directory belongs to the daemon's user and has room")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(names: &[&str]) -> Refs {
        let refs = names.iter().map(|name| (name.as_bytes().to_vec(), String::new())).collect();
        Refs { head: None, refs }
    }

    #[test]
    fn the_list_of_a_remote_is_read() {
        let printed = b"ref: refs/heads/trunk\tHEAD\naa\tHEAD\naa\trefs/heads/trunk\nbb\trefs/tags/v1\naa\trefs/tags/v1^{}\ncc\trefs/x/refs/heads/y\n";
        let read = Refs::from_ls_remote(printed);
        assert_eq!(read.head, Some("trunk".into()));
        let names: Vec<_> = read.refs.iter().map(|(name, id)| (name.as_slice(), id.as_str())).collect();
        assert_eq!(names, [(&b"refs/heads/trunk"[..], "aa"), (b"refs/tags/v1", "bb")]);
    }

    #[test]
    fn a_branch_that_becomes_a_directory_collides() {
        let (flat, deep) = (refs(&["refs/heads/a"]), refs(&["refs/heads/a/b/c", "refs/heads/ab"]));
        assert!(flat.collides_with(&deep) && deep.collides_with(&flat));
        assert!(!flat.collides_with(&refs(&["refs/heads/a", "refs/heads/ab"])));
    }

    #[test]
    fn a_password_is_never_quoted() {
        let url = "https://robot:s3cret@git.example/x.git";
        assert_eq!(
            without_password(&format!("fetching {url} failed"), url),
            "fetching https://robot:…@git.example/x.git failed"
        );
        assert_eq!(without_password("as it was", "git@host:x.git"), "as it was");
    }

    #[test]
    fn the_hook_survives_a_quote_in_a_path() {
        let receiving = Receiving { max_input: 1, factoryd: "/opt/it's/factoryd".into(), socket: "/run/s".into() };
        let text = String::from_utf8(hook_text(&"factory".into(), &receiving)).expect("text");
        assert!(text.contains("exec '/opt/it'\\''s/factoryd' hook post-receive\n"), "{text}");
        assert!(text.contains("[ -x '/opt/it'\\''s/factoryd' ] || exit 0\n"), "{text}");
    }
}
