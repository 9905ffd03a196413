//! `tests/pytesting_os` on the fake cloud, with openstacksdk as it is installed: it passes, and whatever happens to it, what
//! it made is gone and what is somebody else's is untouched.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::fake::faults::{Effect, Fault, Gate};
use crate::fake::{Cloud, Service, Settings};

fn cloud() -> Cloud {
    Cloud::start(Settings { honest_links: true, page: 100, ..Settings::default() })
}

/// The suite, as somebody starts it who has a cloud. It asks for no resolver, which the fake's guests have not.
fn suite(cloud: &Cloud, more: &[&str]) -> Command {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytesting_os");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-B", "-m", "pytest", "-k", "not resolver"]).args(more).current_dir(directory);
    command.envs(cloud.environment());
    let port = cloud.ssh_port().to_string();
    for (name, value) in [
        ("NOSE_IMAGE_ID", cloud.base_image().as_str()),
        ("NOSE_FLAVOR", "m1.tiny"),
        ("NOSE_NET_ID", &cloud.network("private")),
        ("NOSE_SG_ID", "default"),
        ("PYTESTING_FLOATING_NETWORK", "provider"),
        ("PYTESTING_OTHER_FLAVOR", "21"),
        ("PYTESTING_USER", "root"),
        ("PYTESTING_SSH_PORT", &port),
        ("PYTESTING_PACKAGE", "none"),
        ("PYTESTING_PATIENCE", "60"),
        ("PYTESTING_POLL", "0.05"),
    ] {
        command.env(name, value);
    }
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Nothing of the suite is there, and everything of others as it was.
fn assert_clean(cloud: &Cloud, strangers: &BTreeMap<String, serde_json::Value>) {
    assert_eq!(cloud.ours(), [""; 0]);
    assert_eq!(cloud.strangers(), *strangers);
    let touched: Vec<String> = cloud.violations().into_iter().filter(|said| said.contains("touches")).collect();
    assert_eq!(touched, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_a_cloud_that_works_and_leaves_nothing() {
    let cloud = cloud();
    let strangers = cloud.strangers();
    let ran = suite(&cloud, &[]).output().expect("python3 is there");
    let said = text(&ran);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("18 passed, 1 skipped, 1 deselected"), "{said}");
    assert_clean(&cloud, &strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_hold_fails_and_what_was_made_is_removed() {
    let cloud = cloud();
    let strangers = cloud.strangers();
    // A reboot that the cloud refuses, a volume that is made although the answer says otherwise.
    cloud.fault(Fault::on(
        Service::Nova,
        "POST",
        "/servers/*/action",
        Effect::Refuse { status: 409, retry_after: None },
    ));
    cloud.fault(Fault::on(Service::Cinder, "POST", "/volumes", Effect::DoneButRefuse { status: 500 }));
    let ran = suite(&cloud, &["basics/test_outside.py", "-k", "volume or SOFT"]).output().expect("python3 is there");
    let said = text(&ran);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("2 failed"), "{said}");
    assert_clean(&cloud, &strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_removes_what_it_made() {
    let cloud = cloud();
    let strangers = cloud.strangers();
    let gate = Gate::new();
    cloud.fault(Fault::on(Service::Nova, "POST", "/servers/*/action", Effect::Hold(gate.clone())));
    let mut command = suite(&cloud, &["basics/test_outside.py", "-k", "SOFT"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3 is there");
    gate.arrived().await;
    assert!(cloud.ours().len() >= 4, "{:?}", cloud.ours());
    end(&child, rustix::process::Signal::TERM);
    gate.open();
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic").expect("it ends");
    assert_eq!(ended.status.code(), Some(2), "{}", text(&ended));
    assert_clean(&cloud, &strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_left_is_removed_when_its_time_is_over() {
    let cloud = cloud();
    let strangers = cloud.strangers();
    let gate = Gate::new();
    cloud.fault(Fault::on(Service::Nova, "POST", "/servers/*/action", Effect::Hold(gate.clone())));
    let mut command = suite(&cloud, &["basics/test_outside.py", "-k", "SOFT"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3 is there");
    gate.arrived().await;
    end(&child, rustix::process::Signal::KILL);
    child.wait().expect("it ended");
    gate.open();
    let left = cloud.ours();
    assert!(left.len() >= 4, "{left:?}");

    // Another run may be under way, so one that comes soon touches nothing of it.
    let look = &["basics/test_outside.py", "-k", "console_shows"];
    let ran = suite(&cloud, look).output().expect("python3 is there");
    assert!(ran.status.success(), "{}", text(&ran));
    assert_eq!(cloud.ours(), left);
    let later = "import marks, time; now = time.time; time.time = lambda: now() + 5 * 3600; import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))";
    let mut command = suite(&cloud, &[]);
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut again = Command::new("/usr/bin/python3");
    again
        .args(["-B", "-c", later])
        .args(&arguments[3..])
        .args(look)
        .current_dir(command.get_current_dir().expect("given"));
    again.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command = again;
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("python3 is there");
    assert!(ran.status.success(), "{}", text(&ran));
    cloud.advance(Duration::from_secs(60));
    assert_clean(&cloud, &strangers);
}

fn end(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, signal).expect("it is ours");
}
