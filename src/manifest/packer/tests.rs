//! What templates become, and what their authors are told. The shapes are those that factories have; the words are ours.

use super::super::forest::Forest;
use super::super::reading::{BundleReading, Reading};
use super::super::{Cache, read};
use crate::domain::id::RepoName;
use crate::domain::inputs::Input;
use crate::domain::path::RepoPath;
use crate::domain::pipeline::{Action, BaseImage, Pipeline, Stage, Step};
use crate::domain::tree::EntryKind;

/// A template like those of today's factory.
const TEMPLATE: &str = r#"{
  "_comment": "for everybody",
  "variables": {
    "source_image": "unknown",
    "image_name": "unknown",
    "build_flavor": "42",
    "network": "{{ env `FACTORY_NETWORK_ID` }}",
    "group": "{{ env `FACTORY_SECURITY_GROUP_NAME` }}",
    "bundle_path": "unknown"
  },
  "builders": [
    {
      "type": "openstack",
      "ssh_username": "cloud",
      "flavor": "{{ user `build_flavor` }}",
      "image_name": "{{ user `image_name` }}",
      "source_image": "{{ user `source_image` }}",
      "security_groups": ["{{ user `group` }}"],
      "networks": "{{ user `network` }}",
      "communicator": "ssh",
      "ssh_pty": true,
      "ssh_timeout": "5m"
    }
  ],
  "provisioners": [
    { "type": "shell", "inline": ["sudo apt-get update", "echo '{{ user `image_name` }}'"] },
    {
      "type": "ansible",
      "playbook_file": "{{ user `bundle_path` }}/ansible/bootstrap.yml",
      "host_alias": "local"
    },
    { "type": "shell", "inline": "sudo sync" }
  ]
}
"#;

const VARS: &str = "bundle:\n  name: bundle-web\n  img_base: 185e1975-c9c5-4358-909e-5e329808902e\n";

/// A repository of today's kind with one bundle.
fn forest(template: &str) -> Forest {
    Forest::new(&[
        ("images/build.packer.json", template),
        ("images/ansible_local_inventory", "[local]\n127.0.0.1 ansible_connection=local\n"),
        ("images/bundle-web/build-vars.yml", VARS),
        ("images/bundle-web/ansible/bootstrap.yml", "- hosts: local\n  tasks: []\n"),
        ("images/bundle-web/output/a.j2", "{{ result_img_id }}\n"),
    ])
}

fn reading(forest: &Forest) -> Reading {
    read(forest, &RepoName::from("factory"), &Cache::default()).expect("a reading")
}

fn only(forest: &Forest) -> BundleReading {
    let mut reading = reading(forest);
    assert_eq!(reading.faults, []);
    reading.bundles.pop().expect("a bundle")
}

fn pipeline(forest: &Forest) -> Pipeline {
    match only(forest).verdict {
        Ok(buildable) => buildable.pipeline.as_ref().clone(),
        Err(why) => panic!("{}\n{:#?}", why.reason, why.faults),
    }
}

fn steps(template: &str) -> Vec<Step> {
    steps_of(&forest(template))
}

fn steps_of(forest: &Forest) -> Vec<Step> {
    pipeline(forest).provision.expect("provision").steps.to_vec()
}

/// A template with these provisioners.
fn with(provisioners: &str) -> String {
    format!(
        "{{\n\"variables\": {{\"bundle_path\": \"\", \"a\": \"b\"}},\n\"builders\": [{{\"type\": \"openstack\", \
         \"name\": \"cloud\"}}],\n\"provisioners\": [\n{provisioners}\n]\n}}\n"
    )
}

/// What is wrong, as `FILE:LINE:COLUMN message`, with what to do.
fn told(template: &str) -> Vec<String> {
    told_of(&forest(template))
}

fn told_of(forest: &Forest) -> Vec<String> {
    match only(forest).verdict {
        Ok(_) => Vec::new(),
        Err(why) if why.faults.is_empty() => vec![why.reason],
        Err(why) => why.faults.iter().map(|fault| fault.to_string().replace(", for images/bundle-web", "")).collect(),
    }
}

