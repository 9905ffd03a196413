//! What every command says, as text and as JSON, and how it ends.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::factory::{Author, Factory, WAITING, program, said, text};

/// The sorted keys of an object.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn has(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(key).is_some(), "{key} is not in {value}");
    }
}

const BUILD: [&str; 10] =
    ["build", "repository", "bundle", "branch", "commit", "state", "outcome", "reason", "image", "stages"];

#[test]
fn nothing_is_there_yet() {
    let factory = Factory::new();
    let status = factory.tell(["status"]);
    assert!(status.starts_with("Nothing to build yet: no bundle was pushed.\n"), "{status}");
    assert!(status.contains("sandbox works (bubblewrap"), "{status}");
    assert!(status.contains(&format!("push to: git push {} HEAD:main", factory.repository().display())), "{status}");
    assert_eq!(factory.tell(["builds"]), "No builds yet.\nPush a bundle, or: factoryd build BUNDLE\n");
    assert_eq!(factory.tell(["images"]), "No images yet.\n");
    assert_eq!(factory.tell(["deliveries"]), "Nothing arrived yet.\n");
    assert_eq!(factory.tell(["gc"]), "0 bytes freed: 0 disks and 0 files removed.\n");
    assert_eq!(factory.json(["builds"]), serde_json::json!({"builds": [], "next": null}));
    assert_eq!(factory.json(["images"]), serde_json::json!({"images": []}));
    assert_eq!(factory.json(["deliveries"]), serde_json::json!({"deliveries": []}));
    assert_eq!(keys(&factory.json(["gc"])), ["blobs", "deprecated", "disks", "freed"]);
    assert_eq!(keys(&factory.json(["verify"])), ["checked", "problems"]);
    assert_eq!(factory.run(["plan"]).ended(1), "error: nothing was pushed to factory yet\n");
    let said = factory.run(["build", "bundle-one"]).ended(5);
    assert!(said.starts_with("error: nothing was pushed to factory yet\n"), "{said}");
}

#[test]
fn what_a_failed_build_had_otherwise_is_the_reason_of_the_next() {
    let factory = Factory::new();
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    factory.failed(1);
    author.bundle("bundle-one", "elsewhere");
    author.push(&factory, "Take another base");
    factory.failed(2);
    let boot = factory.json(["show", "2"])["stages"][0].clone();
    assert_eq!(
        (text(&boot["plan"]), text(&boot["reason"])),
        ("changed".into(), "bundle.img_base nothing → elsewhere".into())
    );
    let why = factory.tell(["why", "2"]);
    assert!(why.contains("  boot       ~ changed  bundle.img_base nothing → elsewhere\n"), "{why}");
}

