//! A guest's serial console: kept in the build's files, and read for the host key that a guest prints at its first boot.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::pipeline::HostKey;
use crate::engine::ports::{LineSink, PortError};
use crate::machine::lines::LastLines;
use crate::machine::ssh::{Trust, Verdict};

/// The most that is kept of a console, in bytes.
const MOST: u64 = 16 * 1024 * 1024;
/// What cloud-init, and our own base images, print before and after the public host keys.
const BEGIN: &str = "-----BEGIN SSH HOST KEY KEYS-----";
const END: &str = "-----END SSH HOST KEY KEYS-----";

/// Takes the console's lines.
#[derive(Debug)]
pub(in crate::machine) struct Console {
    file: Mutex<(File, u64)>,
    last: LastLines,
    keys: Mutex<Keys>,
}

/// The host keys that were printed.
#[derive(Debug, Default)]
struct Keys {
    inside: bool,
    complete: bool,
    keys: Vec<String>,
}

impl Console {
    /// A console that is kept in a new file.
    pub(in crate::machine) fn create(path: &Path) -> Result<Arc<Self>, PortError> {
        let file = File::create(path).map_err(|error| {
            PortError::unavailable(format!("the console's log {} can't be written: {error}", path.display()))
        })?;
        Ok(Arc::new(Self { file: Mutex::new((file, 0)), last: LastLines::new(8), keys: Mutex::default() }))
    }

    /// The last lines, as an indented paragraph; says so if there were none.
    pub(in crate::machine) fn last(&self) -> String {
        match self.last.text() {
            text if text.is_empty() => "the console stayed empty".to_owned(),
            text => format!("the console's last lines:\n  {}", text.replace('\n', "\n  ")),
        }
    }

    /// The host keys that were printed, once they are complete.
    fn host_keys(&self) -> Option<Vec<String>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.complete.then(|| keys.keys.clone())
    }
}

impl LineSink for Console {
    fn line(&self, line: &[u8]) {
        self.last.line(line);
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).read(line);
        let mut kept = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.1 >= MOST {
            return;
        }
        kept.1 += line.len() as u64 + 1;
        let cut = if kept.1 >= MOST { "\n[the console's log ends here: 16 MiB]\n" } else { "\n" };
        // A console that can't be kept does not stop the machine.
        if let Err(error) = kept.0.write_all(line).and_then(|()| kept.0.write_all(cut.as_bytes())) {
            tracing::warn!(%error, "the console's log can't be written");
            kept.1 = MOST;
        }
    }
}

impl Keys {
    fn read(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if line.contains(BEGIN) {
            (self.inside, self.complete) = (true, false);
            self.keys.clear();
            return;
        }
        if !self.inside {
            return;
        }
        // cloud-init prints a key file that lacks its last newline and the end mark in one line.
        let (text, end) = line.split_once(END).map_or((&*line, false), |(text, _)| (text, true));
        let mut words = text.split_whitespace();
        if let (Some(kind), Some(key), true) = (words.next(), words.next(), self.keys.len() < 16) {
            self.keys.push(format!("{kind} {key}"));
        }
        (self.inside, self.complete) = (!end, end);
    }
}

/// Judges the key that a guest shows: it is the one we gave it, or the one it printed on its console.
#[derive(Debug)]
pub(in crate::machine) struct GuestKey {
    /// The public key that the machine was given.
    pub(in crate::machine) given: String,
    /// Where it may print its own.
    pub(in crate::machine) console: Arc<Console>,
    /// What the pipeline says.
    pub(in crate::machine) policy: HostKey,
}

impl Trust for GuestKey {
    fn judge(&self, seen: &str) -> Verdict {
        let printed = self.console.host_keys();
        let known = seen == self.given || printed.as_ref().is_some_and(|keys| keys.iter().any(|key| key == seen));
        if known || self.policy == HostKey::FirstSeen {
            return Verdict::Trusted;
        }
        match printed {
            Some(_) => {
                Verdict::Refused(format!("the guest shows the host key {seen}, but printed another one on its console"))
            }
            None => Verdict::Unknown(format!(
                "the guest shows the host key {seen}, which was neither given to it nor printed on its console; an image without \
                 systemd 252 and without cloud-init needs `boot.host_key: first-seen`"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_known_by_the_key_it_was_given_or_has_printed() {
        let directory = tempfile::tempdir().expect("a directory");
        let console = Console::create(&directory.path().join("console.log")).expect("a file");
        let judge = |policy| {
            let key = GuestKey { given: "ssh-ed25519 GIVEN".to_owned(), console: console.clone(), policy };
            move |seen: &str| key.judge(seen)
        };
        let verified = judge(HostKey::Verified);
        assert_eq!(verified("ssh-ed25519 GIVEN"), Verdict::Trusted);
        assert!(matches!(verified("ssh-ed25519 OWN"), Verdict::Unknown(why) if why.contains("first-seen")));
        let joined = format!("ssh-rsa LAST{END}");
        for line in ["boot", BEGIN, "ssh-ed25519 OWN root@vm\r", "\x1b[0m", &joined, "ssh-ed25519 EVIL"] {
            console.line(line.as_bytes());
        }
        assert_eq!(verified("ssh-ed25519 OWN"), Verdict::Trusted);
        assert_eq!(verified("ssh-rsa LAST"), Verdict::Trusted);
        assert!(matches!(verified("ssh-ed25519 EVIL"), Verdict::Refused(_)));
        assert_eq!(judge(HostKey::FirstSeen)("ssh-ed25519 EVIL"), Verdict::Trusted);
    }

    #[test]
    fn a_console_without_end_is_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("console.log");
        let console = Console::create(&path).expect("a file");
        let line = vec![b'x'; 1024 * 1024];
        (0..40).for_each(|_| console.line(&line));
        let size = std::fs::metadata(path).expect("a file").len();
        assert!(size < MOST + 1024 * 1024 + 100, "{size} bytes were kept");
    }
}
