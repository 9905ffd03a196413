//! Scenarios: images of operating systems as today's factory has them, and what is made for another cloud.

use super::super::forest::Forest;
use super::*;
use crate::domain::pipeline::{Action, BaseImage};

const BUILD: &str = "#!/bin/sh\nBASENAME=\"debian-12\"\nMARK=\"$(date +%F)\"\nIMG=debian.qcow2\nIMG_URL=http://mirror/$IMG\n\
    TMP_DIR=guest\nwget -q $IMG_URL\nguestmount -a $IMG -i $TMP_DIR\nsed -i s/debian/cloud/ $TMP_DIR/etc/cloud/cloud.cfg\n\
    guestunmount $TMP_DIR\nglance image-create --file $IMG\n./build.sh debian\n";

const VARS: &str = "---\nbundle_target_name: B_TARGET_NAME\npacker_file: \"build.packer.json\"\nbundle:\n  \
    name: Debian Twelve\n  img_base: TMP_IMAGE_ID\n  path: debian\n  properties:\n    cw_os: Debian\n";

const TEMPLATE: &str = r#"{
    "variables": { "source_image": "unknown", "image_name": "unknown", "build_flavor": "43", "bundle_path": "unknown" },
    "builders": [ { "type": "openstack", "ssh_username": "cloud", "flavor": "{{ user `build_flavor` }}",
        "image_name": "{{ user `image_name` }}", "source_image": "{{ user `source_image` }}" } ],
    "provisioners": [
        { "type": "shell", "inline": ["echo {{ user `image_name` }}"] },
        { "type": "ansible", "playbook_file": "{{ user `bundle_path` }}/ansible/bootstrap.yml", "host_alias": "local" }
    ]
}"#;

fn factory() -> Forest {
    Forest::new(&[
        ("os/build.packer.json", TEMPLATE),
        ("os/build.sh", "the same for all"),
        ("os/debian/build.sh", BUILD),
        ("os/debian/build-vars.template.yml", VARS),
        ("os/debian/ansible/bootstrap.yml", "- hosts: local\n"),
        ("os/windows/README.md", "by hand"),
        ("images_fe/bundle-lamp/build-vars-fe", "SOURCE_IMAGE_ID=x\n"),
        ("images_fe/bundle-lamp/ansible/bootstrap.yml", "- hosts: local\n"),
        ("images_fe/build_fe.sh", "#!/bin/bash\n"),
        ("os_fe/debian/build_fe.sh", "#!/bin/bash\n"),
    ])
}

fn look(forest: &Forest) -> Reading {
    read(forest, &RepoName::from("factory"), &Cache::default()).expect("a good tree")
}

fn debian(forest: &Forest) -> Arc<Buildable> {
    let path = RepoPath::new("os/debian").expect("inside");
    let reading = look(forest);
    let refused = || reading.bundles.iter().map(|bundle| format!("{bundle:?}")).collect::<String>();
    Arc::clone(reading.buildable(&path).unwrap_or_else(|| panic!("{}", refused())))
}

/// The stages whose own inputs an edit changes.
fn changed(path: &str, text: &str) -> String {
    let (before, after) = (debian(&factory()), debian(&factory().with(path, text)));
    let pairs = before.stages.iter().zip(&after.stages).filter(|(one, other)| one.own_digest != other.own_digest);
    pairs.map(|(one, _)| one.stage.word()).collect::<Vec<_>>().join(" ")
}

