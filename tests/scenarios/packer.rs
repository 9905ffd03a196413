//! Repositories of today's factory: no pipeline of their own, bundles that a packer template provisions.

use factoryd::engine::ports::PortError;

use crate::factory::Factory;
use crate::world::Trouble;

/// A template with these provisioners.
fn template(provisioners: &str) -> String {
    format!(
        r#"{{
  "variables": {{ "source_image": "unknown", "image_name": "unknown", "bundle_path": "unknown", "flavor": "42" }},
  "builders": [{{
    "type": "openstack", "ssh_username": "root", "flavor": "{{{{ user `flavor` }}}}", "ssh_pty": true,
    "image_name": "{{{{ user `image_name` }}}}", "source_image": "{{{{ user `source_image` }}}}"
  }}],
  "provisioners": [{provisioners}]
}}
"#
    )
}

/// A repository whose bundle `images/bundle-web` is provisioned so.
fn factory(provisioners: &str) -> Factory {
    let mut factory = Factory::empty();
    factory.bundle("images/bundle-web", "debian");
    factory.clone.write("images/bundle-web/ansible/bootstrap.yml", "- hosts: local\n");
    factory.clone.write("images/build.packer.json", &template(provisioners));
    factory.clone.write("images/build.sh", "#!/bin/sh\n");
    factory.clone.write("images/setup/one.sh", "#!/bin/sh\r\necho one\r\n");
    factory.clone.write("images/setup/two.sh", "#!/bin/sh\necho two\n");
    factory.clone.commit();
    factory
}

fn deliver(provisioners: &str) -> Factory {
    let mut factory = factory(provisioners);
    factory.push();
    factory.settle();
    factory
}

/// What was done in machines, without the rest.
fn done(factory: &Factory) -> Vec<String> {
    let is_inside = |line: &&String| ["run ", "upload ", "ansible "].iter().any(|word| line.starts_with(word));
    factory.world.state().script.iter().filter(is_inside).cloned().collect()
}

const GOOD: &str = "passed: boot passed, provision passed, snapshot passed, render passed";
const RUN: &str = "run chmod +x /tmp/factoryd-script.sh; PACKER_BUILDER_TYPE='openstack' PACKER_BUILD_NAME='openstack'  \
                   /tmp/factoryd-script.sh";

#[test]
fn a_bundle_without_a_pipeline_is_built_by_its_packer_template() {
    let mut factory = deliver(
        r#"{ "type": "shell", "inline": ["echo {{ user `image_name` }}", "echo two"] },
           { "type": "ansible", "playbook_file": "{{ user `bundle_path` }}/ansible/bootstrap.yml", "host_alias": "local" },
           { "type": "file", "source": "setup", "destination": "/opt" },
           { "type": "shell", "script": "setup/one.sh", "environment_vars": ["WHAT=it's"],
             "execute_command": "{{ .Vars }} sudo -E sh '{{ .Path }}'" }"#,
    );
    assert_eq!(factory.ended(1), GOOD);
    let ours = "/tmp/factoryd-script.sh";
    assert_eq!(
        done(&factory),
        [
            format!("upload {ours}"),
            RUN.to_owned(),
            format!("run rm -f '{ours}'"),
            "ansible images/bundle-web/ansible/bootstrap.yml".to_owned(),
            "run [ -d '/opt' ]".to_owned(),
            "upload /opt/setup".to_owned(),
            format!("upload {ours}"),
            format!(
                "run PACKER_BUILDER_TYPE='openstack' PACKER_BUILD_NAME='openstack' WHAT='it'\"'\"'s'  sudo -E sh '{ours}'"
            ),
            format!("run rm -f '{ours}'"),
        ]
    );
    let image = factory.served("images/bundle-web").expect("an image").image;
    assert_eq!(image.name, "bundle-web-2026-11-231402");
    let log = factory.artifact(1, "packer.latest.log");
    assert!(log.contains("bundle-web-2026-11-231402") && log.contains("two") && log.contains("one"), "{log}");

    // A comment of the template builds nothing; another command builds.
    let edited = template("").replacen('{', "{ \"_comment\": \"x\",", 1);
    let provisioners = factory.clone.files["images/build.packer.json"].0.clone();
    let body = provisioners.split_once("\"provisioners\": ").expect("provisioners").1.to_owned();
    let commented = format!(
        "{}{body}",
        edited.split_once("\"provisioners\": ").expect("provisioners").0.to_owned() + "\"provisioners\": "
    );
    factory.deliver(&[("images/build.packer.json", &commented)]);
    assert_eq!(factory.said("images/bundle-web"), "unchanged: boot hit, provision hit, snapshot hit, render hit");
    factory.edit("images/build.packer.json", "echo two", "echo three");
    factory.clone.commit();
    factory.push();
    assert_eq!(factory.said("images/bundle-web"), "build: boot hit, provision changed, snapshot miss, render miss");
    factory.settle();
}

