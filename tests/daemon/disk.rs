//! A disk that is full: said, survived, and gone on from when there is room again.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use super::factory::{Author, Factory, Said, program, said};
use super::images::bundle;

/// Starts the daemon with its state on a small file system of its own.
fn on_a_small_disk(megabytes: u32, tables: &str) -> Factory {
    let mut factory = Factory::stopped("", &format!("[limits]\ndisk_free = \"24MiB\"\n{tables}"));
    std::fs::create_dir_all(factory.state()).expect("a directory");
    let script = format!("mount -t tmpfs -o size={megabytes}m none {}; exec \"$@\"", factory.state().display());
    factory.start_in(&["--mount"], &script);
    factory
}

/// Pushes where the daemon's file system is seen.
fn push(author: &Author, factory: &Factory) -> Said {
    let mut push = program("nsenter");
    push.args(["--mount", "--target", &factory.pid().to_string(), "git", "-C"]).arg(author.path());
    said(push.args(["push", "--force"]).arg(factory.repository()).arg("HEAD:main"))
}

#[test]
fn a_full_disk_stops_no_answers_and_room_lets_it_go_on() {
    let factory = on_a_small_disk(64, "");
    // Its file system is seen through the daemon's own view of the world.
    let inside = format!("/proc/{}/root{}", factory.pid(), factory.state().display());
    let author = Author::new(&["bundle-one"]);
    let push = |message: &str| {
        author.commit(message);
        push(&author, &factory)
    };
    let said = push("Begin");
    assert_eq!(said.code, 0, "{said:?}");
    factory.failed(1);

    // Less is free than must be: builds wait, and say for what.
    let ballast = format!("{inside}/ballast");
    std::fs::write(&ballast, vec![1; 52 << 20]).expect("it fits");
    author.bundle("bundle-one", "something");
    let said = push("Change it");
    assert!(said.remote().contains("waits for disk space: 0.0 GiB free"), "{said:?}");
    assert_eq!(factory.json(["status"])["queue"][0]["build"], 2);

    // Nothing at all is free: a push fails by git's own word, and the daemon still answers.
    let more = format!("{inside}/more");
    let mut file = std::fs::File::create(&more).expect("a file");
    let full = std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("it is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    author.write("images/bundle-one/output/large.j2", vec![b'x'; 1 << 16]);
    let said = push("Add to it");
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!(factory.run(["builds"]).code, 0);
    // Whether a word still fits into the database's files is its own affair; what it says is what is.
    let cancelled = factory.run(["cancel", "2"]);
    let after = factory.json(["show", "2"]);
    if cancelled.code == 0 {
        assert_eq!(after["outcome"], "cancelled", "{after}");
    } else {
        assert!(cancelled.err.contains("no room on the disk"), "{cancelled:?}");
        assert_eq!(after["state"], "queued", "{after}");
    }
    assert!(!factory.json(["status"])["version"].is_null(), "status answers");

    std::fs::remove_file(&more).expect("removed");
    std::fs::remove_file(&ballast).expect("removed");
    factory.run(["gc"]);
    // What waited is built without being told.
    assert!(["failed", "cancelled"].contains(&factory.ended(2)["outcome"].as_str().expect("an outcome")));
    author.bundle("bundle-one", "another");
    let said = push("Once more");
    assert_eq!(said.code, 0, "{said:?}");
    factory.until("the newest build has ended", |factory| {
        let newest = factory.json(["builds"])["builds"][0].clone();
        (newest["state"] == "finished" && newest["build"].as_u64() >= Some(3)).then_some(())
    });
    factory.is_well();
}

#[test]
fn what_runs_is_cancelled_on_a_full_disk_too() {
    // A server that takes a request and says nothing; it sees how long somebody waits for it.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let factory = on_a_small_disk(64, "[download]\nallow_private = [\"127.0.0.0/8\"]\n");
    let inside = format!("/proc/{}/root{}", factory.pid(), factory.state().display());
    let author = Author::new(&[]);
    let zeros = "0".repeat(64);
    bundle(&author, "silent", &format!("{{ url: \"http://127.0.0.1:{port}/x\", sha256: {zeros}, format: raw }}"));
    author.commit("Wait for nothing");
    let said = push(&author, &factory);
    assert_eq!(said.code, 0, "{said:?}");
    let (mut waiting, _) = listener.accept().expect("it asks");
    let mut file = std::fs::File::create(format!("{inside}/ballast")).expect("a file");
    let full = std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("it is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let cancelled = factory.run(["cancel", "1"]);
    // Whatever could be written down, nobody waits for that server any more.
    waiting.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
    let mut rest = Vec::new();
    waiting.read_to_end(&mut rest).expect("it hangs up");
    drop(file);
    std::fs::remove_file(format!("{inside}/ballast")).expect("removed");
    // What could not be written down is asked for again.
    if cancelled.code != 0 {
        assert!(cancelled.err.contains("no room on the disk"), "{cancelled:?}");
        factory.tell(["cancel", "1"]);
    }
    assert_eq!(factory.ended(1)["outcome"], "cancelled");
    factory.is_well();
}
