//! A disk that is full: said, survived, and gone on from when there is room again.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;

use super::factory::Author;
use super::images::bundle;
use super::small_disk::{SmallDisk, remove};

const LIMITS: &str = "[limits]\ndisk_free = \"24MiB\"\n";

#[test]
fn a_full_disk_stops_no_answers_and_room_lets_it_go_on() {
    let mut disk = SmallDisk::new(64, LIMITS);
    disk.start();
    let factory = &disk.factory;
    let author = Author::new(&["bundle-one"]);
    disk.push(&author, "Begin").ended(0);
    factory.failed(1);

    // Less is free than must be: builds wait, and say for what.
    let ballast = disk.write("ballast", 46);
    author.bundle("bundle-one", "something");
    let said = disk.push(&author, "Change it");
    assert!(said.remote().contains("waits for disk space: "), "{said:?}");
    assert!(said.remote().contains(" MiB free, 24.0 MiB must be (factoryd gc, or limits.disk_free)"), "{said:?}");
    assert_eq!(factory.json(["status"])["queue"][0]["build"], 2);

    // Nothing at all is free: a push fails by git's own word, and the daemon still answers and notes what it is told.
    let more = disk.fill("more");
    author.write("images/bundle-one/output/large.j2", vec![b'x'; 1 << 16]);
    let said = disk.push(&author, "Add to it");
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!(factory.run(["builds"]).code, 0);
    factory.tell(["cancel", "2"]);
    assert_eq!(factory.json(["show", "2"])["outcome"], "cancelled");
    assert!(!factory.json(["status"])["version"].is_null(), "status answers");

    remove(&more);
    remove(&ballast);
    factory.run(["gc"]);
    author.bundle("bundle-one", "another");
    disk.push(&author, "Once more").ended(0);
    factory.until("the newest build has ended", |factory| {
        let newest = factory.json(["builds"])["builds"][0].clone();
        (newest["state"] == "finished" && newest["build"].as_u64() >= Some(3)).then_some(())
    });
    factory.is_well();
}

#[test]
fn what_is_cancelled_on_a_full_disk_stays_cancelled_when_the_daemon_dies() {
    // A server that takes a request and says nothing; it sees how long somebody waits for it.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut disk = SmallDisk::new(64, &format!("{LIMITS}[download]\nallow_private = [\"127.0.0.0/8\"]\n"));
    disk.start();
    let author = Author::new(&[]);
    let zeros = "0".repeat(64);
    bundle(&author, "silent", &format!("{{ url: \"http://127.0.0.1:{port}/x\", sha256: {zeros}, format: raw }}"));
    disk.push(&author, "Wait for nothing").ended(0);
    let (mut waiting, _) = listener.accept().expect("it asks");
    let ballast = disk.fill("ballast");
    disk.factory.tell(["cancel", "1"]);
    waiting.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
    let mut rest = Vec::new();
    waiting.read_to_end(&mut rest).expect("it hangs up");
    disk.factory.end(Signal::KILL);
    remove(&ballast);
    disk.start();
    let build = disk.factory.ended(1);
    assert_eq!((&build["outcome"], &build["attempt"]), (&"cancelled".into(), &1.into()), "{build}");
    disk.factory.is_well();
}
