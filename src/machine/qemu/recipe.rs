//! Base images from Debian's packages, without loop devices, mounts or root.
//!
//! ```text
//!   recipe + rootfs ──► files.tar ─┐
//!   host's apt sources ──► mmdebstrap ──► root.tar ──► tar, mke2fs -d ──► disk.raw ◄── partition table, boot loader
//!                                                      (under fakeroot, unless root)     └──► qemu-img ──► base
//! ```
//!
//! A recipe is data: nothing in it is run, on the host or in the image. As root mmdebstrap uses chroot; as any other user
//! `fakechroot`, which needs no subordinate ids and no new privileges.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::disks::{keep, remove_directory, sum_of, trouble, write_whole};
use super::{Qemu, rootfs};
use crate::blocking;
use crate::domain::id::Digest;
use crate::domain::pipeline::{Recipe, RecipeContent, RecipeFile};
use crate::engine::ports::{Base, Lines, PortError, Wait};
use crate::machine::lines::Nowhere;
use crate::machine::process::{Program, Tag};

/// Raised when the way of making changes what is made.
const SCHEME: &str = "1";
/// The virtual size of the disk in bytes; it grows with the disk it is booted from.
const SIZE: u64 = 4 << 30;
/// What making one takes at its height in bytes: the root as an archive and unpacked, then the disk of it in two formats.
const ROOM: u64 = 2 << 30;
/// Where the partition begins: sector 2048, one MiB, as everywhere. The boot loader lies before it.
const START: u64 = 1 << 20;
/// Where GRUB's package has the first sector.
const BOOT_SECTOR: &str = "/usr/lib/grub/i386-pc/boot.img";
/// Unpacks the root and makes the file system of it; both must see the same, perhaps pretended, owners.
const MAKE_FILE_SYSTEM: &str = r#"set -eu
mkdir root
tar -C root -x -p --numeric-owner --xattrs --xattrs-include=security.capability --exclude='./dev/*' -f root.tar
rm root.tar
exec mke2fs -q -t ext4 -L root -E "offset=$1,lazy_itable_init=1,lazy_journal_init=1" -d root disk.raw "$2k"
"#;

