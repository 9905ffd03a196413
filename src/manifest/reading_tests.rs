//! Scenarios: what an edit of a repository does to its bundles' fingerprints, and what makes a bundle unbuildable.

use super::super::forest::Forest;
use super::*;
use crate::domain::id::CommitId;
use crate::domain::plan::plan;
use crate::domain::tree::EntryKind;

const PIPELINE: &str = r#"
version: 1
bundles: [images/bundle-*]
shared: [common/tool.sh]
stages:
  - boot: { image: "{{ bundle.img_base }}" }
  - provision:
      steps:
        - ansible: ansible/bootstrap.yml
        - { shell: "echo {{ bundle.name }}", name: greet }
  - test: { steps: [ { pytest: tests } ] }
  - snapshot: { name: "{{ bundle.name }}-{{ build.stamp }}", properties: "{{ bundle.properties }}" }
  - render: {}
"#;

const UUID: &str = "ae3082cb-fac1-46b1-97aa-507aaa8f184f";
const WEB: &str = "images/bundle-web";

fn vars(name: &str, base: &str) -> String {
    format!("bundle:\n  name: {name}\n  img_base: {base}\n  properties:\n    os: Debian\n")
}

fn factory() -> Forest {
    Forest::new(&[
        ("pipelines/bundle.yml", PIPELINE),
        ("common/tool.sh", "tool"),
        ("README.md", "hello"),
        ("images/bundle-web/build-vars.yml", &vars("bundle-web", UUID)),
        ("images/bundle-web/ansible/bootstrap.yml", "- hosts: local\n"),
        ("images/bundle-web/ansible/roles/x/tasks/main.yml", "[]"),
        ("images/bundle-web/tests/test_web.py", "def test(): pass"),
        ("images/bundle-web/output/web.heat.yml.j2", "image: {{ result_img_id }}\n"),
        ("images/bundle-web/output/readme.txt", "static"),
        ("images/bundle-web/README.md", "about"),
    ])
}

fn look(forest: &Forest) -> Reading {
    read(forest, &RepoName::from("factory"), &Cache::default()).expect("a good tree")
}

fn bundle(forest: &Forest, path: &str) -> Arc<Buildable> {
    let reading = look(forest);
    assert_eq!(reading.faults, []);
    let found = reading.bundles.into_iter().find(|bundle| bundle.path.to_string() == path).expect("a bundle");
    found.verdict.expect("buildable")
}

/// Each bundle's verdict in one line.
fn verdicts(forest: &Forest) -> Vec<String> {
    let line = |bundle: BundleReading| match bundle.verdict {
        Ok(_) => format!("{} is good", bundle.path),
        Err(why) => format!("{}: {}", bundle.path, why.reason),
    };
    look(forest).bundles.into_iter().map(line).collect()
}

/// The stages whose own inputs differ, and all whose fingerprints do.
fn changed(before: &Forest, after: &Forest) -> (String, String) {
    let (before, after) = (bundle(before, WEB), bundle(after, WEB));
    let words = |differs: &dyn Fn(&StageInputs, &StageInputs) -> bool| {
        let pairs = before.stages.iter().zip(&after.stages).filter(|(one, other)| differs(one, other));
        pairs.map(|(one, _)| one.stage.word()).collect::<Vec<_>>().join(" ")
    };
    let own = words(&|one, other| one.own_digest != other.own_digest);
    (own, words(&|one, other| one.declared != other.declared))
}

fn pair(own: &str, all: &str) -> (String, String) {
    (own.to_owned(), all.to_owned())
}

