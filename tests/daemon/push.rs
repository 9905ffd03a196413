//! What a push shows, and that it is planned whoever hears of it.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::process::Signal;

use super::factory::{Author, Factory, WAITING};

/// What a push may take when the daemon does not answer: the two seconds that are promised, and what git and the start of
/// two unoptimised programs take beside other tests on two cores.
const PROMISED: Duration = Duration::from_millis(2000 + 2000);

#[test]
fn a_push_shows_the_plan_and_the_numbers_without_colour() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-one", "bundle-two"]);
    author.commit("Begin");
    let mut push = author.git_command(["-c", "color.ui=always", "-c", "color.remote=never", "push"]);
    // Whatever the terminal of the one who pushes can do: the hook writes to git.
    push.args([factory.repository().to_str().expect("UTF-8"), "HEAD:main"]).env("TERM", "xterm-256color");
    let said = super::factory::said(&mut push);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.err.contains('\u{1b}'), "{:?}", said.err);
    let head = author.git(["rev-parse", "--short=7", "HEAD"]);
    assert_eq!(
        said.remote().replace(head.trim(), "COMMIT"),
        "COMMIT Begin

  bundle             boot prov test snap rend    about
  images/bundle-one   +         +    +    +
  images/bundle-two   +         +    +    +
= hit  ~ changed  + miss

  #1 images/bundle-one   waits for disk space: FREE GiB free, 921600.0 GiB must be (factoryd gc, or limits.disk_free)
  #2 images/bundle-two   waits for disk space: FREE GiB free, 921600.0 GiB must be (factoryd gc, or limits.disk_free)
  Follow: factoryd logs -f 1
"
        .replace("FREE", &free(&said.remote()))
    );
}

/// How much the push said to be free.
fn free(shown: &str) -> String {
    let (_, rest) = shown.split_once("disk space: ").expect("a reason");
    rest.split_once(' ').expect("a size").0.to_owned()
}