impl Qemu {
    pub(super) async fn base_of_recipe(&self, recipe: &Recipe, lines: &Lines, wait: &Wait) -> Result<Base, PortError> {
        check(recipe)?;
        let files = files_archive(recipe)
            .map_err(|error| PortError::failed(format!("the recipe's files can't be packed: {error}")))?;
        let index = self.disks.bases().join(format!("recipe-{}.json", digest(recipe, &files).hex()));
        if let Some(base) = self.cooked(&index)? {
            return Ok(base);
        }
        let _turn = self.making.turn(format!("recipe {}", index.display()), wait).await?;
        if let Some(base) = self.cooked(&index)? {
            return Ok(base);
        }
        self.room.require(ROOM, &format!("a base image of {}", recipe.suite))?;
        let work = self.disks.work().join(format!("recipe-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&work).map_err(|error| trouble("made", &work, &error))?;
        let made = self.cook(recipe, &files, &work, lines, wait).await;
        let cleaned = {
            let work = work.clone();
            blocking::run(move || remove_directory(&work)).await
        };
        let sha256 = made?;
        cleaned?;
        blocking::run(move || write_whole(&index, format!("{}\n", sha256.hex()).as_bytes())).await?;
        self.made(sha256)?.ok_or_else(|| PortError::unavailable("the base image that was just made has vanished"))
    }

    /// What was made of a recipe earlier, if it is there.
    fn cooked(&self, index: &Path) -> Result<Option<Base>, PortError> {
        let known = std::fs::read_to_string(index).ok().and_then(|sum| sum.trim().parse().ok());
        Ok(known.map(|sum| self.made(sum)).transpose()?.flatten())
    }

    async fn cook(
        &self,
        recipe: &Recipe,
        files: &[u8],
        work: &Path,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Digest, PortError> {
        let tag = Tag::shared(&self.settings.state_dir);
        let quiet: Lines = Arc::new(Nowhere);
        std::fs::write(work.join("files.tar"), files).map_err(|error| trouble("written", work, &error))?;
        std::fs::write(work.join("early.cfg"), rootfs::GRUB_EARLY).map_err(|error| trouble("written", work, &error))?;
        let loader = Program::new("grub-mkimage", &tag).directory(work);
        let loader = loader.args(["-O", "i386-pc", "-o", "core.img", "-c", "early.cfg", "-p", "/boot/grub"]);
        loader.args(rootfs::GRUB_MODULES).check(&quiet, wait).await?;
        lines.line(format!("making a base image of {} from Debian's packages", recipe.suite).as_bytes());
        let sources = sources(&recipe.suite, &tag, wait).await?;
        mmdebstrap(recipe, &sources, work, &tag)?.check(lines, wait).await?;
        let raw = work.join("disk.raw");
        make_raw(&raw)?;
        let blocks = (SIZE - START) / 1024;
        let shell =
            if is_root() { Program::new("sh", &tag) } else { Program::new("fakeroot", &tag).args(["--", "sh"]) };
        let shell = shell.directory(work).args(["-c", MAKE_FILE_SYSTEM, "sh"]);
        shell.arg(START.to_string()).arg(blocks.to_string()).check(lines, wait).await?;
        write_loader(&raw, &work.join("core.img"))?;
        let disk = work.join("disk.qcow2");
        self.convert_raw(&raw, &disk, wait).await?;
        let disks = self.disks.clone();
        blocking::run(move || {
            let (sha256, _) = sum_of(&disk)?;
            keep(&disk, &disks.base_file(&sha256))?;
            Ok(sha256)
        })
        .await
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What in a recipe could be taken for something else than a name or a path.
fn check(recipe: &Recipe) -> Result<(), PortError> {
    let word = |text: &str, more: &str| {
        let mut letters = text.chars();
        letters.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
    };
    let refuse = |what: String| Err(PortError::failed(what).help("look at `boot.image.mmdebstrap`"));
    if !word(&recipe.suite, "-") {
        return refuse(format!("{:?} is not the name of a suite, such as bookworm", recipe.suite));
    }
    if let Some(package) = recipe.packages.iter().find(|name| !word(name, "+-.")) {
        return refuse(format!("{package:?} is not the name of a package"));
    }
    for file in &recipe.files {
        let inside = relative(&file.to).ok_or(());
        let link = |other: &RecipeFile| matches!(other.content, RecipeContent::Link { .. });
        let below =
            |other: &RecipeFile| file.to.strip_prefix(other.to.as_str()).is_some_and(|rest| rest.starts_with('/'));
        if inside.is_err() {
            return refuse(format!("{:?} is not an absolute path without `.` and `..`", file.to));
        }
        if let Some(other) = recipe.files.iter().find(|other| link(other) && below(other)) {
            return refuse(format!("{} lies below {}, which is a link", file.to, other.to));
        }
    }
    Ok(())
}

/// A path below the root, without the leading `/`.
fn relative(path: &str) -> Option<&str> {
    let path = path.strip_prefix('/')?;
    let good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    path.split('/').all(good).then_some(path)
}

/// Our files, then the recipe's, so that a recipe may replace one of ours.
fn files_archive(recipe: &Recipe) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        // A time that does not change, so that the same recipe is the same archive.
        header.set_mtime(1_600_000_000);
        header
    };
    let mut file = |path: &str, mode: u32, text: &str| {
        archive.append_data(&mut header(tar::EntryType::Regular, mode, text.len() as u64), path, text.as_bytes())
    };
    for (path, mode, text) in rootfs::FILES {
        file(path, mode, text)?;
    }
    for entry in &recipe.files {
        if let (Some(path), RecipeContent::Text { text, mode }) = (relative(&entry.to), &entry.content) {
            file(path, *mode & 0o7777, text)?;
        }
    }
    let ours =
        rootfs::LINKS.into_iter().filter(|(path, _)| !recipe.files.iter().any(|file| relative(&file.to) == Some(path)));
    let theirs = recipe.files.iter().filter_map(|file| match &file.content {
        RecipeContent::Link { target } => Some((relative(&file.to)?, target.as_str())),
        RecipeContent::Text { .. } => None,
    });
    for (path, target) in ours.chain(theirs) {
        archive.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?;
    }
    archive.into_inner()
}

/// What the image depends on, as far as it is known before Debian is asked.
fn digest(recipe: &Recipe, files: &[u8]) -> Digest {
    let mut packages = packages(recipe);
    packages.sort_unstable();
    let text = format!(
        "{SCHEME}\n{}\n{}\n{}\n{}\n{SIZE}\n",
        recipe.suite,
        packages.join(","),
        rootfs::CLEAN,
        rootfs::GRUB_EARLY
    );
    Digest::of(&[text.as_bytes(), files].concat())
}

fn packages(recipe: &Recipe) -> Vec<&str> {
    let mut all: Vec<&str> = rootfs::PACKAGES.into_iter().collect();
    all.extend(recipe.packages.iter().map(String::as_str).filter(|name| !rootfs::PACKAGES.contains(name)));
    all
}

fn mmdebstrap(recipe: &Recipe, sources: &str, work: &Path, tag: &Tag) -> Result<Program, PortError> {
    let list = work.join("sources.list");
    std::fs::write(&list, sources).map_err(|error| trouble("written", &list, &error))?;
    let mode = if is_root() { "--mode=root" } else { "--mode=fakechroot" };
    let mut program = Program::new("mmdebstrap", tag).directory(work).env("TMPDIR", work).args([
        mode,
        "--variant=minbase",
        "--format=tar",
    ]);
    program = program.args([
        "--dpkgopt=force-unsafe-io",
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=Acquire::Retries \"3\"",
    ]);
    for kind in ["doc", "man", "info", "locale"] {
        program = program.arg(format!("--dpkgopt=path-exclude=/usr/share/{kind}/*"));
    }
    program = program.arg("--dpkgopt=path-include=/usr/share/doc/*/copyright");
    program = program.arg(format!("--include={}", packages(recipe).join(",")));
    program = program.arg(format!("--customize-hook=chroot \"$1\" sh -c '{}'", rootfs::CLEAN));
    program = program.arg("--customize-hook=tar-in files.tar /");
    program = program.arg(recipe.suite.as_str()).arg("root.tar");
    // Without sources of this suite on the host, mmdebstrap knows Debian's own.
    Ok(if sources.is_empty() { program } else { program.arg(list) })
}

/// The host's own apt sources of a suite, with its updates and security fixes, as one-line entries; may be empty.
async fn sources(suite: &str, tag: &Tag, wait: &Wait) -> Result<String, PortError> {
    let format = "$(RELEASE) $(REPO_URI) $(COMPONENT) $(ORIGIN)";
    let program = Program::new("apt-get", tag).args(["indextargets", "--format", format, "Created-By: Packages"]);
    let listed = program.read(1024 * 1024, wait).await?;
    Ok(entries(suite, &String::from_utf8_lossy(&listed)))
}

fn entries(suite: &str, listed: &str) -> String {
    let suites = [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security")];
    let mut entries: Vec<String> = Vec::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [release, uri, component, origin] = words[..] else { continue };
        // Sources on removable media or in the host's files are not there while the image is made.
        if origin == "Debian" && uri.starts_with("http") && suites.iter().any(|suite| suite == release) {
            let entry =
                format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {release} {component}\n");
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
    }
    let has_suite = entries.iter().any(|entry| entry.split_whitespace().nth(3) == Some(suite));
    if has_suite { entries.concat() } else { String::new() }
}

fn make_raw(raw: &Path) -> Result<(), PortError> {
    File::create(raw).and_then(|file| file.set_len(SIZE)).map_err(|error| trouble("written", raw, &error))
}

/// Writes the first sector (GRUB's code, one bootable Linux partition) and the rest of the boot loader behind it.
fn write_loader(raw: &Path, core: &Path) -> Result<(), PortError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            trouble("read", path, &error).help("run `scripts/setup run`, or install the package grub-pc-bin")
        })
    };
    let (boot, core) = (read(Path::new(BOOT_SECTOR))?, read(core)?);
    let core_end = 512 + core.len() as u64;
    if boot.len() < 440 || core_end > START {
        return Err(PortError::failed("GRUB's boot loader does not fit before the partition")
            .help("another version of the package grub-pc-bin may do"));
    }
    let file = OpenOptions::new().write(true).open(raw).map_err(|error| trouble("opened", raw, &error))?;
    let written = file.write_all_at(&first_sector(&boot[..440]), 0).and_then(|()| file.write_all_at(&core, 512));
    written.map_err(|error| trouble("written", raw, &error))
}