#[test]
fn a_failed_build_is_told_from_every_side() {
    let factory = Factory::new();
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    let (message, help) = factory.failed(1);
    assert_eq!(message, "no image, bundle or alias is called `nothing`");
    assert!(help.contains("[base] of the configuration"), "{help}");

    let status = factory.tell(["status"]);
    let told = "0 of 1 bundle is fresh. 1 failed.

✗ failed    images/bundle-one  [!...]   #1    AGO
            boot
            no image, bundle or alias is called `nothing`
            next: needs a push, or factoryd retry 1
";
    let ago = status.split("#1    ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    assert!(ago == "now" || ago.ends_with(" ago"), "{status}");
    assert!(status.starts_with(&told.replace("AGO", ago)), "{status}");
    let shown = factory.tell(["show", "#1"]);
    assert!(shown.starts_with("✗ Build #1 failed at boot: no image, bundle or alias is called `nothing`\n"), "{shown}");
    assert!(
        shown.contains("  boot       + miss ") && shown.contains("  test, snapshot, render  not reached\n"),
        "{shown}"
    );
    assert!(shown.ends_with("  next: factoryd logs 1, a push, or factoryd retry 1\n"), "{shown}");
    let why = factory.tell(["why", "1"]);
    assert!(why.starts_with("#1 ran because nothing was built from images/bundle-one before.\n"), "{why}");
    let builds = factory.tell(["builds"]);
    assert!(builds.starts_with("✗ failed    #1     images/bundle-one [!...] "), "{builds}");
    // But for its age, which may be another by now.
    let but_its_age = |line: &str| line.rsplit_once("  ").map(|(line, _)| line.to_owned());
    assert_eq!(but_its_age(&factory.tell(["builds", "bundle-one"])), but_its_age(&builds));
    let followed = factory.run(["logs", "-f", "1"]).ended(1);
    assert!(followed.contains("✗ Build #1 failed at boot: no image"), "{followed}");
    factory.run(["logs", "1"]).ended(0);
    let deliveries = factory.tell(["deliveries"]);
    assert!(deliveries.contains("push  factory by ") && deliveries.contains("queued #1\n"), "{deliveries}");
    let artifacts = factory.tell(["artifacts", "1"]);
    assert!(artifacts.contains("2 artifacts.\nFetch: factoryd artifacts 1 get packer.latest.log\n"), "{artifacts}");
    assert!(artifacts.contains("  images/target/bundle-one/packer.bundle-one-"), "{artifacts}");
    let file = factory.path("log");
    factory.tell(["artifacts", "1", "get", "packer.latest.log", "-o", file.to_str().expect("UTF-8")]);
    let log = std::fs::read_to_string(&file).expect("it was fetched");
    assert_eq!(log, "boot: failed: no image, bundle or alias is called `nothing`\n");

    // Known failures are not repeated by themselves; somebody may ask.
    let plan = factory.tell(["plan"]);
    assert!(plan.starts_with("Nothing would be built: 1 bundle at ") && plan.contains("boot failed in #1"), "{plan}");
    assert!(factory.tell(["retry", "1"]).starts_with("#2 images/bundle-one is queued.\n"), "retry");
    assert_eq!(factory.failed(2).0, message);
    let waited = factory.run(["build", "bundle-one", "--wait", "--reason", "once more"]).ended(1);
    assert!(waited.contains("#3 images/bundle-one is queued.") && waited.contains("✗ Build #3 failed"), "{waited}");
    assert_eq!(factory.json(["show", "3"])["reason"], "once more");
    assert_eq!(factory.run(["cancel", "3"]).ended(1), "error: #3 has ended already\n");
    factory.is_well();
}

#[test]
fn json_has_the_keys_that_scripts_depend_on() {
    let factory = Factory::new();
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    factory.failed(1);
    let build = factory.json(["show", "1"]);
    has(&build, &BUILD);
    has(&build, &["freshness", "warnings"]);
    has(&build["stages"][0], &["stage", "state", "seconds", "reason"]);
    assert_eq!(keys(&build["error"]), ["help", "line", "message", "stage", "step"]);
    assert_eq!(
        (&build["state"], &build["outcome"], &build["image"]),
        (&"finished".into(), &"failed".into(), &Value::Null)
    );
    let builds = factory.json(["builds"]);
    has(&builds["builds"][0], &BUILD);
    assert_eq!(keys(&factory.json(["artifacts", "1"])["artifacts"][0]), ["path", "sha256", "size"]);
    let plan = factory.json(["plan"]);
    assert_eq!(keys(&plan), ["about", "base", "bundles", "commit", "faults", "removed"]);
    has(&plan["bundles"][0], &["bundle", "action", "canary", "reason", "stages"]);
    has(&plan["bundles"][0]["stages"][0], &["stage", "state", "fingerprint", "reason"]);
    assert_eq!(plan["bundles"][0]["action"], "stale");
    let status = factory.json(["status"]);
    has(&status, &["summary", "healthy", "problems", "bundles", "running", "queue", "driver", "sandbox", "disk"]);
    has(&factory.json(["why", "1"]), &["build", "commit", "bundle", "reason", "before", "inputs", "stages"]);
    has(&factory.json(["deliveries"])["deliveries"][0], &["delivery", "repository", "kind", "by", "what", "became"]);

    // A followed log is lines of JSON, the last of which is the build.
    let followed = factory.run(["logs", "-f", "1", "--json"]);
    assert_eq!(followed.code, 1);
    let last: Value = serde_json::from_str(followed.out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["end"]["outcome"], "failed");

    // A range needs no daemon's knowledge, and lists what it does not touch.
    author.bundle("bundle-two", "something");
    author.push(&factory, "Add another");
    let range = factory.json(["plan", "main~1..main"]);
    let actions: Vec<&str> =
        range["bundles"].as_array().expect("bundles").iter().filter_map(|b| b["action"].as_str()).collect();
    assert_eq!(actions, ["unchanged", "build"]);
    let offline = factory.json(["plan", "main~1..main", "--repo", factory.repository().to_str().expect("UTF-8")]);
    assert_eq!(offline, range, "with and without the daemon");
}

#[test]
fn exit_codes_say_what_was_wrong() {
    let mut factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    let cases: [(&[&str], i32, &str); 16] = [
        (&["status"], 0, "0 of 1 bundle is fresh. 1 waits."),
        (&["builds", "bundle-one"], 0, "◷ waiting"),
        (&["plan", "nope"], 1, "error: \"nope\" names no commit of the repository factory"),
        (&["build", "bundle-one", "--ref", "nope"], 1, "error: \"nope\" names no commit"),
        (&["retry", "1"], 1, "error: #1 has not ended; cancel it first"),
        (&["frobnicate"], 2, "unrecognized subcommand"),
        (&["show", "one"], 2, "`one` is not a build's number, such as 42"),
        (&["build", "bundle-one", "--from", "bake"], 2, "error: there is no stage `bake`; stages are boot,"),
        (&["schema", "nope"], 2, "error: "),
        (&["show", "99"], 5, "error: there is no build #99"),
        (&["why", "99"], 5, "error: there is no build #99"),
        (&["logs", "99"], 5, "error: there is no build #99"),
        (&["cancel", "99"], 5, "error: there is no build #99"),
        (&["build", "bundle-tow"], 5, "error: there is no bundle bundle-tow; there are: images/bundle-one"),
        (&["images", "show", "00000000"], 5, "error: there is no image 00000000"),
        (&["artifacts", "1", "get", "nope"], 5, "error: #1 has no artifact nope"),
    ];
    for (arguments, code, wanted) in cases {
        let said = factory.run(arguments).ended(code);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
    // Bundles of other names are not simply none.
    assert_eq!(factory.run(["builds", "bundle-tow"]).code, 5);

    // Not allowed: another user, who is not in the group.
    let mut stranger = program("setpriv");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(factory.path(""), open).expect("changed");
    stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups", super::factory::BINARY, "status", "--socket"]);
    let denied = said(stranger.arg(factory.socket())).ended(4);
    assert!(denied.contains("may not be used by this user\n  next: join its group"), "{denied}");

    factory.end(rustix::process::Signal::TERM);
    let away = factory.run(["status"]).ended(3);
    assert!(away.contains("no daemon answers at") && away.contains("systemctl start factoryd"), "{away}");
}

#[test]
fn a_build_that_waits_is_cancelled_and_cleared_from_the_queue() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-one"]);
    author.push(&factory, "Begin");
    let status = factory.tell(["status"]);
    assert!(
        status.contains("◷ waiting   images/bundle-one  [....]   #1") && status.contains("for disk space: "),
        "{status}"
    );
    let queue = factory.json(["status"])["queue"].clone();
    assert!(queue[0]["waits"].as_str().is_some_and(|why| why.starts_with("for disk space")), "{queue}");
    assert_eq!(factory.tell(["cancel", "1"]), "#1 is cancelled.\n");
    let shown = factory.tell(["show", "1"]);
    assert!(shown.starts_with("◇ Build #1 ended cancelled: cancelled by "), "{shown}");
    // A newer push takes the place of what still waits.
    author.bundle("bundle-one", "something");
    author.push(&factory, "Change it");
    author.bundle("bundle-one", "another");
    author.push(&factory, "Change it again");
    assert_eq!(factory.json(["show", "2"])["outcome"], "superseded");
    assert_eq!(factory.json(["status"])["queue"][0]["build"], 3);
}

#[test]
fn other_programs_speak_to_the_socket() {
    let factory = Factory::new();
    let socket = factory.socket();
    let mode = std::fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    let curl = |path: &str, more: &[&str]| {
        let mut curl = program("curl");
        curl.args(["--silent", "--unix-socket"]).arg(&socket).args(["--write-out", "\n%{http_code}"]).args(more);
        let answer = said(curl.arg(format!("http://factoryd{path}"))).ended(0);
        let (body, code) = answer.rsplit_once('\n').expect("a code");
        (code.to_owned(), body.to_owned())
    };
    let json = |body: &str| serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let (code, body) = curl("/v1/status", &[]);
    assert_eq!((code.as_str(), json(&body)["healthy"].as_bool()), ("200", Some(true)));
    let (code, body) = curl("/v1/builds/7", &[]);
    assert_eq!((code.as_str(), &json(&body)["error"]["code"]), ("404", &"missing".into()));
    let (code, body) = curl("/v2/anything", &[]);
    assert_eq!((code.as_str(), &json(&body)["error"]["code"]), ("404", &"missing".into()));
    // What is not understood is answered in the same shape, and names what was wrong.
    let headers = ["--header", "content-type: application/json", "--data"];
    for (path, data, wanted) in [
        ("/v1/builds", "{\"bundel\": \"x\"}", "unknown field `bundel`"),
        ("/v1/builds", "{", "JSON"),
        ("/v1/hint", "[]", "expected"),
    ] {
        let (code, body) = curl(path, &[&headers[..], &[data]].concat());
        let error = json(&body)["error"].clone();
        assert_eq!((code.as_str(), &error["code"]), ("400", &"usage".into()), "{body}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(wanted)), "{body}");
    }
    let (code, body) = curl("/v1/builds/seven", &[]);
    assert_eq!((code.as_str(), &json(&body)["error"]["code"]), ("400", &"usage".into()), "{body}");
    let (code, body) = curl("/v1/gc", &[]);
    assert_eq!((code.as_str(), &json(&body)["error"]["code"]), ("405", &"usage".into()), "{body}");
    // A body that is too large is refused, not read.
    let large = factory.path("large");
    std::fs::write(&large, vec![b' '; 4 << 20]).expect("written");
    let (code, _) = curl("/v1/builds", &[&headers[..], &[&format!("@{}", large.display())]].concat());
    assert_eq!(code, "413");
    factory.is_well();
}
