//! Steps whose way to the guest and to the host is theirs alone: Ansible inside the guest, secrets, logs without end.

use std::process::Command;
use std::time::{Duration, Instant};

use factoryd::domain::id::BuildNo;
use factoryd::engine::BuildRequest;

use crate::factory::Factory;
use crate::world::Trouble;

/// A playbook that leaves a file where it runs, named by an extra variable.
const PLAYBOOK: &str = "- hosts: all
  gather_facts: false
  tasks:
    - copy: { src: motd, dest: '{{ to }}' }
";

#[test]
fn a_playbook_runs_inside_the_guest_and_is_taken_away_again() {
    let mut factory = Factory::new();
    let step =
        r#"- ansible-local: { playbook: ansible/site.yml, extra_arguments: ['-e', '{"to": "/tmp/it''s here"}'] }"#;
    factory.edit("pipelines/images.yml", "- ansible: ansible/site.yml", step);
    factory.deliver(&[("images/web/ansible/site.yml", PLAYBOOK), ("images/web/ansible/motd", "Welcome.\n")]);
    assert!(factory.ended(1).starts_with("passed"), "{}", factory.ended(1));
    assert_eq!(factory.world.count("ansible "), 0, "nothing runs on the host");
    let script = factory.world.state().script.clone();
    let at = script.iter().position(|line| line == "upload /tmp/factoryd-step-2").expect("the playbook's directory");
    let command = script[at + 1].strip_prefix("run ").expect("then it runs");

    // What the guest's shell is given is what Ansible understands, whatever the argument holds.
    let directory = tempfile::tempdir().expect("a directory");
    let inside = directory.path().join("step");
    std::fs::create_dir(&inside).expect("a directory");
    std::fs::write(inside.join("site.yml"), PLAYBOOK).expect("written");
    std::fs::write(inside.join("motd"), "Welcome.\n").expect("written");
    let here = command
        .replace("/tmp/factoryd-step-2", &inside.display().to_string())
        .replace("/tmp/it", &format!("{}/it", directory.path().display()));
    let output = Command::new("sh")
        .args(["-c", &here])
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", directory.path())
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{here}\n{output:?}");
    let left = std::fs::read_dir(directory.path()).expect("a directory").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != ".ansible").collect();
    assert_eq!(left, ["it's here"], "the file is there, and the playbook is gone");
}

#[test]
fn what_fails_in_a_playbook_in_the_guest_fails_the_step() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "- ansible: ansible/site.yml", "- ansible-local: ansible/site.yml");
    factory.world.next("run cd /tmp/factoryd-step-2 && ansible-playbook -i local, -c local", Trouble::PowerOff);
    factory.deliver(&[]);
    let failure = factory.failure(1);
    assert_eq!((failure.step.as_deref(), failure.message.as_str()), (Some("ansible-local"), "the connection was lost"));
}

#[test]
fn a_branch_that_does_not_publish_is_given_no_secret() {
    let mut factory = Factory::new();
    factory.edit("pipelines/images.yml", "- pytest: tests", "- pytest: tests\n          secrets: [token]");
    factory.deliver(&[]);
    assert!(factory.ended(1).starts_with("passed"), "{}", factory.ended(1));
    assert!(!factory.artifact(1, "packer.latest.log").contains("hush"), "no secret is logged");

    factory.clone.switch("topic");
    factory.edit("images/web/tests/test_web.py", "assert True", "assert 1");
    factory.clone.commit();
    factory.push();
    let number = factory
        .request(BuildRequest {
            bundle: "images/web".to_owned(),
            revision: Some("topic".to_owned()),
            ..BuildRequest::default()
        })
        .expect("it is built by hand");
    factory.settle();
    let failure = factory.failure(number);
    assert_eq!(
        failure.message,
        "the step is not given the secret token: a branch that does not publish is given no secret and no network"
    );
    assert_eq!(factory.world.count("pytest"), 1, "only main's tests ran");
}

#[test]
fn two_hundred_thousand_lines_are_archived_and_read_again() {
    let mut factory = Factory::new();
    let began = Instant::now();
    factory.deliver(&[("images/web/scripts/install.sh", "#!/bin/sh\nflood 200000\n")]);
    assert!(factory.ended(1).starts_with("passed"), "{}", factory.ended(1));
    let log = factory.artifact(1, "packer.latest.log");
    assert_eq!(log.lines().filter(|line| line.ends_with(" of a flood")).count(), 200_000);
    // Minutes, if reading a page reads all pages before it.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn a_report_with_entities_gives_no_results_and_says_why() {
    let mut factory = Factory::new();
    let bomb = "def test_port():\n    assert True\n# report:\n<!DOCTYPE s [<!ENTITY a SYSTEM \"/etc/shadow\">]>\n<testsuite name=\"&a;\"><testcase name=\"t\"/></testsuite>\n";
    factory.deliver(&[("images/web/tests/test_web.py", bomb)]);
    let log = factory.artifact(1, "packer.latest.log");
    let why =
        "test: the report 2-pytest.xml can't be read: the report has a document type, which JUnit reports do not have";
    assert!(log.lines().any(|line| line == why), "{log}");
    assert!(!log.contains("root:"), "{log}");
    let cases = factory.run(|engine| async move { engine.store().test_cases(BuildNo(1)).await }).expect("read");
    assert!(cases.is_empty(), "{cases:?}");
}