#[test]
fn each_edit_changes_the_stages_that_read_it_and_those_after() {
    let factory = factory();
    let ansible = "images/bundle-web/ansible/bootstrap.yml";
    let vars_file = "images/bundle-web/build-vars.yml";
    let edit = |path: &str, text: &str| changed(&factory, &factory.with(path, text));
    let after_provision = pair("provision", "provision test snapshot render");
    assert_eq!(edit("README.md", "other"), pair("", ""));
    assert_eq!(edit("images/bundle-web/README.md", "other"), pair("", ""));
    assert_eq!(edit("images/bundle-web/output/readme.txt", "other"), pair("", ""));
    assert_eq!(edit(ansible, "- hosts: all\n"), after_provision);
    assert_eq!(edit("images/bundle-web/ansible/junk~", ""), after_provision);
    assert_eq!(edit("common/tool.sh", "other"), after_provision);
    assert_eq!(edit("images/bundle-web/tests/test_web.py", "x"), pair("test", "test snapshot render"));
    assert_eq!(edit("images/bundle-web/conftest.py", "x"), pair("test", "test snapshot render"));
    assert_eq!(edit("images/bundle-web/output/web.heat.yml.j2", "x"), pair("render", "render"));
    let executable = factory.put(ansible.as_bytes(), EntryKind::Executable, b"- hosts: local\n");
    assert_eq!(changed(&factory, &executable), after_provision);
    let template = b"image: {{ result_img_id }}\n";
    let executable = factory.put(b"images/bundle-web/output/web.heat.yml.j2", EntryKind::Executable, template);
    assert_eq!(changed(&factory, &executable), pair("", ""));
    let commented = vars("bundle-web", UUID).replace("bundle:\n", "# comment\n\nbundle:   # more\n");
    assert_eq!(edit(vars_file, &commented), pair("", ""));
    assert_eq!(edit(vars_file, &[&vars("bundle-web", UUID), "dead: 1\n"].concat()), pair("", ""));
    assert_eq!(edit(vars_file, &vars("bundle-web", UUID).replace("Debian", "Other")), pair("snapshot", "snapshot"));
    assert_eq!(edit(vars_file, &vars("bundle-web", "other")), pair("boot", "boot provision test snapshot render"));
    assert_eq!(edit(vars_file, &vars("web", UUID)), pair("provision snapshot", "provision test snapshot render"));
}

/// A repository's `ansible.cfg` counts, and the roles and passwords that it or the step's environment leads to; what else
/// lies beside them does not.
#[test]
fn settings_of_ansible_lead_to_inputs() {
    let plain = factory().with("ansible.cfg", "[defaults]\nroles_path = nowhere\n");
    let own =
        "[defaults]\nroles_path = ../../roles:/etc/ansible/roles:missing:.\nvault_password_file = ../../keys/vault\n";
    let factory = plain.with("images/bundle-web/ansible.cfg", own);
    let factory = factory.with("roles/web/tasks/main.yml", "[]").with("keys/vault", "x").with("roles.md", "about");
    let provision = pair("provision", "provision test snapshot render");
    assert_eq!(changed(&plain, &factory), provision);
    let edit = |path: &str| changed(&factory, &factory.with(path, "other"));
    assert_eq!(edit("images/bundle-web/ansible.cfg"), provision);
    assert_eq!(edit("roles/web/tasks/main.yml"), provision);
    assert_eq!(edit("keys/vault"), provision);
    for other in ["ansible.cfg", "roles.md", "keys/other", "images/bundle-web/README.md"] {
        assert_eq!(edit(other), pair("", ""), "{other}");
    }

    let said =
        "- { ansible: ansible/bootstrap.yml, env: { ANSIBLE_CONFIG: ../../ansible.cfg, ANSIBLE_LIBRARY: ../../more } }";
    let pipeline = PIPELINE.replace("- ansible: ansible/bootstrap.yml", said);
    let factory = factory.with("pipelines/bundle.yml", &pipeline).with("more/module.py", "x");
    let edit = |path: &str| changed(&factory, &factory.with(path, "other"));
    assert_eq!((edit("ansible.cfg"), edit("more/module.py")), (provision.clone(), provision));
    assert_eq!(edit("images/bundle-web/ansible.cfg"), pair("", ""));

    let link = factory.put(b"more/out", EntryKind::Link, b"../../../etc");
    let verdict = look(&link).bundles.remove(0).verdict;
    let fault = &verdict.expect_err("a link that leaves").faults[0];
    assert_eq!((fault.file.as_str(), fault.line), ("pipelines/bundle.yml", 9));
    assert_eq!(fault.message, "the link `more/out` leaves the repository, for images/bundle-web");
}

