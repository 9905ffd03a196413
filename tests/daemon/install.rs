//! What `make` does with a factory: installs it, and asks it for builds.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::factory::{Author, BINARY, Factory, Said, WAITING, program, said};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn make<const N: usize>(arguments: [&str; N]) -> Command {
    let mut make = program("make");
    // No toolchain runs here: what it would build is there.
    make.args(["--no-print-directory", "-C", HERE, "CARGO=true"]).args(arguments);
    make
}

/// The files below a directory, with their modes.
fn files(directory: &Path) -> Vec<String> {
    let mut find = program("find");
    let listed = said(find.arg(directory).args(["-type", "f", "-printf", "%m /%P\\n"])).ended(0);
    let mut files: Vec<String> = listed.lines().map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn make_install_lays_everything_where_packages_have_it() {
    let place = tempfile::tempdir().expect("a directory");
    let target = place.path().join("target");
    std::fs::create_dir_all(target.join("release")).expect("a directory");
    std::fs::copy(BINARY, target.join("release/factoryd")).expect("copied");
    let into = place.path().join("root");
    let destination = format!("DESTDIR={}", into.display());
    let install =
        |prefix: &str| said(make(["install", &destination, prefix]).env("CARGO_TARGET_DIR", &target)).ended(0);
    install("PREFIX=/usr");
    let wanted = [
        "644 /etc/factoryd/config.toml",
        "644 /usr/lib/systemd/system/factoryd.service",
        "644 /usr/lib/sysusers.d/factoryd.conf",
        "644 /usr/lib/tmpfiles.d/factoryd.conf",
        "644 /usr/share/doc/factoryd/config.example.toml",
        "755 /usr/bin/factoryd",
    ];
    assert_eq!(files(&into), wanted);
    // What was configured stays when another version is installed.
    std::fs::write(into.join("etc/factoryd/config.toml"), "# mine\n").expect("written");
    install("PREFIX=/usr");
    assert_eq!(std::fs::read_to_string(into.join("etc/factoryd/config.toml")).expect("there"), "# mine\n");

    install("PREFIX=/opt/factory");
    let unit = into.join("opt/factory/lib/systemd/system/factoryd.service");
    let unit = std::fs::read_to_string(unit).expect("the unit");
    assert!(
        unit.contains("\nExecStart=/opt/factory/bin/factoryd serve --config /etc/factoryd/config.toml\n"),
        "{unit}"
    );
    assert!(said(program("systemd-sysusers").arg(format!("--root={}", into.display())).arg("--dry-run")).code == 0);
}

/// A target of make against a daemon.
fn asked<const N: usize>(factory: &Factory, arguments: [&str; N]) -> Said {
    let target: PathBuf = Path::new(BINARY).ancestors().nth(2).expect("target/debug/factoryd").to_owned();
    said(make(arguments).env("FACTORYD_SOCKET", factory.socket()).env("CARGO_TARGET_DIR", target))
}

#[test]
fn make_build_images_and_build_os_ask_the_daemon_and_wait() {
    let factory = Factory::new();
    let author = Author::new(&["bundle-one"]);
    author.write("os/debian/build-vars.yml", "bundle:\n  name: debian\n  img_base: nothing\n");
    let pipeline = super::factory::PIPELINE.replace("images/bundle-*", "os/*");
    author.write("pipelines/os.yml", pipeline);
    author.push(&factory, "Begin");
    factory.ended(1);
    factory.ended(2);
    for (arguments, bundle, number) in [
        (["build-images", "bundle=bundle-one"], "images/bundle-one", 3),
        (["build-os", "os=os/debian/"], "os/debian", 4),
    ] {
        let said = asked(&factory, arguments);
        // make's own word for what failed; the build has failed, since its base image is nothing.
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains(&format!("Build #{number} failed at boot")), "{said:?}");
        assert_eq!(factory.json(["show", &number.to_string()])["bundle"], bundle);
    }
    let said = asked(&factory, ["build-images", "bundle="]);
    assert!(said.code == 2 && said.err.contains("which one? make build-images bundle=NAME"), "{said:?}");
    let said = asked(&factory, ["build-os", "os=plan9"]);
    assert!(said.code == 2 && said.err.contains("os/plan9"), "{said:?}");
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    let follow = format!("{BINARY} logs -f 1");
    let mut script = program("script");
    script.args(["--quiet", "--return", "--command", &follow, "/dev/null"]).stdout(Stdio::piped());
    script.env("FACTORYD_SOCKET", factory.socket()).env("TERM", "xterm-256color");
    let mut script = script.spawn().expect("it runs; scripts/setup installs it");
    let mut terminal = script.stdout.take().expect("piped");
    let mut shown = Vec::new();
    // Something moves there while nothing happens.
    while !shown.windows(2).any(|bytes| bytes == b"\x1b[") {
        let mut some = [0; 256];
        let read = terminal.read(&mut some).expect("read");
        assert!(read > 0, "{:?}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&some[..read]);
    }
    factory.tell(["cancel", "1"]);
    terminal.read_to_end(&mut shown).expect("read");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert_eq!(script.wait().expect("it ended").code(), Some(1), "{shown}");
    assert!(shown.contains("Build #1 ended cancelled"), "{shown:?}");
    let in_a_pipe = factory.run(["logs", "-f", "1"]);
    assert!(!format!("{}{}", in_a_pipe.out, in_a_pipe.err).contains('\u{1b}'), "{in_a_pipe:?}");
}
