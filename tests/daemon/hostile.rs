//! Repositories that are broken, or mean harm: one clear error each, and everything else goes on.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;

use super::factory::{Author, Factory, WAITING, said, text};

/// What a push of a broken thing shows, beside a good bundle that is built all the same, as far as anything is here.
fn shown(spoil: impl FnOnce(&Author)) -> String {
    let factory = Factory::new();
    let author = Author::new(&["bundle-good"]);
    spoil(&author);
    let shown = author.push(&factory, "Spoil it");
    assert_eq!(factory.build_of("bundle-good"), 1, "{shown}");
    assert!(shown.contains("#1 images/bundle-good"), "{shown}");
    assert!(factory.failed(1).0.contains("`nothing`"), "its build runs");
    factory.is_well();
    shown
}

#[test]
fn a_broken_pipeline_is_shown_as_a_compiler_shows_it() {
    let shown = shown(|author| {
        let text =
            "version: 1\nbundles: [os/*]\nstages:\n  - boot: { image: x, cpu: 2 }\n  - provison:\n      steps: []\n";
        author.write("pipelines/os.yml", text);
        author.write("os/debian/build-vars.yml", "bundle:\n  name: debian\n");
    });
    for wanted in [
        "error: unknown stage `provison`",
        "--> pipelines/os.yml:5:5",
        "5 |   - provison:",
        "did you mean `provision`?",
        "--> pipelines/os.yml:4:23",
        "did you mean `cpus`?",
    ] {
        assert!(shown.contains(wanted), "{wanted} is not in\n{shown}");
    }
}

#[test]
fn pipelines_that_hide_every_bundle_are_shown_wherever_one_asks() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-good"]);
    author.write("pipelines/bundle.yml", "version: 1\nbundles: [images/*\nstages:\n");
    let shown = author.push(&factory, "Forget a bracket");
    assert!(shown.contains("--> pipelines/bundle.yml:3:7"), "{shown}");
    let plan = factory.run(["plan", "main"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert!(plan.out.starts_with("Nothing can be built: the pipelines at "), "{plan:?}");
    assert!(plan.err.contains("--> pipelines/bundle.yml:3:7\n") && plan.err.contains("3 | stages:"), "{plan:?}");
    let fault = text(&factory.json(["plan"])["faults"][0]);
    assert!(fault.starts_with("error: this is not YAML"), "{fault}");
    let status = factory.tell(["status"]);
    assert!(status.starts_with("Nothing can be built: something is wrong in the repository factory.\n"), "{status}");
    assert!(status.contains("pipelines/bundle.yml:3:7: this is not YAML"), "{status}");
    let arrived = factory.tell(["deliveries"]);
    assert!(arrived.contains("nothing to build; the pipelines on main have a fault"), "{arrived}");
}

#[test]
fn a_name_of_two_lines_is_shown_in_one() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&[]);
    author.write("images/bundle-x\n✓ fresh     images/build-vars.yml", "bundle: { name: x, img_base: nothing }\n");
    let long = "y".repeat(5000);
    let shown = author.push(&factory, &format!("Forge a line {long}"));
    assert!(shown.contains("images/bundle-x␊✓ fresh     images") && !shown.contains(&long), "{shown}");
    for command in [&["status"][..], &["plan"], &["builds"], &["show", "1"], &["why", "1"]] {
        let said = factory.run(command);
        assert!(said.out.contains("images/bundle-x␊✓ fresh     images"), "{said:?}");
    }
    assert_eq!(factory.json(["builds"])["builds"][0]["bundle"], "images/bundle-x\n✓ fresh     images");
}

#[test]
fn vars_that_are_no_yaml_are_named_with_their_line_and_a_suggestion() {
    let shown = shown(|author| {
        let text = "bundle:\n  name: bundle-bad\n  img_base: nothing\n  properties:\n    hw_rng_model :virtio\n    img_os: Debian\n";
        author.write("images/bundle-bad/build-vars.yml", text);
    });
    assert!(shown.contains("images/bundle-bad is unbuildable: "), "{shown}");
    assert!(shown.contains("images/bundle-bad/build-vars.yml:5"), "{shown}");
    assert!(shown.contains("hw_rng_model: virtio"), "{shown}");
}