fn warned(forest: &Forest) -> Vec<String> {
    let verdict = only(forest).verdict.expect("buildable");
    verdict.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_template_of_todays_factory_becomes_stages_and_steps() {
    let pipeline = pipeline(&forest(TEMPLATE));
    let boot = &pipeline.boot;
    assert_eq!(boot.image, BaseImage::Named("185e1975-c9c5-4358-909e-5e329808902e".into()));
    assert_eq!((boot.user.as_str(), boot.timeout.as_secs(), boot.terminal), ("cloud", 300, true));
    assert_eq!(boot.placement.flavor.as_deref(), Some("42"));
    assert_eq!(boot.placement.networks, ["$FACTORY_NETWORK_ID"]);
    assert_eq!(boot.placement.security_groups, ["$FACTORY_SECURITY_GROUP_NAME"]);
    let steps = pipeline.provision.expect("provision").steps;
    let places: Vec<(&str, usize)> = steps.iter().map(|step| (step.written.0.as_str(), step.written.1)).collect();
    let file = "images/build.packer.json";
    assert_eq!(places, [(file, 26), (file, 27), (file, 32)]);
    let Action::Shell { text, laid: Some(laid) } = &steps[0].action else { panic!("lines") };
    assert_eq!(text.to_string(), "sudo apt-get update\necho 'bundle-web-{{ build.stamp }}'");
    assert_eq!(laid.shebang, "/bin/sh -e");
    assert_eq!(
        laid.command.to_string(),
        "chmod +x /tmp/factoryd-script.sh; PACKER_BUILDER_TYPE='openstack' PACKER_BUILD_NAME='openstack'  \
         /tmp/factoryd-script.sh"
    );
    let Action::Ansible { playbook, play, .. } = &steps[1].action else { panic!("a playbook") };
    assert_eq!((playbook.to_string().as_str(), play.host.as_str()), ("ansible/bootstrap.yml", "local"));
    assert_eq!(play.directory, RepoPath::new("images"));
    let Action::Shell { text, .. } = &steps[2].action else { panic!("lines") };
    assert_eq!(text.to_string(), "sudo sync");
}

#[test]
fn a_playbook_that_the_guest_runs_is_staged_with_its_inventory() {
    let steps = steps(&with(
        r#"{ "type": "ansible-local", "extra_arguments": ["-vvv", "-e 'x={{ user `a` }}'"],
             "playbook_dir": "{{ user `bundle_path` }}/ansible", "inventory_file": "ansible_local_inventory",
             "playbook_file": "{{ user `bundle_path` }}/ansible/bootstrap.yml" }"#,
    ));
    let Action::AnsibleLocal { staged: Some(staged), .. } = &steps[0].action else { panic!("staged") };
    let uploads: Vec<String> = staged.uploads.iter().map(|(from, to)| format!("{from} {to}")).collect();
    let at = "/tmp/packer-provisioner-ansible-local";
    assert_eq!(
        uploads,
        [
            format!("images/bundle-web/ansible {at}"),
            format!("images/bundle-web/ansible/bootstrap.yml {at}/bootstrap.yml"),
            format!("images/ansible_local_inventory {at}/ansible_local_inventory"),
        ]
    );
    assert_eq!(
        staged.command.to_string(),
        format!(
            "cd {at} && ANSIBLE_FORCE_COLOR=1 PYTHONUNBUFFERED=1 ansible-playbook {at}/bootstrap.yml --extra-vars \
             \"packer_build_name=cloud packer_builder_type=openstack\" -vvv -e 'x=b' -c local -i \
             {at}/ansible_local_inventory"
        )
    );
    assert!(!staged.stays);
}

#[test]
fn scripts_run_as_execute_command_says() {
    let forest = forest(&with(
        r#"{
  "type": "shell",
  "scripts": [
    "setup/one.sh",
    "setup/two.sh"
  ],
  "environment_vars": ["B=it's", "A={{ user `a` }} {{ build_name }}"],
  "execute_command": "echo x | {{ .Vars }} sudo -S -E sh '{{ .Path }}'",
  "valid_exit_codes": [0, 3],
  "expect_disconnect": true,
  "pause_before": "1m30s", "pause_after": "2s",
  "timeout": "10m",
  "max_retries": "2",
  "remote_folder": "/opt",
  "skip_clean": true
}"#,
    ))
    .with("images/setup/one.sh", "#!/bin/sh\n")
    .with("images/setup/two.sh", "#!/bin/sh\n");
    let steps = steps_of(&forest);
    let said: Vec<(String, usize)> = steps
        .iter()
        .map(|step| match &step.action {
            Action::Script { path, .. } => (path.to_string(), step.written.1),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said, [("/images/setup/one.sh".to_owned(), 8), ("/images/setup/two.sh".to_owned(), 9)]);
    let Action::Script { laid: Some(laid), .. } = &steps[0].action else { panic!("laid") };
    assert_eq!(
        laid.command.to_string(),
        r#"echo x | A='b cloud' B='it'"'"'s' PACKER_BUILDER_TYPE='openstack' PACKER_BUILD_NAME='cloud'  sudo -S -E sh '/opt/factoryd-script.sh'"#
    );
    assert!(laid.stays);
    let course = |index: usize| &steps[index].course;
    assert_eq!((course(0).exit_codes.as_slice(), course(0).expect_disconnect), (&[0, 3][..], true));
    let seconds = |index: usize| (course(index).pause_before.as_secs(), course(index).pause_after.as_secs());
    assert_eq!((seconds(0), seconds(1)), ((90, 0), (0, 2)));
    assert_eq!((course(0).earlier, course(1).earlier, course(1).max_retries), (0, 1, 2));
    assert_eq!(steps[1].timeout.map(|time| time.as_secs()), Some(600));
}

