//! Watches the refs of all repositories and says which one to look at again.
//!
//! Only a hint: events are lost where a directory is made and filled at once, and where the kernel's queue overflows. So
//! whoever gets a hint reads all refs and compares, and a slow poll goes on beside this. It never reads a repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::domain::id::RepoName;

/// How long events gather before they become one hint: a push writes several files.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Why refs are not watched.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WatchError {
    /// The kernel gives no more watches or watchers to this user.
    #[error(
        "refs are not watched: the limit of inotify is reached (raise fs.inotify.max_user_watches and \
         fs.inotify.max_user_instances); pushes are still found by hook and poll"
    )]
    Limit,
    /// Anything else.
    #[error("refs of {} are not watched: {why}; pushes are still found by hook and poll", path.display())]
    Failed {
        /// What was to be watched.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// One watcher over some repositories.
pub struct RefWatch {
    watcher: Arc<Mutex<RecommendedWatcher>>,
    seen: Arc<Seen>,
    repositories: Arc<[(RepoName, PathBuf)]>,
    fault: WatchFault,
}

/// What is wrong with the watch now, for `status`.
#[derive(Clone, Debug, Default)]
pub struct WatchFault(Arc<Mutex<BTreeMap<RepoName, WatchError>>>);

impl WatchFault {
    /// The fault of the first repository that has one, or `None` while the watch works.
    pub fn get(&self) -> Option<WatchError> {
        lock(&self.0).values().next().cloned()
    }

    fn has(&self, repository: &RepoName) -> bool {
        lock(&self.0).contains_key(repository)
    }

    fn set(&self, repository: &RepoName, result: Result<(), WatchError>) {
        match result {
            Ok(()) => drop(lock(&self.0).remove(repository)),
            Err(error) => {
                tracing::warn!(%repository, %error, "watching refs");
                lock(&self.0).insert(repository.clone(), error);
            }
        }
    }
}

impl RefWatch {
    /// Begins to watch: events count from here on. Blocks for as long as it takes to walk the refs' directories.
    ///
    /// # Errors
    /// When the kernel gives no watcher, or a repository can't be watched.
    pub fn start(repositories: Vec<(RepoName, PathBuf)>) -> Result<Self, WatchError> {
        let repositories: Arc<[(RepoName, PathBuf)]> = repositories.into();
        let seen = Arc::new(Seen::default());
        let handler = {
            let (seen, repositories) = (Arc::clone(&seen), Arc::clone(&repositories));
            move |event: notify::Result<Event>| seen.take(&repositories, event)
        };
        let watcher = notify::recommended_watcher(handler).map_err(|error| fault(Path::new("/"), &error))?;
        let watch = Self { watcher: Arc::new(Mutex::new(watcher)), seen, repositories, fault: WatchFault::default() };
        for (_, path) in watch.repositories.iter() {
            watch_repository(&watch.watcher, path)?;
        }
        Ok(watch)
    }

    /// What goes wrong later on.
    pub fn fault(&self) -> WatchFault {
        self.fault.clone()
    }

    /// Sends a hint for each repository that something happened in, until cancelled or nobody listens.
    pub async fn run(self, hints: mpsc::Sender<RepoName>, cancel: CancellationToken) {
        let forward = async {
            loop {
                self.seen.wake.notified().await;
                tokio::time::sleep(DEBOUNCE).await;
                let names = std::mem::take(&mut *lock(&self.seen.names));
                self.watch_again(&names).await;
                for name in names {
                    if hints.send(name).await.is_err() {
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = forward => {}
        }
    }

    /// Watches directories that are new, before the hint is given: what happened in them before is found by the look
    /// that the hint leads to, and what happens after by its own event. What could not be watched is tried again.
    async fn watch_again(&self, names: &BTreeSet<RepoName>) {
        let (watcher, fault) = (Arc::clone(&self.watcher), self.fault.clone());
        let due = |name: &RepoName| names.contains(name) || fault.has(name);
        let due: Vec<_> = self.repositories.iter().filter(|(name, _)| due(name)).cloned().collect();
        blocking::run(move || due.iter().for_each(|(name, path)| fault.set(name, watch_repository(&watcher, path))))
            .await;
    }
}

impl std::fmt::Debug for RefWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefWatch").field("repositories", &self.repositories).finish_non_exhaustive()
    }
}

/// Repositories that something happened in since the last hint. A set, so that it stays small however much happens.
#[derive(Default)]
struct Seen {
    names: Mutex<BTreeSet<RepoName>>,
    wake: Notify,
}

impl Seen {
    /// Takes an event, on the watcher's own thread.
    fn take(&self, repositories: &[(RepoName, PathBuf)], event: notify::Result<Event>) {
        let touched: Vec<RepoName> = match &event {
            // Our own look at the refs opens files: that must not wake us again.
            Ok(Event { kind: EventKind::Access(_), .. }) => return,
            Ok(event) if !event.need_rescan() => {
                let inside = |path: &Path| event.paths.iter().any(|touched| touched.starts_with(path));
                repositories.iter().filter(|(_, path)| inside(path)).map(|(name, _)| name.clone()).collect()
            }
            // Something was lost, nobody knows what: look at all.
            Ok(_) | Err(_) => repositories.iter().map(|(name, _)| name.clone()).collect(),
        };
        if !touched.is_empty() {
            lock(&self.names).extend(touched);
            self.wake.notify_one();
        }
    }
}

/// Watches what a push or fetch writes: `refs/` with all below it, and the repository's directory for `packed-refs` and
/// `HEAD`. Watching again what is watched changes nothing.
fn watch_repository(watcher: &Mutex<RecommendedWatcher>, path: &Path) -> Result<(), WatchError> {
    let mut watcher = lock(watcher);
    watcher.watch(path, RecursiveMode::NonRecursive).map_err(|error| fault(path, &error))?;
    watcher.watch(&path.join("refs"), RecursiveMode::Recursive).map_err(|error| fault(path, &error))
}

fn fault(path: &Path, error: &notify::Error) -> WatchError {
    match &error.kind {
        ErrorKind::MaxFilesWatch => WatchError::Limit,
        // EMFILE: no more watchers for this user.
        ErrorKind::Io(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            WatchError::Limit
        }
        ErrorKind::PathNotFound => WatchError::Failed { path: path.to_owned(), why: "it is not there".to_owned() },
        _ => WatchError::Failed { path: path.to_owned(), why: error.to_string() },
    }
}

/// The data behind these locks is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, CreateKind, Flag};

    use super::*;

    fn taken(event: notify::Result<Event>) -> Vec<String> {
        let repositories = [("a".into(), "/repos/a.git".into()), ("b".into(), "/repos/b.git".into())];
        let seen = Seen::default();
        seen.take(&repositories, event);
        lock(&seen.names).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_event_names_its_repository() {
        let event = Event::new(EventKind::Create(CreateKind::File)).add_path("/repos/b.git/refs/heads/main".into());
        assert_eq!(taken(Ok(event)), ["b"]);
    }

    #[test]
    fn reading_refs_is_no_event() {
        let event = Event::new(EventKind::Access(AccessKind::Any)).add_path("/repos/a.git/packed-refs".into());
        assert!(taken(Ok(event)).is_empty());
    }

    #[test]
    fn a_lost_event_counts_for_all() {
        assert_eq!(taken(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan))), ["a", "b"]);
        assert_eq!(taken(Err(notify::Error::generic("the queue broke"))), ["a", "b"]);
    }
}