#[test]
fn a_bundle_without_vars_is_listed_as_unbuildable() {
    let shown = shown(|author| author.write("images/bundle-empty/README.md", "soon\n"));
    assert!(shown.contains("images/bundle-empty is unbuildable: ") && shown.contains("build-vars.yml"), "{shown}");
}

#[test]
fn a_link_out_of_the_bundle_is_named() {
    let shown = shown(|author| {
        author.bundle("bundle-link", "nothing");
        let link = author.path().join("images/bundle-link/output/shadow.j2");
        std::os::unix::fs::symlink("../../../../../../../../etc/shadow", link).expect("linked");
    });
    assert!(shown.contains("images/bundle-link is unbuildable: "), "{shown}");
    assert!(shown.contains("output/shadow.j2"), "{shown}");
}

#[test]
fn yaml_that_unfolds_without_end_is_refused() {
    let bomb = |head: &str| {
        let levels = (1..30).map(|level| {
            let all = vec![format!("*l{}", level - 1); 10].join(", ");
            format!("l{level}: &l{level} [{all}]\n")
        });
        format!("{head}l0: &l0 [ha, ha]\n{}", levels.collect::<String>())
    };
    let shown = shown(|author| {
        author.write("images/bundle-bomb/build-vars.yml", bomb("bundle:\n  name: bundle-bomb\n  img_base: x\n"));
        author.write("pipelines/bomb.yml", bomb("version: 1\nbundles: [os/*]\n"));
        author.write("os/debian/build-vars.yml", "bundle: { name: x }\n");
        let deep = format!("bundle: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
        author.write("images/bundle-deep/build-vars.yml", deep);
        author
            .write("images/bundle-large/build-vars.yml", format!("bundle: {{ name: x }}\n{}", "# x\n".repeat(1 << 19)));
    });
    for bundle in ["bundle-bomb", "bundle-deep", "bundle-large"] {
        let line = shown.lines().find(|line| line.contains(&format!("images/{bundle} is unbuildable: ")));
        assert!(line.is_some_and(|line| line.contains("build-vars.yml")), "{bundle}:\n{shown}");
    }
    assert!(shown.contains("--> pipelines/bomb.yml:"), "{shown}");
}

#[test]
fn a_tree_that_unfolds_without_end_is_refused() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-good", "bundle-bomb"]);
    author.commit("Begin");
    // Ten entries, each the tree below, ten times: ten thousand million files in a few hundred bytes.
    let blob = pipe(&author, &["hash-object", "-w", "--stdin"], b"x {{ result_img_id }}");
    let mut tree = pipe(&author, &["mktree"], format!("100644 blob {blob}\tx.j2\n").as_bytes());
    for _ in 0..10 {
        let entries: String = (0..10).map(|name| format!("040000 tree {tree}\t{name}\n")).collect();
        tree = pipe(&author, &["mktree"], entries.as_bytes());
    }
    author.git(["rm", "-r", "-q", "--cached", "images/bundle-bomb/output"]);
    author.git(["read-tree", "--prefix=images/bundle-bomb/keep", "HEAD:images/bundle-good/output"]);
    let index = author.git(["write-tree"]);
    let spoiled = graft(&author, index.trim(), &["images", "bundle-bomb", "output"], &tree);
    let commit = pipe(&author, &["commit-tree", &spoiled, "-m", "Grow"], b"");
    author.git(["update-ref", "HEAD", &commit]);
    let said = author.try_push(&factory, "main");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(factory.build_of("bundle-good"), 1);
    let status = factory.until("it is looked at", |factory| {
        let status = factory.tell(["status"]);
        status.contains("bundle-bomb").then_some(status)
    });
    assert!(status.contains("its stages would read more than 100000 files"), "{status}");
    factory.is_well();
}

