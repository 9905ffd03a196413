//! Start, stop, and two daemons that want the same.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::factory::{Author, Factory, WAITING};

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let factory = Factory::new();
    // The same state directory.
    let refused = factory.refused();
    assert!(
        refused.contains("is in use by another factoryd") && refused.contains(&factory.state().display().to_string()),
        "{refused}"
    );
    // Another state directory, the same socket.
    let other = Factory::stopped("", "");
    let config = std::fs::read_to_string(other.config()).expect("it is there");
    let shared = config.replace(&other.socket().display().to_string(), &factory.socket().display().to_string());
    std::fs::write(other.config(), shared).expect("written");
    let refused = other.refused();
    let wanted = format!("can't listen at {}: another daemon answers there", factory.socket().display());
    assert!(refused.contains(&wanted), "{refused}");
    factory.is_well();
}

#[test]
fn as_an_ordinary_user_in_a_closed_system_it_serves_and_its_sandbox_works() {
    let mut factory = Factory::stopped("", WAITING);
    factory.start_as_service();
    let status = factory.tell(["status"]);
    assert!(status.contains("sandbox works (bubblewrap "), "{status}");
    let author = Author::new(&["bundle-one"]);
    assert!(author.push(&factory, "Begin").contains("#1 images/bundle-one"), "it is planned");
    factory.end(Signal::KILL);
    factory.start_as_service();
    assert_eq!(factory.build_of("bundle-one"), 1);
    factory.is_well();
}

#[test]
fn a_daemon_that_is_told_to_stop_stops_and_starts_again() {
    let mut factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    for signal in [Signal::TERM, Signal::INT] {
        let began = Instant::now();
        let status = factory.end(signal);
        assert!(status.success() && began.elapsed() < Duration::from_secs(5), "{status} after {:?}", began.elapsed());
        assert!(!factory.socket().exists(), "the socket is gone with the daemon");
        factory.start();
    }
    assert_eq!(factory.json(["status"])["queue"][0]["build"], 1);
    factory.is_well();
}

#[test]
fn somebody_who_follows_is_told_when_the_daemon_stops() {
    let mut factory = Factory::with("", WAITING);
    Author::new(&["bundle-one"]).push(&factory, "Begin");
    let follower = factory.command(["logs", "-f", "1"]).stderr(std::process::Stdio::piped()).spawn().expect("started");
    // Whether it has connected yet or not, it must end, and say that the daemon is not there.
    factory.end(Signal::TERM);
    let output = follower.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn a_socket_that_a_dead_daemon_left_is_replaced() {
    let mut factory = Factory::stopped("", "");
    drop(UnixListener::bind(factory.socket()).expect("a socket that nobody listens at"));
    factory.start();
    factory.is_well();
    factory.end(Signal::KILL);
    assert!(factory.socket().exists(), "kill -9 leaves it");
    factory.start();
    factory.is_well();
}

#[test]
fn what_is_no_socket_is_not_removed() {
    let factory = Factory::stopped("", "");
    std::fs::write(factory.socket(), "somebody's file").expect("written");
    let refused = factory.refused();
    assert!(refused.contains("is there and is no socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(factory.socket()).expect("kept"), "somebody's file");
}

#[test]
fn a_configuration_with_faults_does_not_start_and_names_them_all() {
    let factory = Factory::stopped("", "[limits]\nbuild = 2\ndisk_free = \"lots\"\n[retention]\nkepe = 3\n");
    let refused = factory.refused();
    let config = factory.config();
    for wanted in ["limits.build", "did you mean", "disk_free", "kepe", &format!("{}:", config.display())] {
        assert!(refused.contains(wanted), "{wanted} is not in {refused}");
    }
    std::fs::remove_file(&config).expect("removed");
    let refused = factory.refused();
    assert!(refused.contains(&config.display().to_string()), "{refused}");
}