#[test]
fn a_pipeline_counts_by_what_it_says_not_by_how() {
    let factory = factory();
    let edit = |from: &str, to: &str| {
        assert!(PIPELINE.contains(from), "{from}");
        changed(&factory, &factory.with("pipelines/bundle.yml", &PIPELINE.replace(from, to)))
    };
    assert_eq!(edit("version: 1", "# comment\nversion: 1\ntimeout: 3h"), pair("", ""));
    assert_eq!(edit("name: greet", "name: other, timeout: 5m"), pair("", ""));
    assert_eq!(edit("{{ bundle.name }}\"", "{{bundle.name}}\""), pair("", ""));
    assert_eq!(edit("pytest: tests", "pytest: { path: tests }"), pair("", ""));
    assert_eq!(edit("build.stamp", "build.number"), pair("", ""));
    assert_eq!(edit("echo", "printf"), pair("provision", "provision test snapshot render"));
    assert_eq!(edit("render: {}", "render: { templates: tests }").0, "render");
    let after = factory.with("pipelines/bundle.yml", &PIPELINE.replace("echo", "printf"));
    let (before, after) = (bundle(&factory, WEB), bundle(&after, WEB));
    let own = |bundle: &Buildable| bundle.stage(Stage::Provision).expect("a stage").own.clone();
    let differences = own(&after).differences(&own(&before));
    assert!(differences.iter().all(|difference| difference.is_shared()));
    assert_eq!(differences[0].to_string(), "pipeline step 2 shell echo {{ bundle.name }} → printf {{ bundle.name }}");
}

#[test]
fn a_template_that_names_a_var_depends_on_it() {
    let factory = factory().with("images/bundle-web/output/a.hbs", "{{bundle.properties.os}} {{vars_port}}");
    let file = "images/bundle-web/build-vars.yml";
    let text = [&vars("bundle-web", UUID), "vars_port: 1\n"].concat();
    let factory = factory.with(file, &text);
    let edit = |from: &str, to: &str| changed(&factory, &factory.with(file, &text.replace(from, to)));
    assert_eq!(edit("Debian", "Other"), pair("snapshot render", "snapshot render"));
    assert_eq!(edit("vars_port: 1", "vars_port: 2"), pair("render", "render"));
}