/// Runs git with an input, and gives its one line.
fn pipe(author: &Author, arguments: &[&str], input: &[u8]) -> String {
    let mut git = author.git_command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git");
    git.stdin.take().expect("piped").write_all(input).expect("written");
    let output = git.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// The tree with another tree at a path in it.
fn graft(author: &Author, tree: &str, path: &[&str], new: &str) -> String {
    let Some((name, rest)) = path.split_first() else { return new.to_owned() };
    let listed = author.git(["ls-tree", tree]);
    let below = listed.lines().find(|line| line.ends_with(&format!("\t{name}")));
    let empty = || pipe(author, &["mktree"], b"");
    let below = below.map_or_else(empty, |line| line.split([' ', '\t']).nth(2).expect("an id").to_owned());
    let inner = graft(author, &below, rest, new);
    let others = listed.lines().filter(|line| !line.ends_with(&format!("\t{name}")));
    let all: String = others.map(|line| format!("{line}\n")).collect();
    pipe(author, &["mktree"], format!("{all}040000 tree {inner}\t{name}\n").as_bytes())
}

#[test]
fn names_that_are_not_utf_8_are_built_like_others() {
    let factory = Factory::new();
    let author = Author::new(&["bundle-good"]);
    let mut name = author.path().as_os_str().to_owned();
    name.push("/images/bundle-");
    name.push(OsString::from_vec(vec![0xff, 0xfe]));
    std::fs::create_dir(&name).expect("a directory");
    std::fs::write(std::path::Path::new(&name).join("build-vars.yml"), "bundle:\n  name: odd\n  img_base: nothing\n")
        .expect("written");
    let shown = author.push(&factory, "Name it oddly");
    assert!(shown.contains("images/bundle-\u{fffd}\u{fffd} "), "{shown}");
    let builds = factory.json(["builds"])["builds"].clone();
    let odd =
        builds.as_array().expect("builds").iter().find(|build| build.get("path_bytes").is_some()).expect("a build");
    assert_eq!(odd["path_bytes"], "aW1hZ2VzL2J1bmRsZS3//g==");
    let number = odd["build"].as_u64().expect("a number");
    assert!(factory.failed(number).0.contains("`nothing`"));
    factory.is_well();
}

#[test]
fn a_push_that_is_too_large_is_refused_and_the_next_is_taken() {
    let factory = Factory::with("", "[limits]\npush = \"1MiB\"\ndisk_free = \"900TiB\"\n");
    let author = Author::new(&["bundle-good"]);
    let mut noise = vec![0; 3 << 20];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut noise))
        .expect("noise");
    author.write("large", &noise);
    author.commit("Add everything");
    let said = author.try_push(&factory, "main");
    assert_ne!(said.code, 0);
    assert!(said.err.contains("exceeds maximum allowed size"), "{said:?}");
    author.git(["rm", "-q", "large"]);
    author.git(["commit", "-q", "--amend", "-m", "Begin"]);
    let said = author.try_push(&factory, "main");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(factory.build_of("bundle-good"), 1);
}

#[test]
fn escapes_never_reach_a_terminal() {
    let factory = Factory::new();
    let author = Author::new(&["bundle-good"]);
    // What hides in YAML's escapes, in the name of a directory, and in a commit's message.
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m";
    author.bundle("bundle-evil", "\"\\e]0;owned\\a\\e[2J\\x9b31m\"");
    author.write(&format!("images/bundle-{evil}/build-vars.yml"), "bundle:\n  name: odd\n  img_base: nothing\n");
    author.commit(&format!("Paint {evil}"));
    let said = author.try_push(&factory, "main");
    assert_eq!(said.code, 0, "{said:?}");
    let mut all = said.remote();
    factory.ended(factory.build_of("bundle-evil"));
    let builds = factory.until("all ended", |factory| {
        let builds = factory.json(["builds"])["builds"].as_array().expect("builds").clone();
        (builds.len() == 3 && builds.iter().all(|build| build["state"] == "finished")).then_some(builds)
    });
    for arguments in [["status"], ["builds"], ["plan"], ["deliveries"], ["images"]] {
        all.push_str(&factory.tell(arguments));
    }
    for build in &builds {
        let number = build["build"].to_string();
        for command in ["show", "why", "logs", "artifacts"] {
            all.push_str(&factory.tell([command, &number]));
        }
        all.push_str(&factory.run(["logs", "-f", &number]).ended(1));
    }
    assert!(all.contains("owned"), "it is shown: {all}");
    let control = |c: char| c.is_control() && c != '\n';
    let line = all.lines().find(|line| line.contains(control));
    assert!(line.is_none(), "{line:?}");
    assert!(!factory.log().contains(|c: char| control(c) && c != '\t'), "the daemon's log:\n{:?}", factory.log());
    factory.is_well();
}