#[test]
fn a_reboot_in_the_middle_is_waited_for_where_it_is_expected() {
    let steps = |expected: &str| {
        format!(
            r#"{{ "type": "shell", "inline": ["reboot"] {expected} }}, {{ "type": "shell", "inline": ["echo after"] }}"#
        )
    };
    let mut expected = factory(&steps(", \"expect_disconnect\": true"));
    expected.world.next("run chmod", Trouble::Reboot(2));
    expected.push();
    expected.settle();
    assert_eq!(expected.ended(1), GOOD);
    let log = expected.artifact(1, "packer.latest.log");
    assert!(log.contains("the connection was cut, as the step expects") && log.contains("after"), "{log}");

    let mut unexpected = factory(&steps(""));
    unexpected.world.next("run chmod", Trouble::Reboot(0));
    unexpected.push();
    unexpected.settle();
    assert!(unexpected.ended(1).starts_with("failed: boot passed, provision failed"), "{}", unexpected.ended(1));
}

#[test]
fn a_provisioner_that_fails_is_done_again_as_a_whole() {
    let provisioner = r#"{ "type": "shell", "scripts": ["setup/one.sh", "setup/two.sh"], "max_retries": 2,
                           "remote_folder": "/opt", "pause_before": "1ms", "pause_after": "1ms" }"#;
    let mut factory = factory(provisioner);
    // The second script's second run.
    factory.world.next("upload", Trouble::Fail(PortError::failed("no")));
    factory.push();
    factory.settle();
    assert_eq!(factory.ended(1), GOOD);
    assert_eq!(factory.world.count("run chmod"), 2);
    let journal = factory.journal(1).join(", ");
    let again = "step 1 started: script, step 1 Failed, step 1 started: script, step 1 Passed, step 2 started: script";
    assert!(journal.contains(again), "{journal}");

    let mut hopeless = self::factory(&provisioner.replace("setup/two.sh", "setup/bad.sh"));
    hopeless.clone.write("images/setup/bad.sh", "#!/bin/sh\nfail always\n");
    hopeless.clone.commit();
    hopeless.push();
    hopeless.settle();
    assert!(hopeless.ended(1).starts_with("failed"), "{}", hopeless.ended(1));
    assert_eq!(hopeless.world.count("run chmod"), 6);
}

#[test]
fn exit_codes_are_good_that_the_template_calls_valid() {
    let codes = |codes: &str| format!(r#"{{ "type": "shell", "inline": ["exit 3"], "valid_exit_codes": [{codes}] }}"#);
    assert_eq!(deliver(&codes("0, 3")).ended(1), GOOD);
    assert!(deliver(&codes("0, 4")).ended(1).starts_with("failed"));
}

#[test]
fn a_playbook_that_the_guest_runs_is_laid_out_beside_its_inventory() {
    let mut factory = self::factory(
        r#"{ "type": "ansible-local", "playbook_file": "{{ user `bundle_path` }}/ansible/bootstrap.yml",
             "playbook_dir": "{{ user `bundle_path` }}/ansible", "inventory_groups": ["local"], "extra_arguments": ["-v"] }"#,
    );
    factory.push();
    factory.settle();
    assert_eq!(factory.ended(1), GOOD);
    let at = "/tmp/packer-provisioner-ansible-local";
    let done = done(&factory);
    let uploads =
        [format!("upload {at}"), format!("upload {at}/bootstrap.yml"), format!("upload {at}/factoryd-inventory")];
    assert_eq!(done[1..4], uploads);
    assert!(
        done[4].contains(&format!("ansible-playbook {at}/bootstrap.yml")) && done[4].contains(" -v -c local"),
        "{done:?}"
    );
    assert_eq!(done[5], format!("run rm -rf '{at}'"));
}