fn first_sector(code: &[u8]) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(code);
    let (start, length) = (sectors(START), sectors(SIZE - START));
    // Bootable, no address in cylinders, Linux, first sector, number of sectors.
    let entry =
        [&[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff][..], &start.to_le_bytes(), &length.to_le_bytes()].concat();
    sector[446..462].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / 512).expect("both constants are below two TiB")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn recipe(packages: &[&str], files: &[(&str, RecipeContent)]) -> Recipe {
        Recipe {
            suite: "bookworm".to_owned(),
            packages: packages.iter().map(|name| (*name).to_owned()).collect(),
            files: files
                .iter()
                .map(|(to, content)| RecipeFile { to: (*to).to_owned(), content: content.clone() })
                .collect(),
        }
    }

    fn text(text: &str) -> RecipeContent {
        RecipeContent::Text { text: text.to_owned(), mode: 0o644 }
    }

    fn link(target: &str) -> RecipeContent {
        RecipeContent::Link { target: target.to_owned() }
    }

    #[test]
    fn what_is_no_name_and_no_path_is_refused() {
        let message = |recipe: &Recipe| check(recipe).expect_err("refused").message;
        assert!(check(&recipe(&["nginx-light", "libstdc++6"], &[("/etc/motd", text("hello"))])).is_ok());
        assert!(message(&recipe(&["--yes"], &[])).contains("not the name of a package"));
        assert!(message(&recipe(&["?narrow(.*)"], &[])).contains("not the name of a package"));
        assert!(
            message(&Recipe { suite: "http://x".to_owned(), ..recipe(&[], &[]) }).contains("not the name of a suite")
        );
        for path in ["etc/motd", "/", "/etc/../x", "/etc//x"] {
            assert!(message(&recipe(&[], &[(path, text(""))])).contains("not an absolute path"), "{path} was taken");
        }
        let through = recipe(&[], &[("/etc/x", link("/")), ("/etc/x/shadow", text("root"))]);
        assert_eq!(message(&through), "/etc/x/shadow lies below /etc/x, which is a link");
    }

    #[test]
    fn a_recipe_is_known_by_its_content_and_may_replace_our_files() {
        let key = |recipe: &Recipe| digest(recipe, &files_archive(recipe).expect("packed"));
        let plain = recipe(&["nginx", "curl"], &[]);
        assert_eq!(key(&plain), key(&recipe(&["curl", "nginx", "sudo"], &[])));
        assert_ne!(key(&plain), key(&recipe(&["curl"], &[])));
        assert_ne!(key(&plain), key(&recipe(&["nginx", "curl"], &[("/etc/motd", text("hello"))])));
        let own = recipe(&[], &[("/etc/hostname", text("own\n")), ("/etc/resolv.conf", link("/run/own"))]);
        let archive = files_archive(&own).expect("packed");
        let mut archive = tar::Archive::new(&archive[..]);
        let entries = archive.entries().expect("an archive").map(|entry| entry.expect("an entry"));
        let links: Vec<_> = entries
            .filter(|entry| entry.path().expect("a path").ends_with("resolv.conf"))
            .map(|entry| entry.link_name().expect("a link").expect("a target").into_owned())
            .collect();
        assert_eq!(links, [PathBuf::from("/run/own")]);
    }

    #[test]
    fn the_hosts_sources_of_the_suite_are_taken_and_no_others() {
        let listed = "bookworm http://mirror.example/debian/ main Debian\n\
            bookworm-updates http://mirror.example/debian/ main Debian\n\
            bookworm-backports http://mirror.example/debian/ main Debian Backports\n\
            bookworm-security http://mirror.example/debian-security/ main Debian\n\
            bookworm https://other.example/tools/ main Other\n";
        let entries = entries("bookworm", listed);
        assert_eq!(entries.lines().count(), 3);
        assert!(entries.lines().all(|line| line.starts_with("deb [signed-by=")));
        assert_eq!(super::entries("trixie", listed), "");
    }

    #[test]
    fn the_command_line_runs_nothing_of_the_recipe() {
        let work = tempfile::tempdir().expect("a directory");
        let program =
            mmdebstrap(&recipe(&["nginx"], &[]), "", work.path(), &Tag::shared("/nowhere")).expect("a command");
        let text = format!("{program:?}");
        assert_eq!(text.matches("--customize-hook").count(), 2);
        assert!(text.contains(",nginx\""));
    }

    #[test]
    fn the_first_sector_names_one_bootable_partition() {
        let sector = first_sector(&[0x90; 440]);
        assert_eq!(sector[446..454], [0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
        assert_eq!(sector[454..458], 2048_u32.to_le_bytes());
        assert_eq!(sector[458..462], ((4_u32 << 21) - 2048).to_le_bytes());
    }
}