#[test]
fn variables_can_come_in_a_file_and_in_a_format_of_their_own() {
    let laid = |keys: &str| {
        let steps = steps(&with(&format!("{{ \"type\": \"shell\", \"inline\": [\"true\"], {keys} }}")));
        let Action::Shell { laid: Some(laid), .. } = steps[0].action.clone() else { panic!("lines") };
        laid
    };
    let by_file = laid(r#""use_env_var_file": true, "environment_vars": ["X=1"]"#);
    assert_eq!(
        by_file.command.to_string(),
        "chmod +x /tmp/factoryd-script.sh; . /tmp/factoryd-variables.sh && /tmp/factoryd-script.sh"
    );
    let (path, text) = by_file.variables.expect("a file");
    assert_eq!(path, "/tmp/factoryd-variables.sh");
    assert_eq!(
        text.to_string(),
        "export PACKER_BUILDER_TYPE='openstack'\nexport PACKER_BUILD_NAME='cloud'\nexport X='1'\n"
    );
    let formatted = laid(r#""env_var_format": "%s=%s;", "environment_vars": ["X=1=2"], "inline_shebang": "/bin/bash""#);
    assert!(formatted.command.to_string().contains("X=1=2;"), "{}", formatted.command);
    assert_eq!(formatted.shebang, "/bin/bash");
}

#[test]
fn what_differs_between_builders_is_read_for_the_one_that_is_meant() {
    let template = r#"{
  "builders": [
    { "type": "amazon-ebs" },
    { "type": "qemu", "name": "kvm", "disk_size": "20G", "memory": 2048, "cpus": "2", "headless": true, "ssh_username": "root" }
  ],
  "provisioners": [
    { "type": "powershell", "inline": ["dir"], "only": ["amazon-ebs"] },
    { "type": "shell", "inline": ["one", "two"], "override": { "kvm": { "inline": ["{{ build_type }}"] } } },
    { "type": "shell", "inline": ["three"], "except": ["kvm"] }
  ],
  "post-processors": [[{ "type": "vagrant", "only": ["amazon-ebs"] }]]
}"#;
    let unnamed = told(template);
    assert_eq!(unnamed[0], "images/build.packer.json:2:3: the template has 2 builders, and none of them is named");
    let forest = forest(template).with("images/bundle-web/build-vars.yml", &[VARS, "packer_builder: kvm\n"].concat());
    let pipeline = pipeline(&forest);
    assert_eq!((pipeline.boot.cpus, pipeline.boot.memory, pipeline.boot.disk), (2, 2 << 30, Some(20 << 30)));
    let steps = pipeline.provision.expect("provision").steps;
    assert_eq!(steps.len(), 1);
    // Lists are laid over item by item, as packer does it.
    let Action::Shell { text, .. } = &steps[0].action else { panic!("lines") };
    assert_eq!(text.to_string(), "qemu\ntwo");
}

#[test]
fn a_text_for_a_list_is_cut_at_its_commas() {
    let steps = steps(&with(
        r#"{ "type": "shell", "inline": "echo {{ user `a` }}, echo c", "valid_exit_codes": "0,2",
             "environment_vars": "X=1,Y=2" }"#,
    ));
    let Action::Shell { text, laid: Some(laid) } = &steps[0].action else { panic!("lines") };
    assert_eq!(text.to_string(), "echo b\n echo c");
    assert_eq!(steps[0].course.exit_codes, [0, 2]);
    assert!(laid.command.to_string().ends_with("X='1' Y='2'  /tmp/factoryd-script.sh"), "{}", laid.command);
}

#[test]
fn final_glance_options_win() {
    let with_options = |options: &str| {
        let vars = format!("{VARS}  properties: {{ os: x, cpus: 2 }}\nfinal_glance_options: {options}\n");
        forest(TEMPLATE).with("images/bundle-web/build-vars.yml", &vars)
    };
    let snapshot = pipeline(&with_options("--min-disk 7 --property os=y --protected")).snapshot.expect("snapshot");
    let properties: Vec<String> = snapshot.properties.iter().map(|(key, text)| format!("{key}={text}")).collect();
    assert_eq!((snapshot.min_disk, properties.join(" ")), (7, "cpus=2 os=y protected=true".to_owned()));
    assert_eq!(pipeline(&with_options("\"  \"")).snapshot.expect("snapshot").min_disk, 20);
    assert_eq!(changed(&with_options("--min-disk  7"), &with_options("' --min-disk=7'")), [""; 0]);
    assert_eq!(changed(&with_options("--min-disk 7"), &with_options("--min-disk 8")), ["snapshot"]);
    let told = told_of(&with_options("--owner me"));
    assert_eq!(told, ["images/bundle-web/build-vars.yml:5:1: the flag `--owner` is not understood"]);
}

#[test]
fn files_are_copied_as_scp_copies_them() {
    let forest = forest(&with(
        r#"{ "type": "file", "source": "files/", "destination": "/opt/" },
{ "type": "file", "sources": ["files/a", "files"], "destination": "notes" }"#,
    ))
    .with("images/files/a", "a");
    let said: Vec<String> = steps_of(&forest)
        .iter()
        .map(|step| match &step.action {
            Action::Upload { from, to, keeps_name, .. } => format!("{from} {to} {keeps_name} {}", step.written.1),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said, ["/images/files /opt/ false 5", "/images/files/a notes true 6", "/images/files notes true 6"]);
}

#[test]
fn a_remote_playbook_is_given_inventory_arguments_and_environment() {
    let forest = forest(&with(
        r#"{ "type": "ansible", "playbook_file": "bundle-web/ansible/bootstrap.yml", "groups": ["local", "web"],
             "empty_groups": "none", "user": "admin", "use_proxy": false, "inventory_directory": "stock",
             "extra_arguments": ["-e", "@more.yml", "--tags={{ user `a` }}"], "local_port": 22222,
             "ansible_ssh_extra_args": ["-o ForwardAgent=yes"],
             "ansible_env_vars": ["ANSIBLE_ROLES_PATH={{ template_dir }}/roles", "ANSIBLE_NOCOLOR=1"] }"#,
    ))
    .with("images/stock/group_vars/all.yml", "x: 1\n")
    .with("images/more.yml", "y: 2\n");
    let steps = steps_of(&forest);
    let Action::Ansible { extra_arguments, play, .. } = &steps[0].action else { panic!("a playbook") };
    let arguments: Vec<String> = extra_arguments.iter().map(ToString::to_string).collect();
    assert_eq!(arguments, ["-e", "@more.yml", "--tags=b"]);
    assert_eq!((play.host.as_str(), play.user.as_deref(), play.user_logs_in), ("default", Some("admin"), true));
    assert_eq!(
        (play.groups.as_slice(), play.empty_groups.as_slice()),
        (&["local".to_owned(), "web".into()][..], &["none".to_owned()][..])
    );
    assert_eq!(play.inventory_directory, RepoPath::new("images/stock"));
    assert_eq!(play.ssh_arguments, "-o ForwardAgent=yes");
    let env: Vec<String> = steps[0].env.iter().map(|(name, text)| format!("{name}={text}")).collect();
    assert_eq!(env, ["ANSIBLE_ROLES_PATH=./roles", "ANSIBLE_NOCOLOR=1"]);
    let inputs = inputs_of(&forest, Stage::Provision);
    assert!(
        inputs.iter().any(|input| input == "/images/more.yml")
            && inputs.iter().any(|i| i == "/images/stock/group_vars/all.yml"),
        "{inputs:?}"
    );
}