#[test]
fn a_renamed_bundle_keeps_its_fingerprints() {
    let before = bundle(&factory(), WEB);
    let after = bundle(&factory().renamed(WEB, "images/bundle-new"), "images/bundle-new");
    let fingerprints = |bundle: &Buildable| bundle.stages.iter().map(|stage| stage.declared).collect::<Vec<_>>();
    assert_eq!(fingerprints(&before), fingerprints(&after));
    assert_eq!(*before.warnings, []);
    insta::assert_snapshot!(after.warnings[0].render("warning"), @r#"
    warning: `bundle.name` is `bundle-web`, and the directory is `bundle-new`
      --> images/bundle-new/build-vars.yml:2:9
      |
    2 |   name: bundle-web
      |         ^^^^^^^^^^
      |
      = the bundle is known by its directory; the name is only the beginning of its images' names
    "#);
}

#[test]
fn what_is_no_bundle_or_has_no_vars_is_said() {
    let forest = factory()
        .put(b"images/bundle-link", EntryKind::Link, b"bundle-web")
        .with("images/bundle-empty/README.md", "")
        .put(b"images/bundle-\xff/build-vars.yml", EntryKind::File, vars("x", UUID).as_bytes())
        .put(b"images/bundle-\xff/ansible/bootstrap.yml", EntryKind::File, b"")
        .put(b"images/bundle-\xff/tests/\xfe.py", EntryKind::File, b"")
        .with("images/bundle-web/bundle-inner/build-vars.yml", "")
        .with("images/bundle-sample/build-vars.yml", "bundle:\n  cpus: 1\n  hw_rng_model :virtio     \n");
    insta::assert_debug_snapshot!(verdicts(&forest), @r#"
    [
        "images/bundle-empty: build-vars.yml is missing",
        "images/bundle-sample: images/bundle-sample/build-vars.yml:3:3: `hw_rng_model :virtio` is no key with a value; did you mean `hw_rng_model: virtio`? a key is followed by `:` and a space",
        "images/bundle-web is good",
        "images/bundle-� is good",
    ]
    "#);
}

#[test]
fn links_inside_count_and_links_out_are_refused() {
    let factory = factory().with("images/bundle-web/files/x", "x");
    let link = |target: &str| factory.put(b"images/bundle-web/ansible/link", EntryKind::Link, target.as_bytes());
    let inside = link("../files/x");
    assert_eq!(changed(&factory, &inside).0, "provision");
    assert_eq!(changed(&inside, &link("../files/./x")).0, "provision");
    assert_eq!(changed(&inside, &inside.with("images/bundle-web/files/x", "y")).0, "provision");
    assert_eq!(changed(&inside, &link("..")).0, "provision");
    for out in ["../../other", "/etc/shadow", "../files/missing", "link", "../files/../../../README.md"] {
        insta::allow_duplicates! {
            assert!(verdicts(&link(out))[0].contains("`images/bundle-web/ansible/link`"), "{:?}", verdicts(&link(out)));
        }
    }
    let elsewhere = factory.put(b"images/bundle-web/docs/link", EntryKind::Link, b"/etc/shadow");
    assert_eq!(changed(&factory, &elsewhere), pair("", ""));
    let submodule = factory.put(b"images/bundle-web/ansible/sub", EntryKind::Submodule, b"");
    insta::assert_debug_snapshot!(verdicts(&submodule), @r#"
    [
        "images/bundle-web: `images/bundle-web/ansible/sub` is a submodule, whose files are not in this repository",
    ]
    "#);
}

#[test]
fn a_missing_file_is_shown_where_the_pipeline_names_it() {
    let reading = look(&factory().without("images/bundle-web/ansible/bootstrap.yml"));
    let Err(why) = &reading.bundles[0].verdict else { panic!("unbuildable") };
    insta::assert_snapshot!(why.faults[0].render("error"), @r#"
    error: `images/bundle-web/ansible/bootstrap.yml` is missing, for images/bundle-web
      --> pipelines/bundle.yml:9:20
      |
    9 |         - ansible: ansible/bootstrap.yml
      |                    ^^^^^^^^^^^^^^^^^^^^^
      |
      = the provision stage reads `ansible/bootstrap.yml`
    "#);
}

/// What one commit means for the next, where everything was built: each bundle's action, and what is gone.
fn planned(before: &Forest, after: &Forest) -> Vec<String> {
    let (known, next) = (look(before).as_built(), look(after));
    let plan = plan(CommitId::from("next"), None, &next.candidates(), &known);
    let bundles = plan.bundles.iter().map(|bundle| {
        let mark = if bundle.canary { "!" } else { "" };
        format!("{} {}{mark}: {}", bundle.bundle, bundle.action.word(), bundle.reason)
    });
    bundles.chain(plan.removed.iter().map(|path| format!("{path} is gone"))).collect()
}

/// A history in three commits: a template that two bundles share, and a bundle that could never be built.
#[test]
fn a_shared_change_is_told_from_a_move_to_a_base_that_another_bundle_has() {
    const OTHER: &str = "11111111-98a0-4c1e-b0a8-1a9f4d0f9f11";
    let template = |packages: &str| {
        format!(
            r#"{{ "builders": [{{ "type": "openstack" }}], "provisioners": [
                {{ "type": "shell", "inline": ["apt-get install --yes aptitude git {packages} python3-dev"] }} ] }}"#
        )
    };
    let first = Forest::new(&[
        ("images/build.packer.json", &template("gcc")),
        ("images/bundle-a/build-vars.yml", &vars("a", UUID)),
        ("images/bundle-b/build-vars.yml", &vars("b", OTHER)),
        ("images/bundle-c/README.md", "no vars"),
    ]);
    let second = Forest::new(&[
        ("images/build.packer.json", &template("build-essential")),
        ("images/bundle-a/build-vars.yml", &vars("a", UUID)),
        ("images/bundle-b/build-vars.yml", &vars("b", UUID)),
    ]);
    let inline =
        "packer provisioner 1 inline …es aptitude git gcc python3-dev\",] → …es aptitude git build-essential python…";
    assert_eq!(
        planned(&first, &second),
        [
            &format!("images/bundle-a stale: waits for canary images/bundle-b: {inline}"),
            &format!("images/bundle-b build!: provision: {inline}"),
            "images/bundle-c is gone",
        ]
    );
    let moved = first.with("images/bundle-b/build-vars.yml", &vars("b", UUID));
    let follows = format!("snapshot: follows boot: bundle.img_base {OTHER} → {UUID}");
    assert_eq!(planned(&first, &moved)[1], format!("images/bundle-b publish: {follows}"));
}

#[test]
fn whatever_makes_a_bundle_unbuildable_is_a_fault_at_its_file() {
    let forest = factory()
        .put(b"images/bundle-latin/build-vars.yml", EntryKind::File, b"bundle:\n  name: caf\xe9\n")
        .with("images/bundle-none/README.md", "")
        .with("images/bundle-round/build-vars.yml", &vars("x", "bundle-round"))
        .with("images/bundle-round/ansible/bootstrap.yml", "")
        .with("images/bundle-round/tests/t.py", "");
    let told: Vec<String> = look(&forest)
        .bundles
        .into_iter()
        .filter_map(|bundle| bundle.verdict.err())
        .flat_map(|why| why.faults)
        .map(|fault| format!("{} {fault}; {}", fault.code, fault.help))
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    not-utf-8 images/bundle-latin/build-vars.yml:2:12: build-vars.yml is not UTF-8; save it again as UTF-8
    missing-file images/bundle-none/build-vars.yml: build-vars.yml is missing; a bundle's vars give it name and base
    base-cycle images/bundle-round/build-vars.yml: it is based on itself: images/bundle-round → images/bundle-round; base one of them on an image
    ");
    let empty = Forest::new(&[
        ("images/build.packer.json", r#"{ "builders": [{ "type": "openstack" }] }"#),
        ("images/bundle-a/build-vars.yml", "# to be written\n"),
        ("images/bundle-b/build-vars.yml", "bundle:\n  name: [b]\n  img_base: x\n"),
    ]);
    insta::assert_snapshot!(verdicts(&empty).join("\n"), @r"
    images/bundle-a: images/bundle-a/build-vars.yml:1:1: `bundle` is not defined, for images/bundle-a; today's bundles say `bundle:` with `name`, `img_base` and `properties`
    images/bundle-b: images/bundle-b/build-vars.yml:2:3: `bundle.name` is a list, and stands inside of a text here, for images/bundle-b; give it a text or a number
    ");
}

#[test]
fn bundles_are_based_on_bundles() {
    let based = |name: &str, base: &str, forest: &Forest| {
        let at = |file: &str| format!("images/{name}/{file}");
        forest
            .with(&at("build-vars.yml"), &vars(name, base))
            .with(&at("ansible/bootstrap.yml"), name)
            .with(&at("tests/t.py"), "")
    };
    let forest = based("bundle-child", "bundle-web", &factory());
    let child = bundle(&forest, "images/bundle-child");
    assert_eq!(child.base.as_ref().map(ToString::to_string).as_deref(), Some(WEB));
    let template = forest.with("images/bundle-web/output/web.heat.yml.j2", "other");
    assert_eq!(bundle(&template, "images/bundle-child").disk(), child.disk());
    let playbook = forest.with("images/bundle-web/ansible/bootstrap.yml", "other");
    assert_ne!(bundle(&playbook, "images/bundle-child").disk(), child.disk());

    let image = based("bundle-alias", "debian-12", &factory());
    insta::assert_snapshot!(bundle(&image, "images/bundle-alias").warnings[0].render("warning"), @r#"
    warning: no bundle of this repository is called `debian-12`
      --> pipelines/bundle.yml:6:20
      |
    6 |   - boot: { image: "{{ bundle.img_base }}" }
      |                    ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = it is taken for the name of an image, or for an alias of the configuration
    "#);

    let forest = based("bundle-a", "bundle-b", &forest);
    let forest = based("bundle-b", "images/bundle-a", &forest);
    let forest = based("bundle-c", "bundle-a", &forest);
    let forest = based("bundle-d", "bundle-d", &forest);
    insta::assert_debug_snapshot!(verdicts(&forest), @r#"
    [
        "images/bundle-a: it is based on itself: images/bundle-a → images/bundle-b → images/bundle-a",
        "images/bundle-b: it is based on itself: images/bundle-b → images/bundle-a → images/bundle-b",
        "images/bundle-c: its base images/bundle-a can't be built",
        "images/bundle-child is good",
        "images/bundle-d: it is based on itself: images/bundle-d → images/bundle-d",
        "images/bundle-web is good",
    ]
    "#);

    let two = Forest::new(&[
        ("pipelines/p.yml", "version: 1\nbundles: ['*/x', y]\nstages: [ { boot: { image: '{{ vars.base }}' } } ]"),
        ("a/x/build-vars.yml", "base: none"),
        ("b/x/build-vars.yml", "base: none"),
        ("y/build-vars.yml", "base: x"),
    ]);
    insta::assert_debug_snapshot!(verdicts(&two), @r#"
    [
        "a/x is good",
        "b/x is good",
        "y: its base `x` may be any of a/x, b/x; name one by its path",
    ]
    "#);
}

#[test]
fn broken_and_rival_pipelines_are_named() {
    let rival = factory().with("pipelines/other.yml", PIPELINE);
    let reading = look(&rival);
    assert!(reading.complete);
    insta::assert_snapshot!(reading.faults[0].render("error"), @r#"
    error: two pipelines match `images/bundle-web`: pipelines/bundle.yml and pipelines/other.yml
      --> pipelines/other.yml:3:11
      |
    3 | bundles: [images/bundle-*]
      |           ^^^^^^^^^^^^^^^
      |
      = a bundle has one pipeline: make one of the globs narrower
    "#);
    insta::assert_debug_snapshot!(verdicts(&rival), @r#"
    [
        "images/bundle-web: more than one pipeline matches it: pipelines/bundle.yml, pipelines/other.yml",
    ]
    "#);
    let broken = factory().with("pipelines/bundle.yml", &PIPELINE.replace("render", "rendre"));
    insta::assert_debug_snapshot!(verdicts(&broken), @r#"
    [
        "images/bundle-web: pipelines/bundle.yml has a fault",
    ]
    "#);
    let reading = look(&factory().with("pipelines/bundle.yml", "version: 1\nbundles: [a\n"));
    assert!(!reading.complete && reading.bundles.is_empty() && !reading.faults.is_empty());
    let reading = look(&factory().with("pipelines/bundle.yml", &PIPELINE.replace("[images", "[../x, images")));
    assert!(!reading.complete && reading.bundles.len() == 1);
    let reading = look(&factory().put(b"pipelines/bin.yml", EntryKind::File, b"a: 1\nb: \xff\n"));
    assert_eq!(reading.faults[0].message, "line 2 is not UTF-8");
}

#[test]
fn without_pipelines_the_built_in_one_serves() {
    let forest = factory().without("pipelines/bundle.yml");
    assert_eq!(verdicts(&forest), ["images/bundle-web is good"]);
    assert_eq!(bundle(&forest, WEB).stages.len(), 4);
}

#[test]
fn what_is_kept_says_the_same_as_what_is_read() {
    let cache = Cache::default();
    let repository = RepoName::from("factory");
    let factory = factory();
    let first = read(&factory, &repository, &cache).expect("read");
    let again = read(&factory, &repository, &cache).expect("read");
    let (Ok(one), Ok(other)) = (&first.bundles[0].verdict, &again.bundles[0].verdict) else { panic!("buildable") };
    assert!(Arc::ptr_eq(one, other));
    for edit in ["common/tool.sh", "images/bundle-web/ansible/bootstrap.yml", "pipelines/other.txt"] {
        let edited = factory.with(edit, "edited");
        let kept = read(&edited, &repository, &cache).expect("read");
        let Ok(kept) = &kept.bundles[0].verdict else { panic!("buildable") };
        assert_eq!(kept.disk(), bundle(&edited, WEB).disk(), "{edit}");
    }
}

#[test]
fn a_bomb_of_directories_is_refused() {
    /// A directory in which every name leads to the same directory again.
    struct Bomb;
    impl Tree for Bomb {
        fn entry(&self, path: &RepoPath) -> Result<Option<crate::domain::tree::Entry>, TreeError> {
            let kind = if path.name().contains(&b'.') { EntryKind::File } else { EntryKind::Directory };
            let oid = Some(crate::domain::id::Oid([1; 20]));
            let there = !["pipelines/", "images/build."].iter().any(|start| path.to_string().starts_with(start));
            Ok(there.then(|| crate::domain::tree::Entry { name: path.name().to_vec(), kind, oid }))
        }
        fn list(&self, path: &RepoPath) -> Result<Vec<crate::domain::tree::Entry>, TreeError> {
            let names = if path.is_root() { vec!["images"] } else { vec!["bundle-a", "bundle-b", "ansible", "c"] };
            let paths = names.into_iter().filter_map(|name| path.join(name));
            if path.to_string() == "pipelines" {
                return Ok(Vec::new());
            }
            paths.map(|path| Ok(self.entry(&path)?.expect("there"))).collect()
        }
        fn read(&self, _: &RepoPath, _: u64) -> Result<Vec<u8>, TreeError> {
            Ok(vars("x", UUID).into_bytes())
        }
    }
    let reading = read(&Bomb, &RepoName::from("factory"), &Cache::default()).expect("read");
    assert_eq!(reading.bundles.len(), 2);
    let Err(why) = &reading.bundles[0].verdict else { panic!("refused") };
    assert!(["more than 100000 files", "more than 64 deep"].iter().any(|limit| why.reason.contains(limit)), "{why:?}");
}

#[test]
fn what_a_pipeline_says_in_vain_is_warned_of() {
    let pipeline = "version: 1\nbundles: [images/*]\nstages:\n  - boot: { image: debian-12, user: root, disk: 30GiB }\n  - \
                    snapshot: { name: x, min_disk: 20 }\narchive:\n  - packer.latest.log\n  - \"images/target/{{ \
                    build.directory }}/output/*\"\n  - output/*\n  - reports/*.xml\n  - \"*.log\"\n  - packer.log\n  - \
                    images/target/other/output/*\n";
    let vars = "bundle:\n  name: bundle-web\n  img_base: debian-12\n";
    let forest = Forest::new(&[("pipelines/p.yml", pipeline), ("images/bundle-web/build-vars.yml", vars)]);
    let warned = |forest: &Forest| {
        let warnings = bundle(forest, "images/bundle-web").warnings.clone();
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        warned(&forest),
        [
            "pipelines/p.yml:5:36: the machine's disk is of 30 GiB, and the image says that 20 GiB are enough",
            "pipelines/p.yml:9:5: no file of a build lies under `output/*`",
            "pipelines/p.yml:12:5: no file of a build lies under `packer.log`",
            "pipelines/p.yml:13:5: no file of a build lies under `images/target/other/output/*`",
            "pipelines/p.yml:4:20: no bundle of this repository is called `debian-12`",
        ]
    );
    assert_eq!(warned(&forest.with("pipelines/p.yml", &pipeline.replace("min_disk: 20", "min_disk: 30"))).len(), 4);
    // What the built-in pipeline boots, the vars say.
    let builtin = forest.without("pipelines/p.yml").with("images/bundle-web/ansible/bootstrap.yml", "- hosts: all\n");
    let said = "images/bundle-web/build-vars.yml:3:3: no bundle of this repository is called `debian-12`";
    assert_eq!(warned(&builtin), [said]);
}
