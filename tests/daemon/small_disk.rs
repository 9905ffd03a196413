//! A factory whose state lies on a small file system of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::factory::{Author, Factory, Said, program, said};

/// The factory, and the file system, which outlives its daemons.
pub(crate) struct SmallDisk {
    pub(crate) factory: Factory,
    holder: Child,
}

impl SmallDisk {
    /// A factory that is configured and not started, with so many megabytes for its state.
    pub(crate) fn new(megabytes: u32, tables: &str) -> Self {
        let factory = Factory::stopped("", tables);
        std::fs::create_dir_all(factory.state()).expect("a directory");
        let script = format!("mount -t tmpfs -o size={megabytes}m none {}; echo; exec cat", factory.state().display());
        let mut holder = program("unshare");
        holder.args(["--mount", "sh", "-euc", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it is mounted");
        assert_eq!(line, "\n", "the file system can't be mounted: run the tests as root");
        Self { factory, holder }
    }

    pub(crate) fn start(&mut self) {
        self.factory.start_beside(self.holder.id());
    }

    /// A file of the state, as it is seen from outside.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.factory.state().strip_prefix("/").expect("absolute")).join(name)
    }

    /// Writes so many megabytes.
    pub(crate) fn write(&self, name: &str, megabytes: usize) -> PathBuf {
        std::fs::write(self.file(name), vec![1; megabytes << 20]).expect("it fits");
        self.file(name)
    }

    /// Writes until nothing more fits.
    pub(crate) fn fill(&self, name: &str) -> PathBuf {
        let mut file = std::fs::File::create(self.file(name)).expect("a file");
        let full = std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("it is full");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        self.file(name)
    }

    /// Pushes where the file system is seen.
    pub(crate) fn push(&self, author: &Author, message: &str) -> Said {
        author.commit(message);
        let mut push = program("nsenter");
        push.args(["--mount", "--target", &self.holder.id().to_string(), "git", "-C"]).arg(author.path());
        said(push.args(["push", "--force"]).arg(self.factory.repository()).arg("HEAD:main"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It has ended already where the test was interrupted.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Removes a file.
pub(crate) fn remove(file: &Path) {
    std::fs::remove_file(file).expect("removed");
}