#[test]
fn a_repository_that_vanishes_is_said_and_others_go_on() {
    let two = "[[repository]]\nname = \"factory\"\nreceive = true\npoll = \"1s\"\n[[repository]]\nname = \"other\"\nreceive = true\npoll = \"1s\"\n";
    let factory = Factory::with("", &format!("{two}{WAITING}"));
    let author = Author::new(&["bundle-good"]);
    author.push(&factory, "Begin");
    let hidden = factory.path("hidden.git");
    std::fs::rename(factory.repository(), &hidden).expect("moved");
    let problem = factory.until("status says it", |factory| {
        let status = factory.json(["status"]);
        status["repositories"][0]["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.contains(&factory.repository().display().to_string()), "{problem}");
    let plan = factory.run(["plan", "--repository", "factory"]).ended(1);
    assert!(plan.contains("factory.git"), "{plan}");

    let elsewhere = factory.state().join("repos/other.git");
    let push: [&OsStr; 3] = ["push".as_ref(), elsewhere.as_os_str(), "HEAD:refs/heads/main".as_ref()];
    let pushed = said(&mut author.git_command(push));
    assert!(pushed.code == 0 && pushed.remote().contains("#2 images/bundle-good"), "{pushed:?}");
    std::fs::rename(&hidden, factory.repository()).expect("moved back");
    factory.until("it is there again", |factory| {
        factory.json(["status"])["repositories"][0]["problem"].is_null().then_some(())
    });
    author.bundle("bundle-new", "nothing");
    assert!(author.push(&factory, "Go on").contains("#3 images/bundle-new"), "it goes on");
    factory.is_well();
}

#[test]
fn all_bombs_together_leave_the_daemon_small() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-good"]);
    for round in 0..4 {
        for at in 0..24 {
            let name = format!("images/bundle-{at}/build-vars.yml");
            let list: String = (0..40_000).map(|item| format!("  - item {item} {round}\n")).collect();
            author.write(&name, format!("bundle:\n  name: b\n  img_base: x\nlist:\n{list}"));
            let long = format!("{}{{{{ result_img_id }}}}", "x".repeat(4 << 20));
            author.write(&format!("images/bundle-{at}/output/{round}.j2"), long);
        }
        author.commit(&format!("Round {round}"));
        let said = author.try_push(&factory, "main");
        assert_eq!(said.code, 0, "{said:?}");
        factory.json(["plan"]);
    }
    eprintln!("the daemon had at most {} MiB resident", factory.most_resident() >> 10);
    factory.is_well();
}

/// The tree of a commit with a directory of many files in it, at a path.
fn push_many(author: &Author, factory: &Factory, path: &[&str], files: usize, changed: &str) {
    let blob = pipe(author, &["hash-object", "-w", "--stdin"], b"the same in all of them");
    let other = pipe(author, &["hash-object", "-w", "--stdin"], changed.as_bytes());
    let mut entries: String = (0..files).map(|at| format!("100644 blob {blob}\tfile-{at}\n")).collect();
    entries += format!("100644 blob {other}\tsite.yml\n").as_str();
    let many = pipe(author, &["mktree"], entries.as_bytes());
    let tree = graft(author, author.git(["rev-parse", "HEAD^{tree}"]).trim(), path, &many);
    let commit = pipe(author, &["commit-tree", &tree, "-p", "HEAD", "-m", changed], b"");
    author.git(["update-ref", "HEAD", &commit]);
    let said = author.try_push(factory, "main");
    assert_eq!(said.code, 0, "{said:?}");
}

const WITH_ANSIBLE: &str = "version: 1
bundles: [images/bundle-*]
stages:
  - boot: { image: \"{{ bundle.img_base }}\" }
  - provision:
      steps:
        - ansible: ansible/site.yml
          inputs: [/shared]
  - snapshot: { name: \"{{ bundle.name }}\" }
";

#[test]
fn one_change_among_twenty_thousand_files_is_planned_in_a_moment() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&["bundle-large"]);
    author.write("pipelines/bundle.yml", WITH_ANSIBLE);
    author.write("shared/one", "x");
    author.commit("Begin");
    for changed in ["- hosts: all\n", "- hosts: all # changed\n"] {
        push_many(&author, &factory, &["images", "bundle-large", "ansible"], 20_000, changed);
        factory.until("it is planned", |factory| {
            let head = author.git(["rev-parse", "HEAD"]);
            (factory.json(["builds"])["builds"][0]["commit"] == head.trim()).then_some(())
        });
    }
    let said = factory.run(["plan", "HEAD~1..HEAD", "--repo", author.path().to_str().expect("UTF-8")]);
    assert!(said.out.contains("images/bundle-large"), "{said:?}");
    assert!(said.took.as_secs() < 5, "{said:?}");
    for arguments in [&["plan"][..], &["why", "2"], &["status"]] {
        let said = factory.run(arguments);
        assert!(said.code == 0 && said.took.as_secs() < 5, "{said:?}");
    }
    factory.is_well();
}

#[test]
fn what_two_hundred_bundles_share_is_held_once() {
    let factory = Factory::with("", WAITING);
    let author = Author::new(&[]);
    author.write("pipelines/bundle.yml", WITH_ANSIBLE);
    for at in 0..200 {
        author.bundle(&format!("bundle-{at}"), "nothing");
        author.write(&format!("images/bundle-{at}/ansible/site.yml"), "- hosts: all\n");
    }
    author.commit("Begin");
    push_many(&author, &factory, &["shared"], 20_000, "- hosts: all\n");
    factory.until("all are queued", |factory| {
        let status = factory.json(["status"]);
        status["queue"].as_array().is_some_and(|queue| queue.len() == 200).then_some(())
    });
    let said = factory.run(["plan"]);
    assert!(said.code == 0 && said.took.as_secs() < 5, "{:?}", said.took);
    eprintln!("the daemon had at most {} MiB resident", factory.most_resident() >> 10);
    factory.is_well();
}

#[test]
fn a_bundle_that_is_too_deep_or_too_wide_hides_no_other() {
    let factory = Factory::new();
    let author = Author::new(&["bundle-good", "bundle-deep", "bundle-wide"]);
    author.commit("Begin");
    let blob = pipe(&author, &["hash-object", "-w", "--stdin"], b"x");
    let mut deep = pipe(&author, &["mktree"], format!("100644 blob {blob}\tx.j2\n").as_bytes());
    for _ in 0..70 {
        deep = pipe(&author, &["mktree"], format!("040000 tree {deep}\td\n").as_bytes());
    }
    let entries: String = (0..200_001).map(|at| format!("100644 blob {blob}\t{at:06}\n")).collect();
    let wide = pipe(&author, &["mktree"], entries.as_bytes());
    let mut tree = author.git(["rev-parse", "HEAD^{tree}"]).trim().to_owned();
    for (bundle, odd) in [("bundle-deep", &deep), ("bundle-wide", &wide)] {
        tree = graft(&author, &tree, &["images", bundle, "output"], odd);
    }
    let commit = pipe(&author, &["commit-tree", &tree, "-p", "HEAD", "-m", "Go deep"], b"");
    author.git(["update-ref", "HEAD", &commit]);
    let said = author.try_push(&factory, "main");
    assert_eq!(said.code, 0, "{said:?}");
    let good = factory.build_of("bundle-good");
    assert!(factory.failed(good).0.contains("`nothing`"), "its build runs");
    let status = factory.tell(["status"]);
    for bundle in ["images/bundle-deep", "images/bundle-wide"] {
        assert!(status.contains(bundle), "{bundle}: {status}");
    }
    assert!(said.remote().contains("bundle-deep is unbuildable: "), "{}", said.remote());
    assert!(said.remote().contains("bundle-wide is unbuildable: "), "{}", said.remote());
    factory.is_well();
}
