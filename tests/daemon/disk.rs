//! A disk that is full: said, survived, and gone on from when there is room again.

use super::factory::{Author, Factory, program, said};

/// Starts the daemon with its state on a small file system of its own.
fn on_a_small_disk(megabytes: u32) -> Factory {
    let mut factory = Factory::stopped("", "[limits]\ndisk_free = \"24MiB\"\n");
    std::fs::create_dir_all(factory.state()).expect("a directory");
    let script = format!("mount -t tmpfs -o size={megabytes}m none {}; exec \"$@\"", factory.state().display());
    factory.start_in(&["--mount"], &script);
    factory
}

#[test]
fn a_full_disk_stops_no_answers_and_room_lets_it_go_on() {
    let factory = on_a_small_disk(64);
    // Its file system is seen through the daemon's own view of the world.
    let inside = format!("/proc/{}/root{}", factory.pid(), factory.state().display());
    let author = Author::new(&["bundle-one"]);
    let push = |message: &str| {
        author.commit(message);
        let mut push = program("nsenter");
        push.args(["--mount", "--target", &factory.pid().to_string(), "git", "-C"]).arg(author.path());
        said(push.args(["push", "--force"]).arg(factory.repository()).arg("HEAD:main"))
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
    let cancelled = factory.run(["cancel", "2"]);
    assert!(cancelled.code == 0 || cancelled.err.contains("no room on the disk"), "{cancelled:?}");
    assert!([0, 1].contains(&factory.run(["status"]).code), "status answers");

    std::fs::remove_file(&more).expect("removed");
    std::fs::remove_file(&ballast).expect("removed");
    factory.run(["gc"]);
    // It builds again without being told.
    let said = push("Once more");
    assert_eq!(said.code, 0, "{said:?}");
    factory.until("the newest build has ended", |factory| {
        let newest = factory.json(["builds"])["builds"][0].clone();
        (newest["state"] == "finished" && newest["build"].as_u64() >= Some(3)).then_some(())
    });
    factory.is_well();
}
