//! A repository as large as any may be: ten thousand bundles, all planned, and all queued at once.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use super::factory::{Author, Factory, WAITING};

const BUNDLES: usize = 10_000;
/// How long the unoptimized daemon may take to plan and queue them all on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// The pipeline says what reaches all bundles at once.
fn pipeline(user: &str) -> String {
    format!(
        "version: 1
bundles: [images/bundle-*]
on_shared_change: rebuild
stages:
  - boot: {{ image: \"{{{{ bundle.img_base }}}}\", user: {user} }}
  - provision:
      steps:
        - ansible: ansible/bootstrap.yml
        - shell: apt-get clean
  - test:
      steps:
        - pytest: tests
  - snapshot: {{ name: \"{{{{ bundle.name }}}}\", properties: \"{{{{ bundle.properties }}}}\" }}
  - render: {{ templates: output }}
"
    )
}

/// The ten files of a bundle; no two bundles have the same.
fn files(name: &str) -> [(&'static str, String); 10] {
    let vars = format!(
        "bundle:\n  name: {name}\n  img_base: nothing\n  properties:\n    img_os: Debian\n    cw_bundle: {name}\n"
    );
    [
        ("build-vars.yml", vars),
        ("README.md", format!("{name}\n")),
        ("ansible/bootstrap.yml", format!("- name: {name}\n  hosts: local\n  roles: [web]\n")),
        ("ansible/templates/index.html.j2", format!("<h1>{name}</h1>\n")),
        ("ansible/files/motd", format!("{name}\n")),
        ("ansible/roles/web/tasks/main.yml", format!("- name: Page of {name}\n  ansible.builtin.meta: noop\n")),
        ("ansible/roles/web/defaults/main.yml", format!("name: {name}\n")),
        ("output/stack.yaml.j2", format!("description: {name}\nimage: {{{{ result_img_id }}}}\n")),
        ("tests/test_page.py", format!("def test_page():\n    assert \"{name}\"\n")),
        ("tests/conftest.py", format!("NAME = \"{name}\"\n")),
    ]
}

/// Commits files in one go, on top of what there is, without a work tree.
fn commit(author: &Author, files: impl Iterator<Item = (String, String)>, is_first: bool) {
    let mut import = author.git_command(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().expect("git");
    let mut to = std::io::BufWriter::new(import.stdin.take().expect("piped"));
    write!(to, "commit refs/heads/main\ncommitter marie <marie@localhost> 1700000000 +0000\ndata 4\nMore\n")
        .expect("written");
    if !is_first {
        writeln!(to, "from refs/heads/main^0").expect("written");
    }
    for (path, text) in files {
        write!(to, "M 100644 inline {path}\ndata {}\n{text}\n", text.len()).expect("written");
    }
    drop(to);
    assert!(import.wait().expect("it ends").success());
}

/// Pushes, and waits until so many builds are queued of what was pushed.
fn push(author: &Author, factory: &Factory, queued: usize) {
    let said = author.try_push(factory, "main");
    assert_eq!(said.code, 0, "{said:?}");
    let head = author.git(["rev-parse", "main"]);
    let summary = format!("0 of {BUNDLES} bundles are fresh. {queued} wait.");
    factory.until_within(PATIENCE, &summary, |factory| {
        let newest = factory.json(["builds", "--limit", "1"])["builds"][0]["commit"] == head.trim();
        (newest && factory.tell(["status"]).starts_with(&summary)).then_some(())
    });
}

#[test]
fn ten_thousand_bundles_are_planned_and_queued_at_once_in_two_hundred_megabytes() {
    let mut factory = Factory::stopped("", WAITING);
    // As the unit has it.
    factory.start();
    let author = Author::new(&[]);
    let all = (0..BUNDLES).flat_map(|number| {
        let name = format!("bundle-{number:05}");
        files(&name).map(|(path, text)| (format!("images/{name}/{path}"), text))
    });
    let written = |user| ("pipelines/bundle.yml".to_owned(), pipeline(user));
    commit(&author, all.chain([written("root")]), true);
    push(&author, &factory, BUNDLES);
    // Another fingerprint for every stage of every bundle: ten thousand builds end superseded, ten thousand are new.
    commit(&author, [written("debian")].into_iter(), false);
    push(&author, &factory, BUNDLES);
    let one = ("images/bundle-00007/ansible/files/motd".to_owned(), "changed\n".to_owned());
    commit(&author, [one].into_iter(), false);
    push(&author, &factory, BUNDLES);
    let status = factory.run(["status"]);
    assert!(status.out.contains("… and 9900 more waiting: factoryd status --json lists them"), "{status:?}");
    assert!(status.took.as_secs() < 5, "{:?}", status.took);
    // Nobody reads all of them on a terminal, and scripts do.
    let all = factory.json(["status"]);
    let count = |list: &str| all[list].as_array().expect("a list").len();
    assert_eq!((count("bundles"), count("queue"), &all["queued"]), (BUNDLES, BUNDLES, &BUNDLES.into()));
    assert_eq!(factory.json(["plan"])["bundles"].as_array().expect("a list").len(), BUNDLES);
    eprintln!("the daemon had at most {} MiB resident", factory.most_resident() >> 10);
    factory.was_small();
    assert!(!factory.log().contains("panicked"), "{}", factory.log());
}
