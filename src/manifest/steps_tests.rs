//! What the author of a step is told.

use super::super::check_file;

fn told_of(stages: &str) -> String {
    told(&["  - boot: { image: x }\n", stages].concat())
}

fn told(stages: &str) -> String {
    let text = ["version: 1\nbundles: [images/*]\nstages:\n", stages].concat();
    check_file("pipelines/p.yml", &text).iter().map(|fault| fault.render("error")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_step_does_one_known_thing() {
    insta::assert_snapshot!(told_of(r#"  - provision:
      steps:
        - packer: images/build.packer.json
          timeout: 5m
        - shel: echo
        - name: nothing
        - shell: echo
          script: run.sh
        - apt-get clean
"#), @r#"
error: `timeout` can't stand beside `packer`
  --> pipelines/p.yml:8:11
  |
8 |           timeout: 5m
  |           ^^^^^^^
  |
  = each of its provisioners says that for itself, in the template

error: unknown key `shel` in a step
  --> pipelines/p.yml:9:11
  |
9 |         - shel: echo
  |           ^^^^ did you mean `shell`?
  |
  = keys are shell, script, upload, ansible-local, ansible, pytest, packer, name, env, timeout, allow_failure, inputs, pause_before, max_retries, valid_exit_codes, expect_disconnect, network, secrets

error: the step says nothing to do
   --> pipelines/p.yml:10:11
   |
10 |         - name: nothing
   |           ^
   |
   = give it one of shell, script, upload, ansible-local, ansible, pytest, packer

error: one step does one thing, and this has `shell` and `script`
   --> pipelines/p.yml:12:11
   |
12 |           script: run.sh
   |           ^^^^^^
   |
   = begin a step of its own with `-`

error: `steps` takes maps such as `- shell: apt-get clean`, and this is `apt-get clean`
   --> pipelines/p.yml:13:11
   |
13 |         - apt-get clean
   |           ^^^^^^^^^^^^^
   |
"#);
}

#[test]
fn what_a_step_is_given_is_checked() {
    insta::assert_snapshot!(told_of(r#"  - provision:
      steps:
        - shell: yes
        - shell: make
          network: full
        - script: ../../etc/passwd
        - ansible: /site.yml
        - upload: { from: x, to: relative, mode: 644 }
        - pytest: { args: [x] }
"#), @r#"
error: `shell` takes a text, and `yes` is read as true or false
  --> pipelines/p.yml:7:18
  |
7 |         - shell: yes
  |                  ^^^ did you mean `"yes"`?
  |

error: `network` is for steps of the host, and `shell` runs in the guest
  --> pipelines/p.yml:9:11
  |
9 |           network: full
  |           ^^^^^^^
  |
  = steps of the host are `ansible` and `pytest`

error: the path `../../etc/passwd` leaves the bundle
   --> pipelines/p.yml:10:19
   |
10 |         - script: ../../etc/passwd
   |                   ^^^^^^^^^^^^^^^^
   |
   = begin the path with `/` to count from the repository's root; nothing outside of it can be read

error: a playbook can't lie in the repository's root
   --> pipelines/p.yml:11:20
   |
11 |         - ansible: /site.yml
   |                    ^^^^^^^^^
   |
   = a playbook's directory counts with all that is in it; move it into a directory of its own

error: `to` takes an absolute path in the guest, and this is `relative`
   --> pipelines/p.yml:12:34
   |
12 |         - upload: { from: x, to: relative, mode: 644 }
   |                                  ^^^^^^^^
   |

error: `mode` takes permission bits in octal with a leading zero, such as `0644`, and this is the number 644
   --> pipelines/p.yml:12:50
   |
12 |         - upload: { from: x, to: relative, mode: 644 }
   |                                                  ^^^
   |

error: `pytest` lacks `path`
   --> pipelines/p.yml:13:19
   |
13 |         - pytest: { args: [x] }
   |                   ^^
   |
   = path: The file or directory of the tests.
"#);
}

#[test]
fn changes_before_the_first_boot_are_steps_that_need_no_machine_of_the_image() {
    assert_eq!(
        told(
            r#"  - boot:
      image: x
      changes:
        - upload: { from: x, to: /etc/x }
        - script: { path: run.sh, args: ["{{ build.number }}"] }
          name: run
        - shell: chroot "$ROOT" useradd cloud
          env: { A: b }
          timeout: 5m
          allow_failure: true
"#
        ),
        ""
    );
    insta::assert_snapshot!(told(r#"  - boot:
      image: x
      changes:
        - ansible: ansible/site.yml
        - shell: reboot
          expect_disconnect: true
        - shell: make
          network: full
          secrets: [token]
        - upload: { from: x, to: relative }
        - nothing
"#), @r#"
error: `ansible` can't stand in `changes`
  --> pipelines/p.yml:7:11
  |
7 |         - ansible: ansible/site.yml
  |           ^^^^^^^
  |
  = the machine is not up yet; `changes` takes shell, script and upload

error: `expect_disconnect` can't stand in `changes`
  --> pipelines/p.yml:9:11
  |
9 |           expect_disconnect: true
  |           ^^^^^^^^^^^^^^^^^
  |
  = what has the disk attached must stay up until the disk is detached

error: `network` can't stand in `changes`
   --> pipelines/p.yml:11:11
   |
11 |           network: full
   |           ^^^^^^^
   |
   = nothing of `changes` runs on the factory host

error: `secrets` can't stand in `changes`
   --> pipelines/p.yml:12:11
   |
12 |           secrets: [token]
   |           ^^^^^^^
   |
   = nothing of `changes` runs on the factory host

error: `to` takes an absolute path in the guest, and this is `relative`
   --> pipelines/p.yml:13:34
   |
13 |         - upload: { from: x, to: relative }
   |                                  ^^^^^^^^
   |

error: `steps` takes maps such as `- shell: apt-get clean`, and this is `nothing`
   --> pipelines/p.yml:14:11
   |
14 |         - nothing
   |           ^^^^^^^
   |
"#);
}