fn inputs_of(forest: &Forest, stage: Stage) -> Vec<String> {
    let buildable = only(forest).verdict.expect("buildable");
    buildable.stage(stage).expect("the stage").own.iter().map(Input::subject).collect()
}

#[test]
fn branches_are_taken_as_go_takes_them() {
    let shell = |text: &str| {
        let line = format!(r#"{{ "type": "shell", "inline": ["{}"] }}"#, text.replace('"', "\\\""));
        let template = with(&line).replace("\"variables\": {", r#""variables": { "set": "x", "unset": "", "#);
        match steps(&template).remove(0).action {
            Action::Shell { text, .. } => text.to_string(),
            other => panic!("no shell: {other:?}"),
        }
    };
    for (text, said) in [
        ("a{{ if user `set` }}b{{ end }}c", "abc"),
        ("a{{ if user `unset` }}b{{ end }}c", "ac"),
        ("{{ if user `unset` }}a{{ else if eq (user `set`) `y` `x` }}b{{ else }}c{{ end }}", "b"),
        ("{{ if ne build_type `openstack` }}a{{ else if user `unset` }}b{{ else }}c{{ end }}", "c"),
        ("{{ if and (user `set`) (not (user `unset`)) -}} a {{- if false }}b{{ else }}c{{ end }}{{ end }}", "ac"),
        ("{{ or (user `unset`) `d` }}{{ if 0 }}e{{ end }}", "d"),
    ] {
        assert_eq!(shell(text), said, "{text}");
    }
    let told = |text: &str| told(&with(&format!(r#"{{ "type": "shell", "inline": ["{text}"] }}"#))).join("\n");
    assert!(told("{{ if true }}").ends_with("an `if` has no `end`"), "{}", told("{{ if true }}"));
    assert!(told("a{{ end }}").ends_with("an `end` has no `if`"), "{}", told("a{{ end }}"));
    assert!(told("{{ if timestamp }}a{{ end }}").ends_with("what only the build knows"));
    assert!(told("{{ range user `x` }}a{{ end }}").contains("`range` is not understood"));
    let kinds = told("{{ if eq (user `set`) 1 }}a{{ end }}");
    assert!(kinds.ends_with("`eq` compares values of different kinds"), "{kinds}");
}

/// Thirty variables, each ten times the one before: more characters than there are atoms in anything.
#[test]
fn a_bomb_of_variables_is_stopped_and_said_once() {
    let level = |number: usize| match number {
        0 => r#""v0": "0123456789""#.to_owned(),
        _ => format!(r#""v{number}": "{}""#, format!("{{{{ user `v{}` }}}}", number - 1).repeat(10)),
    };
    let levels: Vec<String> = (0..30).map(level).collect();
    let shells = r#"{ "type": "shell", "inline": ["{{ user `v29` }}"] },"#.repeat(3);
    let template = with(shells.trim_end_matches(',')).replace("\"a\": \"b\"", &levels.join(",\n"));
    let told = told(&template);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ends_with("the templates of a bundle expand to more than 8 MiB"), "{told:?}");
}

#[test]
fn what_of_a_root_has_no_effect_is_no_fault() {
    let template = with("").replacen(
        '{',
        r#"{ "_comment": "x", "description": "x", "min_packer_version": "1.6.0", "sensitive-variables": ["bundle_path"],
             "post-processors": null, "error-cleanup-provisioner": null, "#,
        1,
    );
    assert_eq!(told(&template), Vec::<String>::new());
    assert_eq!(told(&template.replace("\"provisioners\"", "\"Provisioners\"")), Vec::<String>::new());
    let warned = warned(&forest(&template));
    assert!(
        warned.iter().any(|line| line.ends_with("the values of `sensitive-variables` stand in the log")),
        "{warned:?}"
    );
}

#[test]
fn what_is_not_understood_is_named_with_its_key_and_line() {
    let told = told(
        r#"{
  "variables": {
    "nothing": null,
    "number": 3,
    "round": "{{ user `about` }}", "about": "{{ user `round` }}",
    "secret": "{{ vault `a` `b` }}"
  },
  "builders": [
    { "type": "openstack",
      "user_data_file": "cloud-init",
      "flavour": "2",
      "communicator": "winrm",
      "networks": ["{{ user `net` }}"] }
  ],
  "provisioners": [
    { "type": "shell", "inline": ["date {{ isotime }}"],
      "execute_comand": "x" },
    { "type": "shell", "script": "../../outside.sh" },
    { "type": "shell", "inline": ["x"], "script": "y", "pause_before": "soon" },
    { "type": "shell" },
    { "type": "file", "source": "a", "destination": "/b",
      "direction": "download" },
    { "type": "puppet-masterless", "manifest_file": "puppet/site.pp" },
    { "type": "ansible",
      "playbook_file": "none.yml",
      "galaxy_file": "requirements.yml",
      "command": "./wrapper" },
    { "type": "shell", "only": ["qemu"], "inline": ["{{ range true }}"] },
    { "inline": ["x"] }
  ],
  "post-processors": ["manifest",
    { "type": "vagrant" }],
  "provisoners": []
}
"#,
    );
    insta::assert_snapshot!(told.join("\n"), @r#"
    images/build.packer.json:3:5: the variable `nothing` has no value
    images/build.packer.json:4:15: the variable `number` takes a text
    images/build.packer.json:5:46: the variable `round` leads back to itself
    images/build.packer.json:6:16: the template function `vault` is not understood
    images/build.packer.json:10:7: the key `user_data_file` of the builder `openstack` is not understood yet
    images/build.packer.json:11:7: unknown key `flavour` in the builder `openstack`
    images/build.packer.json:12:23: the communicator `winrm` is not understood
    images/build.packer.json:17:7: unknown key `execute_comand` in the provisioner `shell`
    images/build.packer.json:18:34: the path `../../outside.sh` leaves the repository
    images/build.packer.json:19:24: `inline` can't stand with a script
    images/build.packer.json:19:72: `pause_before` takes a time such as `"10s"`, `"5m"` or `"1h30m"`, and this is `soon`
    images/build.packer.json:20:5: the provisioner `shell` says nothing to run
    images/build.packer.json:22:20: `direction: download` is not understood
    images/build.packer.json:23:15: the provisioner `puppet-masterless` is not understood
    images/build.packer.json:26:7: the key `galaxy_file` of the provisioner `ansible` is not understood yet
    images/build.packer.json:27:18: `command` is not understood
    images/build.packer.json:28:33: `only` names the builder `qemu`, which the template does not have
    images/build.packer.json:29:5: a provisioner lacks `type`
    images/build.packer.json:31:23: the post-processor `manifest` is not understood
    images/build.packer.json:32:15: the post-processor `vagrant` is not understood
    images/build.packer.json:33:3: unknown key `provisoners` in a template
    "#);
}

#[test]
fn what_is_no_template_is_said_once() {
    assert_eq!(
        told("{ \"builders\": [ }"),
        ["images/build.packer.json:1:17: this is not JSON: a value can't begin with `}`"]
    );
    assert_eq!(told("[]"), ["images/build.packer.json:1:1: a template is a map"]);
    assert_eq!(told("{}"), ["images/build.packer.json:1:1: the template lacks `builders`"]);
    let hcl = "source \"qemu\" \"x\" {\n}\nbuild {\n}\n";
    let expected = "`images/build.packer.json` is written in HCL2, which is not understood";
    assert_eq!(told(hcl), [format!("images/build.packer.json: {expected}")]);
    let vars = [VARS, "packer_file: new.pkr.hcl\n"].concat();
    let forest = forest(TEMPLATE).with("images/bundle-web/build-vars.yml", &vars);
    assert_eq!(told_of(&forest), ["images/bundle-web/build-vars.yml:4:1: `images/new.pkr.hcl` is missing"]);
    let told = told_of(&forest.with("images/new.pkr.hcl", hcl));
    assert_eq!(told, ["images/new.pkr.hcl: `images/new.pkr.hcl` is written in HCL2, which is not understood"]);
}

#[test]
fn what_a_template_names_must_be_there() {
    let told = |provisioner: &str| told(&with(provisioner));
    let missing = |key: &str, path: &str| {
        let found = told(&format!("{{ \"type\": \"shell\",\n  \"{key}\": \"{path}\" }}"));
        found.join("; ")
    };
    assert_eq!(missing("script", "setup.sh"), "images/build.packer.json:6:13: `images/setup.sh` is missing");
    let playbook = "{ \"type\": \"ansible\",\n \"playbook_file\": \"{{ user `bundle_path` }}/ansible/x.yml\" }";
    assert_eq!(told(playbook), ["images/build.packer.json:6:19: `images/bundle-web/ansible/x.yml` is missing"]);
    let inventory = "{ \"type\": \"ansible-local\", \"playbook_file\": \"bundle-web/ansible/bootstrap.yml\",\n \
                     \"inventory_file\": \"hosts\" }";
    assert_eq!(told(inventory), ["images/build.packer.json:6:20: `images/hosts` is missing"]);
    let link = forest(&with("{ \"type\": \"shell\", \"script\": \"link.sh\" }"));
    let link = link.put(b"images/link.sh", EntryKind::Link, b"/etc/passwd");
    assert!(told_of(&link)[0].contains("the link `images/link.sh` is absolute"), "{:?}", told_of(&link));
}

#[test]
fn a_playbook_for_the_factory_host_is_refused() {
    let forest =
        forest(TEMPLATE).with("images/bundle-web/ansible/bootstrap.yml", "---\n- name: x\n  hosts: localhost\n");
    let verdict = only(&forest).verdict.expect_err("unbuildable");
    assert!(
        verdict.reason.starts_with("images/bundle-web/ansible/bootstrap.yml:3:10: `hosts: localhost` is"),
        "{}",
        verdict.reason
    );
    assert!(verdict.faults[0].help.contains("images/build.packer.json:29"), "{}", verdict.faults[0].help);
    for good in ["all", "local", "\"{{ target }}\"", "all:!localhost", "[local]"] {
        let forest = forest.with("images/bundle-web/ansible/bootstrap.yml", &format!("- hosts: {good}\n"));
        assert_eq!(warned(&forest), Vec::<String>::new(), "{good}");
    }
    let nobody = forest.with("images/bundle-web/ansible/bootstrap.yml", "- hosts: webservers\n");
    assert_eq!(
        warned(&nobody),
        ["images/bundle-web/ansible/bootstrap.yml:1:10: `hosts: webservers` is nobody: this play does nothing"]
    );
}

#[test]
fn variables_that_reach_nothing_are_warned_of() {
    let vars = [VARS, "vm_flavor: 16\n"].concat();
    let forest = forest(TEMPLATE).with("images/bundle-web/build-vars.yml", &vars);
    assert_eq!(warned(&forest), ["images/bundle-web/build-vars.yml:4:1: `vm_flavor` changes nothing"]);
    let declared = TEMPLATE
        .replace("\"build_flavor\": \"42\"", "\"factory_flavor\": \"7\"")
        .replace("build_flavor", "factory_flavor");
    let forest = forest.with("images/build.packer.json", &declared);
    assert_eq!(warned(&forest), Vec::<String>::new());
    assert_eq!(pipeline(&forest).boot.placement.flavor.as_deref(), Some("16"));
}

#[test]
fn a_repository_without_anything_of_packers_runs_its_playbook() {
    let forest = forest(TEMPLATE).without("images/build.packer.json");
    assert!(matches!(&steps_of(&forest)[0].action, Action::Ansible { play, .. } if play.directory.is_none()));
    let todays = forest.with("images/build.sh", "#!/bin/sh\n");
    assert_eq!(told_of(&todays), ["images/build.packer.json: `images/build.packer.json` is missing"]);
}

#[test]
fn a_pipeline_names_a_template_with_variables_and_environment() {
    let template = r#"{
  "variables": { "greeting": "hello", "home": "{{ env `SHOP` }}", "must": null },
  "builders": [{ "type": "qemu" }, { "type": "openstack" }],
  "provisioners": [
    { "type": "shell", "inline": ["echo {{ user `greeting` }} {{ user `home` | upper }} {{ user `must` }}"] },
    { "type": "ansible", "playbook_file": "../images/bundle-web/ansible/bootstrap.yml" }
  ]
}"#;
    let pipeline = "version: 1\nbundles: [images/*]\nstages:\n  - boot: { image: \"{{ bundle.img_base }}\", user: root, cpus: 3 }\n  - \
                    provision:\n      steps:\n        - shell: echo before\n        - packer: { file: packer/x.json, builder: \
                    qemu, vars: { must: \"{{ bundle.name }}\", more: x } }\n          env: { SHOP: home }\n          network: \
                    none\n        - shell: echo after\n";
    let forest = Forest::new(&[
        ("packer/x.json", template),
        ("pipelines/p.yml", pipeline),
        ("images/bundle-web/build-vars.yml", VARS),
        ("images/bundle-web/ansible/bootstrap.yml", "- hosts: all\n"),
    ]);
    let steps = steps_of(&forest);
    let words: Vec<(&str, &str)> = steps.iter().map(|step| (step.action.word(), step.written.0.as_str())).collect();
    let (ours, theirs) = ("pipelines/p.yml", "packer/x.json");
    assert_eq!(words, [("shell", ours), ("shell", theirs), ("ansible", theirs), ("shell", ours)]);
    let Action::Shell { text, .. } = &steps[1].action else { panic!("lines") };
    assert_eq!(text.to_string(), "echo hello HOME bundle-web");
    assert_eq!(steps[2].network, crate::domain::pipeline::Network::None);
    assert_eq!(
        warned(&forest),
        ["packer/x.json:2:16: the pipeline gives the variable `more`, which the template does not use"]
    );
}

#[test]
fn what_the_pipeline_gives_needs_no_declaration() {
    let line = r#"{ "type": "shell", "inline": ["echo {{ user `release` }}"] }"#;
    let pipeline = "version: 1\nbundles: [images/*]\nstages:\n  - boot: { image: x, user: root }\n  - provision:\n      \
                    steps: [{ packer: { file: images/build.packer.json, vars: { release: \"12\" } } }]\n";
    let forest = forest(&with(line)).with("pipelines/p.yml", pipeline);
    let Action::Shell { text, .. } = &steps_of(&forest)[0].action else { panic!("lines") };
    assert_eq!(text.to_string(), "echo 12");
    let warned = warned(&forest).into_iter().filter(|line| line.contains("release")).collect::<Vec<_>>();
    assert_eq!(warned, Vec::<String>::new());
}

#[test]
fn times_and_ids_wait_for_the_build_and_count_as_text() {
    let line = |line: &str| with(&format!(r#"{{ "type": "shell", "inline": ["{line}"] }}"#));
    let text = |template: &str| match steps(template).remove(0).action {
        Action::Shell { text, .. } => text.to_string(),
        other => panic!("no shell: {other:?}"),
    };
    assert_eq!(text(&line("echo {{ timestamp }} {{uuid}}")), "echo {{ build.timestamp }} {{ build.uuid }}");
    assert_eq!(
        text(&line(r#"date {{ isotime \"20060102\" }}"#)),
        "date {{ build.utc-year }}{{ build.utc-month }}{{ build.utc-day }}"
    );
    assert!(
        text(&line("{{isotime}}")).ends_with("T{{ build.utc-hour }}:{{ build.utc-minute }}:{{ build.utc-second }}Z")
    );
    assert_eq!(changed(&forest(&line("x {{ isotime }}")), &forest(&line("x {{ isotime }}"))), [""; 0]);
    assert_eq!(changed(&forest(&line("x {{ isotime }}")), &forest(&line("x {{ isotime `2006` }}"))), ["provision"]);
    // Where something must be known beforehand, a time can't stand.
    let path = with(r#"{ "type": "shell", "script": "{{ timestamp }}.sh" }"#);
    assert_eq!(told(&path), ["images/build.packer.json:5:30: `script` must be known before a build begins"]);
}

#[test]
fn functions_of_go_give_what_go_gives() {
    let said = |text: &str| {
        let line = format!(r#"{{ "type": "shell", "inline": ["{}"] }}"#, text.replace('"', "\\\""));
        match steps(&with(&line)).remove(0).action {
            Action::Shell { text, .. } => text.to_string(),
            other => panic!("no shell: {other:?}"),
        }
    };
    // Asked of packer 1.6.6.
    for (text, expected) in [
        ("{{ printf `%s-%d` `a` 3 }}", "a-3"),
        ("{{ printf \"%05d|%-4s|%4s|%v|%%\" 7 `a` `b` 3 }}", "00007|a   |   b|3|%"),
        ("{{ user `a` | printf `%s!` }}", "b!"),
        ("{{ print `a` `b` 1 2 }}", "ab1 2"),
        ("{{ println `x` 1 }}", "x 1\n"),
        ("{{ len `abc` }}", "3"),
        ("{{ lt 1 2 }} {{ gt 1 2 }} {{le 2 2}} {{ge `a` `b`}}", "true false true false"),
        ("{{ packer_version }}", "1.6.6"),
        ("{{/* c */}}a{{- /* c */ -}} b", "ab"),
    ] {
        assert_eq!(said(text), expected, "{text}");
    }
    let told = |text: &str| told(&with(&format!(r#"{{ "type": "shell", "inline": ["{text}"] }}"#))).join("\n");
    assert!(
        told("{{ printf `%d` `a` }}").ends_with("`%d` is not understood here"),
        "{}",
        told("{{ printf `%d` `a` }}")
    );
    assert!(told("{{ printf `%99999d` 1 }}").ends_with("`%99999` is no width of a value"));
    assert!(told("{{ printf `%s` }}").ends_with("`%s` has no value"));
    assert!(told("{{ /* c */ }}").ends_with("`/` is not understood in an expression"));
}

#[test]
fn builders_are_called_what_their_names_come_to() {
    let template = r#"{
  "variables": { "release": "12", "bundle_path": "" },
  "builders": [
    { "type": "qemu", "name": "debian-{{ user `release` }}" },
    { "type": "qemu", "name": "other" }
  ],
  "provisioners": [
    { "type": "shell", "inline": ["{{ build_name }}"], "only": ["debian-{{ user `release` }}"] },
    { "type": "shell", "inline": ["x"], "only": ["other"] }
  ]
}"#;
    let vars = [VARS, "packer_builder: debian-12\n"].concat();
    let steps = steps_of(&forest(template).with("images/bundle-web/build-vars.yml", &vars));
    assert_eq!(steps.len(), 1);
    let Action::Shell { text, laid: Some(laid) } = &steps[0].action else { panic!("lines") };
    assert_eq!(text.to_string(), "debian-12");
    assert!(laid.command.to_string().contains("PACKER_BUILD_NAME='debian-12'"), "{}", laid.command);
    let timed = template.replace("user `release` }}\" }", "isotime }}\" }");
    let told = told_of(&forest(&timed).with("images/bundle-web/build-vars.yml", &vars));
    let late = "images/build.packer.json:4:31: a builder's name must be known beforehand";
    assert!(told.iter().any(|line| line == late), "{told:?}");
}

#[test]
fn what_packer_refuses_is_refused() {
    let shell = |keys: &str| told(&with(&format!("{{ \"type\": \"shell\", {keys} }}"))).join("\n");
    for nothing in [r#""inline": """#, r#""inline": []"#, r#""script": """#, r#""scripts": []"#] {
        assert!(shell(nothing).ends_with("the provisioner `shell` says nothing to run"), "{}", shell(nothing));
    }
    assert!(shell(r#""Inline": ["x"]"#).contains("unknown key `Inline` in the provisioner `shell`"));
    assert!(shell(r#""inline": ["x"], "Only": ["cloud"]"#).contains("unknown key `Only` in the provisioner `shell`"));
    let file = |keys: &str| told(&with(&format!("{{ \"type\": \"file\", {keys} }}"))).join("\n");
    assert!(file(r#""source": "x", "destination": """#).ends_with("the provisioner `file` lacks `destination`"));
    assert!(file(r#""source": "", "destination": "/x""#).ends_with("the provisioner `file` lacks `source`"));
    let root = |key: &str| told(&with("").replacen('{', &format!("{{ {key},"), 1)).join("\n");
    assert!(root(r#""description": 5"#).ends_with("`description` takes a text"));
    assert!(root(r#""sensitive-variables": "a""#).ends_with("`sensitive-variables` takes a list of names"));
    assert!(root(r#""min_packer_version": "x""#).ends_with("takes a version such as `1.6.0`"));
    let newer = root(r#""min_packer_version": "2.0.0""#);
    assert!(newer.ends_with("the template asks for packer `2.0.0`, and is read as 1.6.6 reads it"), "{newer}");
    assert_eq!(root(r#""min_packer_version": "1.6""#), "");
}

#[test]
fn what_packer_reads_before_override_can_not_stand_in_it() {
    let over = |key: &str| {
        let shell = format!(r#"{{ "type": "shell", "inline": ["x"], "override": {{ "cloud": {{ {key} }} }} }}"#);
        told(&with(&shell)).join("\n")
    };
    for (name, value) in [
        ("pause_before", r#""5s""#),
        ("max_retries", "2"),
        ("timeout", r#""5s""#),
        ("only", r#"["cloud"]"#),
        ("except", r#"["cloud"]"#),
        ("override", "{}"),
    ] {
        let said = over(&format!(r#""{name}": {value}"#));
        assert!(said.ends_with(&format!("`{name}` can't stand in `override`")), "{name}: {said}");
    }
    assert_eq!(over(r#""inline": ["y"], "valid_exit_codes": [0, 3]"#), "");
}

#[test]
fn a_template_of_a_newer_packer_is_read_and_its_author_is_told_as_which_one() {
    let with_version = |version: &str| with("").replacen('{', &format!("{{ \"min_packer_version\": \"{version}\","), 1);
    let told_of_version = |template: &str| -> Vec<String> {
        warned(&forest(template)).into_iter().filter(|line| line.contains("asks for packer")).collect()
    };
    for newer in ["1.6.7", "1.7.0", "v1.8", "1.15.3-dev"] {
        let template = with_version(newer);
        assert_eq!(told(&template), Vec::<String>::new(), "{newer}");
        let said = told_of_version(&template);
        let expected = format!("the template asks for packer `{newer}`, and is read as 1.6.6 reads it");
        assert!(matches!(said.as_slice(), [one] if one.ends_with(&expected)), "{newer}: {said:?}");
    }
    for known in ["1.6.6", "1.6", "0.8.0", ""] {
        assert_eq!(told_of_version(&with_version(known)), Vec::<String>::new(), "{known}");
    }
}

#[test]
fn everything_that_is_missing_is_said_at_once() {
    let template = with(
        r#"{ "type": "shell", "scripts": ["one.sh",
  "two.sh", "bundle-web/three.sh"] },
{ "type": "file", "source": "four", "destination": "/opt/" }"#,
    );
    let at = "images/build.packer.json";
    let expected = [
        format!("{at}:5:32: `images/one.sh` is missing"),
        format!("{at}:6:3: `images/two.sh` is missing"),
        format!("{at}:6:13: `images/bundle-web/three.sh` is missing"),
        format!("{at}:7:29: `images/four` is missing"),
    ];
    assert_eq!(told(&template), expected);
    let there = forest(&template).with("images/bundle-web/three.sh", "true\n");
    assert_eq!(told_of(&there).len(), 3);
    let reason = only(&there).verdict.expect_err("unbuildable").reason;
    assert_eq!(reason, "`images/one.sh` is missing, and 2 more");
}

/// The stages that a change does again.
fn changed(before: &Forest, after: &Forest) -> Vec<&'static str> {
    let [before, after] = [before, after].map(|forest| only(forest).verdict.expect("buildable"));
    let pairs = before.stages.iter().zip(&after.stages).filter(|(one, other)| one.own_digest != other.own_digest);
    pairs.map(|(one, _)| one.stage.word()).collect()
}

#[test]
fn templates_count_by_what_they_do() {
    let before = forest(TEMPLATE);
    let edit = |from: &str, to: &str| {
        assert!(TEMPLATE.contains(from), "{from}");
        changed(&before, &before.with("images/build.packer.json", &TEMPLATE.replacen(from, to, 1)))
    };
    let nothing: [&str; 0] = [];
    // Layout, comments, keys in another order, unused variables and variables under another name.
    assert_eq!(edit("\n", "\r\n\n\t"), nothing);
    assert_eq!(edit("for everybody", "for nobody"), nothing);
    assert_eq!(edit("\"image_name\": \"unknown\"", "\"image_name\": \"nobody\", \"unused\": \"x\""), nothing);
    assert_eq!(edit("\"inline\": \"sudo sync\"", "\"inline\": [\"sudo sync\"]"), nothing);
    assert_eq!(edit("\"flavor\": \"{{ user `build_flavor` }}\"", "\"flavor\": \"42\""), nothing);
    assert_eq!(edit("\"5m\"", "\"6m\""), nothing);
    assert_eq!(
        edit("\"inline\": \"sudo sync\"", "\"inline\": \"sudo sync\", \"timeout\": \"1h\", \"max_retries\": 3"),
        nothing
    );
    // What the machine is.
    assert_eq!(edit("\"42\"", "\"43\""), ["boot"]);
    assert_eq!(edit("FACTORY_NETWORK_ID", "FACTORY_SECURITY_GROUP_ID"), ["boot"]);
    assert_eq!(edit("\"cloud\"", "\"debian\""), ["boot"]);
    // What is done in it.
    assert_eq!(edit("sudo sync", "sync"), ["provision"]);
    assert_eq!(edit("\"host_alias\": \"local\"", "\"host_alias\": \"local\", \"groups\": [\"local\"]"), ["provision"]);
    let other = before.with("images/other.json", TEMPLATE).with("images/bundle-web/README.md", "x");
    assert_eq!(changed(&before, &other), nothing);
    let named = other.with("images/bundle-web/build-vars.yml", &[VARS, "packer_file: other.json\n"].concat());
    assert_eq!(changed(&before, &named), nothing);
    // A renamed bundle keeps its results, since its path only leads into it.
    let renamed = before.renamed("images/bundle-web", "images/bundle-shop");
    let (before, renamed) = (reading(&before), reading(&renamed));
    let prints = |reading: &Reading| {
        let buildable = reading.bundles[0].verdict.as_ref().expect("buildable");
        buildable.stages.iter().map(|stage| stage.declared).collect::<Vec<_>>()
    };
    assert_eq!(prints(&before), prints(&renamed));
}

#[test]
fn a_template_is_read_again_when_it_changes_and_only_then() {
    let (cache, factory) = (Cache::default(), RepoName::from("factory"));
    let one = forest(TEMPLATE);
    let steps = |forest: &Forest| {
        let reading = read(forest, &factory, &cache).expect("a reading");
        let verdict = reading.bundles[0].verdict.as_ref();
        verdict
            .map(|buildable| buildable.pipeline.provision.as_ref().map_or(0, |it| it.steps.len()))
            .map_err(|why| why.reason.clone())
    };
    assert_eq!(steps(&one), Ok(3));
    assert_eq!(
        steps(&one.with("images/build.packer.json", &with("{ \"type\": \"shell\", \"inline\": [\"x\"] }"))),
        Ok(1)
    );
    assert!(steps(&one.with("images/build.packer.json", "{}")).is_err());
    assert_eq!(steps(&one), Ok(3));
}