#[test]
fn an_image_of_an_operating_system_is_made_as_its_script_says() {
    let buildable = debian(&factory());
    let pipeline = &buildable.pipeline;
    assert_eq!(pipeline.boot.image, BaseImage::Named("http://mirror/debian.qcow2".into()));
    assert_eq!(pipeline.boot.placement.flavor.as_deref(), Some("16"), "what today's playbook passes");
    let [change] = pipeline.boot.changes.as_slice() else { panic!("{:?}", pipeline.boot.changes) };
    assert_eq!((change.name.as_str(), &change.written), ("build.sh", &("os/debian/build.sh".to_owned(), 8)));
    let Action::Shell { text, laid: None } = &change.action else { panic!("{change:?}") };
    assert!(text.to_string().ends_with("TMP_DIR=\"$ROOT\"\nsed -i s/debian/cloud/ $TMP_DIR/etc/cloud/cloud.cfg\n:"));
    let steps: Vec<&str> =
        pipeline.provision.iter().flat_map(|it| it.steps.iter()).map(|step| step.action.word()).collect();
    assert_eq!(steps, ["shell", "ansible"]);
    let first = &pipeline.provision.as_ref().expect("provision").steps[0];
    let Action::Shell { text, .. } = &first.action else { panic!("{first:?}") };
    assert_eq!(text.to_string(), "echo debian-12-{{ build.date }}-{{ build.time }}");
    let snapshot = pipeline.snapshot.as_ref().expect("snapshot");
    assert_eq!(snapshot.name.to_string(), "debian-12-{{ build.date }}-{{ build.time }}");
    assert_eq!((snapshot.min_disk, snapshot.properties[0].0.as_str()), (20, "cw_os"));
    let codes: Vec<&str> = buildable.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, ["no-checksum"]);
    assert_eq!((buildable.warnings[0].file.as_str(), buildable.warnings[0].line), ("os/debian/build.sh", 7));
    assert!(buildable.warnings[0].help.contains("[base.\"http://mirror/debian.qcow2\"]"));
}

#[test]
fn an_edit_changes_what_reads_it() {
    assert_eq!(changed("os/debian/build.sh", &BUILD.replace("s/debian/", "s/ubuntu/")), "boot");
    assert_eq!(changed("os/debian/build.sh", &BUILD.replace("=debian.qcow2", "=debian-2.qcow2")), "boot");
    assert_eq!(changed("os/debian/build-vars.template.yml", &format!("# about\n{VARS}")), "");
    assert_eq!(changed("os/debian/build-vars.template.yml", &VARS.replace(": Debian\n", ": debian\n")), "snapshot");
    assert_eq!(changed("os/debian/build-vars.template.yml", &format!("{VARS}vm_flavor: 21\n")), "boot");
    assert_eq!(changed("os/debian/ansible/bootstrap.yml", "- hosts: all\n"), "provision");
    assert_eq!(changed("os/build.packer.json", &TEMPLATE.replace("echo", "printf")), "provision");
    assert_eq!(changed("os/debian/README.md", "about"), "");
    assert_eq!(changed("os/build.sh", "another"), "");
}

#[test]
fn what_cannot_be_built_says_what_it_lacks() {
    let reading = look(&factory().with("os/ubuntu/build.sh", "BASENAME=x\nwget http://m/x.img\n"));
    let refused = reading.bundles.iter().filter_map(|bundle| Some((&bundle.path, bundle.verdict.as_ref().err()?)));
    let elsewhere = reading.elsewhere.iter().map(|(path, why)| (path, why));
    let told: String = refused.chain(elsewhere).map(|(path, why)| format!("{path}: {}\n", why.reason)).collect();
    insta::assert_snapshot!(told, @r"
    os/ubuntu: build-vars.template.yml is missing
    os/windows: build.sh is missing
    images_fe/bundle-lamp: it is made for another cloud, by a script of its own; to be built here it lacks build-vars.yml and a place in images/bundle-*
    os_fe/debian: it is made for another cloud, by a script of its own; to be built here it lacks build-vars.template.yml, build.sh, ansible/bootstrap.yml and a place in os/*
    ");
    let ours = factory().with("pipelines/x.yml", "version: 1\nbundles: [x/*]\nstages: [ { boot: { image: y } } ]\n");
    let reading = look(&ours);
    assert!(
        reading.bundles.is_empty() && reading.elsewhere.is_empty(),
        "a repository with pipelines says itself what it has"
    );
}