#[test]
fn one_change_is_named_and_the_rest_is_counted() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-one", "bundle-two"]);
    author.push(&factory, "Begin");
    author.write("README.md", "nothing reads this\n");
    let shown = author.push(&factory, "Describe it");
    assert!(shown.contains("Describe it"), "{shown}");
    assert!(!shown.contains("#3"), "what waits already is not queued again: {shown}");

    // A branch that is not tracked is shown, and nothing of it is built.
    author.git(["checkout", "--quiet", "-b", "trial"]);
    author.bundle("bundle-three", "nothing");
    author.commit("Try something");
    let shown = author.try_push(&factory, "trial").remote();
    assert!(shown.contains("trial is not tracked: it is planned and shown, and built by hand."), "{shown}");
    assert!(shown.contains("images/bundle-three   +         +    +    +") && !shown.contains('#'), "{shown}");
    assert_eq!(factory.json(["builds"])["builds"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_push_succeeds_while_the_daemon_is_away_and_is_planned_when_it_starts() {
    let mut factory = Factory::with("", WAITING);
    assert!(factory.end(Signal::TERM).success());
    let author = Author::new(&["bundle-one"]);
    author.commit("Begin");
    let said = author.try_push(&factory, "main");
    assert_eq!((said.code, said.remote()), (0, "factoryd is away; it plans this push when it is back.\n".to_owned()));
    assert!(said.took < PROMISED, "{said:?}");
    factory.start();
    assert_eq!(factory.build_of("bundle-one"), 1);
}

#[test]
fn a_push_does_not_wait_for_a_daemon_that_hangs() {
    let mut factory = Factory::with("", WAITING);
    assert!(factory.end(Signal::TERM).success());
    // Connections are taken by the kernel, and nobody ever answers.
    let listener = UnixListener::bind(factory.socket()).expect("a socket");
    let author = Author::new(&["bundle-one"]);
    author.commit("Begin");
    let said = author.try_push(&factory, "main");
    assert_eq!((said.code, said.remote()), (0, "planning goes on; see factoryd status\n".to_owned()));
    assert!(said.took < PROMISED, "{said:?}");
    // The hook alone, as git runs it: within the two seconds, whatever else this machine does in two of three times.
    let waited = || {
        let mut hook = factory.command(["hook", "post-receive"]);
        let said = super::factory::said(hook.current_dir(factory.repository()));
        assert_eq!(said.code, 0, "{said:?}");
        said.took
    };
    let quickest = std::iter::repeat_with(waited).take(3).find(|took| *took < Duration::from_secs(2));
    assert!(quickest.is_some_and(|took| took > Duration::from_secs(1)), "{quickest:?}");
    drop(listener);
}

#[test]
fn pushes_at_once_are_all_planned_and_every_number_is_given_once() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    let others: Vec<Author> = ["left", "right", "third"]
        .into_iter()
        .map(|name| {
            let other = Author::new(&["bundle-one"]);
            other.bundle(&format!("bundle-{name}"), "nothing");
            other.commit(name);
            other
        })
        .collect();
    let pushed: Vec<_> = std::thread::scope(|scope| {
        let at_once: Vec<_> = others.iter().map(|other| scope.spawn(|| other.try_push(&factory, "main"))).collect();
        at_once.into_iter().map(|push| push.join().expect("it ended")).collect()
    });
    // git takes one of them at a time, and refuses who is overtaken; one is in any case.
    assert!(pushed.iter().any(|said| said.code == 0), "{pushed:?}");
    let tip = author.git(["ls-remote", factory.repository().to_str().expect("UTF-8"), "refs/heads/main"]);
    let tip = tip.split_whitespace().next().expect("a tip").to_owned();
    let builds = factory.until("the newest tip is what waits", |factory| {
        let builds = factory.json(["builds"])["builds"].as_array().expect("builds").clone();
        let waiting: Vec<_> = builds.iter().filter(|build| build["state"] == "queued").collect();
        let newest = waiting.iter().any(|build| build["commit"] == *tip);
        (newest && waiting.len() == 2).then_some(builds)
    });
    let mut numbers: Vec<u64> = builds.iter().filter_map(|build| build["build"].as_u64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    factory.is_well();
}

#[test]
fn a_push_without_its_hook_is_found_by_the_watch() {
    let receiving = "[[repository]]\nname = \"factory\"\nreceive = true\npoll = \"1h\"\n";
    let factory = Factory::with("", &format!("{receiving}{WAITING}"));
    std::fs::remove_file(factory.repository().join("hooks/post-receive")).expect("there was a hook");
    let author = Author::new(&["bundle-one"]);
    assert_eq!(author.push(&factory, "Begin"), "");
    assert_eq!(factory.build_of("bundle-one"), 1);
    let deliveries = factory.until("a delivery", |factory| {
        let all = factory.json(["deliveries"])["deliveries"].clone();
        (!all[0]["became"].is_null()).then_some(all)
    });
    assert_eq!((&deliveries[0]["kind"], &deliveries[0]["became"]), (&"watch".into(), &"queued #1".into()));
}

#[test]
fn a_remote_is_polled_and_its_loss_is_said() {
    let author = Author::new(&["bundle-one"]);
    author.commit("Begin");
    let url = format!("file://{}", author.path().display());
    let mirror = format!("[[repository]]\nname = \"factory\"\nurl = \"{url}\"\npoll = \"1s\"\n{WAITING}");
    let factory = Factory::with("", &mirror);
    assert_eq!(factory.build_of("bundle-one"), 1);
    author.bundle("bundle-two", "nothing");
    author.commit("Add another");
    assert_eq!(factory.build_of("bundle-two"), 2);

    // It vanishes: said where people look, and everything else goes on.
    let hidden = author.path().with_extension("hidden");
    std::fs::rename(author.path(), &hidden).expect("moved");
    let problem = factory.until("status says it", |factory| {
        let status = factory.json(["status"]);
        status["repositories"][0]["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.starts_with(&format!("fetching {url} failed")), "{problem}");
    assert!(problem.ends_with("what was fetched before is kept"), "{problem}");
    assert!(factory.tell(["status"]).contains("repository factory: fetching"), "status says it");
    assert_eq!(factory.json(["plan"])["bundles"].as_array().map(Vec::len), Some(2));
    std::fs::rename(&hidden, author.path()).expect("moved back");
    factory.until("it is there again", |factory| {
        factory.json(["status"])["repositories"][0]["problem"].is_null().then_some(())
    });
}

#[test]
fn without_inotify_polling_finds_what_is_pushed() {
    let receiving = "[[repository]]\nname = \"factory\"\nreceive = true\npoll = \"1s\"\n";
    let mut factory = Factory::stopped("", &format!("{receiving}{WAITING}"));
    factory.start_in(&["--user", "--map-root-user"], "echo 0 > /proc/sys/user/max_inotify_instances; exec \"$@\"");
    assert!(factory.log().contains("references can't be watched"), "{}", factory.log());
    std::fs::remove_file(factory.repository().join("hooks/post-receive")).expect("there was a hook");
    let author = Author::new(&["bundle-one"]);
    assert_eq!(author.push(&factory, "Begin"), "");
    assert_eq!(factory.build_of("bundle-one"), 1);
}
