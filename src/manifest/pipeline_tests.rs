//! What a pipeline's author is told, and what a bound pipeline holds.

use super::super::forest::Forest;
use super::super::{fields, schema, vars};
use super::*;
use crate::domain::id::RepoName;
use crate::domain::pipeline::{Action, BaseImage, Network, RecipeContent};

fn told(text: &str) -> String {
    check_file("pipelines/p.yml", text).iter().map(|fault| fault.render("error")).collect::<Vec<_>>().join("\n")
}

/// The faults of a pipeline that is right but for these stages.
fn told_of(stages: &str) -> String {
    told(&["version: 1\nbundles: [images/*]\nstages:\n  - boot: { image: x }\n", stages].concat())
}

fn bind(text: &str, vars: &str) -> Result<Pipeline, String> {
    let path = RepoPath::new("pipelines/p.yml").expect("a path");
    let bundle = RepoPath::new("images/web").expect("a path");
    let vars = vars::read("images/web/build-vars.yml", &bundle, vars).expect("good vars");
    let scope = vars::scope(&vars.value, &RepoName::from("factory"));
    let forest = Forest::new(&[]);
    let bound = PipelineFile::read(path, text).bind(&bundle, &scope, &Templates::new(&forest));
    bound.map(|bound| bound.pipeline).map_err(|faults| faults.iter().map(|fault| fault.render("error")).collect())
}

const WHOLE: &str = r#"
version: 1
bundles: [images/bundle-*]
vars: build-vars.yml
shared: [images/build.packer.json, /common]
on_shared_change: rebuild
timeout: 1h30m
stages:
  - boot:      { image: "{{ bundle.img_base }}", user: cloud, cpus: "{{ vars.cpus }}", memory: 2GiB, disk: 10GiB, host_key: first-seen }
  - provision:
      expire: 7d
      timeout: 20m
      steps:
        - ansible: { playbook: ansible/bootstrap.yml, extra_arguments: ["-v"] }
          network: full
          secrets: [vault]
        - shell: echo {{ bundle.name }} {{ build.number }}
          name: clean
          env: { DEBUG: 1, STAMP: "{{ build.stamp }}" }
          timeout: 45s
          allow_failure: yes
          inputs: [files, /shared/x]
        - script: { path: run.sh, args: [a, 2] }
        - upload: { from: files, to: /srv/x, mode: 0750 }
        - ansible-local: /common/play/site.yml
  - test:
      ports: [80, 443]
      steps: [ { pytest: tests } ]
      reports: ["reports/*.xml"]
  - snapshot:  { name: "{{ bundle.name }}-{{ build.stamp }}", properties: "{{ bundle.properties }}", min_disk: 20 }
  - render:    { templates: output }
archive: ["packer.latest.log", "images/target/{{ build.directory }}/output/*"]
"#;

const VARS: &str =
    "cpus: 2\nbundle:\n  name: web\n  img_base: debian\n  properties: { os: Debian, rng: yes, cpus: 1, b: }\n";

#[test]
fn a_whole_pipeline_is_bound_to_its_bundle() {
    assert_eq!(told(WHOLE), "");
    let pipeline = bind(WHOLE, VARS).expect("bound");
    assert_eq!(pipeline.boot.image, BaseImage::Named("debian".into()));
    assert_eq!((pipeline.boot.cpus, pipeline.boot.memory, pipeline.boot.disk), (2, 2 << 30, Some(10 << 30)));
    assert_eq!((pipeline.timeout.as_secs(), pipeline.on_shared_change), (5400, SharedChange::Rebuild));
    let steps = pipeline.provision.expect("provision").steps;
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["ansible", "clean", "script", "upload", "ansible-local"]);
    assert_eq!((steps[0].network, steps[0].secrets.as_slice()), (Network::Full, &["vault".to_owned()][..]));
    assert_eq!(steps[1].written, ("pipelines/p.yml".into(), 17));
    let Action::Shell { text, .. } = &steps[1].action else { panic!("a shell step") };
    assert_eq!(text.to_string(), "echo web {{ build.number }}");
    assert!(matches!(&steps[3].action, Action::Upload { mode: Some(0o750), .. }));
    let snapshot = pipeline.snapshot.expect("snapshot");
    let properties: Vec<String> = snapshot.properties.iter().map(|(key, text)| format!("{key}={text}")).collect();
    assert_eq!(properties, ["b=", "cpus=1", "os=Debian", "rng=True"]);
    assert_eq!(snapshot.name.to_string(), "web-{{ build.stamp }}");
}

#[test]
fn the_built_in_pipeline_takes_bundles_without_properties() {
    let [builtin, os] = PipelineFile::builtin();
    assert_eq!((builtin.faults.as_slice(), os.faults.as_slice()), ([].as_slice(), [].as_slice()));
    let bundle = RepoPath::new("images/bundle-x").expect("a path");
    let vars = vars::read("v", &bundle, "bundle: { name: x, img_base: y, properties: }").expect("good vars");
    let (scope, forest) = (vars::scope(&vars.value, &RepoName::from("factory")), Forest::new(&[]));
    let templates = Templates::new(&forest);
    let bound = builtin.of(&scope, &templates).bind(&bundle, &scope, &templates).expect("bound");
    assert_eq!(bound.pipeline.stages().count(), 4);
    assert_eq!(bound.pipeline.file, None);
}

#[test]
fn a_base_image_is_a_name_a_file_a_download_or_a_recipe() {
    let image = |image: &str| {
        let text = format!("version: 1\nbundles: [x]\nstages: [ {{ boot: {{ image: {image} }} }} ]\n");
        bind(&text, "suite: bookworm").map(|pipeline| pipeline.boot.image)
    };
    let sum = "ab".repeat(32);
    assert!(matches!(image("{ path: /srv/x.qcow2, format: qcow2 }"), Ok(BaseImage::Path { .. })));
    assert!(matches!(
        image(&format!("{{ url: 'https://x/y', sha256: {sum}, format: raw }}")),
        Ok(BaseImage::Url { .. })
    ));
    let recipe = "{ mmdebstrap: { suite: '{{ vars.suite }}', packages: [nginx], files: \
                  [ { to: /etc/a, text: '' }, { to: /etc/b, link: a } ] } }";
    let Ok(BaseImage::Mmdebstrap(recipe)) = image(recipe) else { panic!("a recipe") };
    assert_eq!(recipe.suite, "bookworm");
    assert_eq!(recipe.files[0].content, RecipeContent::Text { text: String::new(), mode: 0o644 });
    insta::assert_snapshot!(image("{ url: ftp://x/y, sha256: 12, format: vmdk }").expect_err("wrong"), @r#"
    error: `url` takes an address that begins with http:// or https://, and this is `ftp://x/y`, for images/web
      --> pipelines/p.yml:3:35
      |
    3 | stages: [ { boot: { image: { url: ftp://x/y, sha256: 12, format: vmdk } } } ]
      |                                   ^^^^^^^^^
      |
    error: `sha256` takes 64 hexadecimal digits, and this is the number 12, for images/web
      --> pipelines/p.yml:3:54
      |
    3 | stages: [ { boot: { image: { url: ftp://x/y, sha256: 12, format: vmdk } } } ]
      |                                                      ^^
      |
    error: `format` can't be `vmdk`, for images/web
      --> pipelines/p.yml:3:66
      |
    3 | stages: [ { boot: { image: { url: ftp://x/y, sha256: 12, format: vmdk } } } ]
      |                                                                  ^^^^
      |
      = it is one of qcow2, raw
    "#);
    insta::assert_snapshot!(image("{ mmdebstrap: { suite: -x, files: [ { to: b, text: x, link: y } ] } }").expect_err("wrong"), @r#"
    error: `suite` takes the name of a Debian suite, such as bookworm, and this is `-x`, for images/web
      --> pipelines/p.yml:3:51
      |
    3 | stages: [ { boot: { image: { mmdebstrap: { suite: -x, files: [ { to: b, text: x, link: y } ] } } } } ]
      |                                                   ^^
      |
    error: a file of a recipe has either `text` or `link`, for images/web
      --> pipelines/p.yml:3:64
      |
    3 | stages: [ { boot: { image: { mmdebstrap: { suite: -x, files: [ { to: b, text: x, link: y } ] } } } } ]
      |                                                                ^^
      |
      = a file has its content in `text`, a symbolic link its target in `link`
    error: `to` takes an absolute path in the image, without `..`, and this is `b`, for images/web
      --> pipelines/p.yml:3:70
      |
    3 | stages: [ { boot: { image: { mmdebstrap: { suite: -x, files: [ { to: b, text: x, link: y } ] } } } } ]
      |                                                                      ^
      |
    "#);
}

#[test]
fn every_fault_of_a_file_is_said_at_once() {
    insta::assert_snapshot!(told(r#"version: 2
bundels: [images/*]
on_shared_change: canery
timeout: 90
stages:
  - boot: { image: x, memory: 2G }
  - provison:
      steps: []
"#), @r#"
error: `version` takes the number 1, the only version that there is, and this is the number 2
  --> pipelines/p.yml:1:10
  |
1 | version: 2
  |          ^
  |

error: unknown key `bundels` in `pipeline`
  --> pipelines/p.yml:2:1
  |
2 | bundels: [images/*]
  | ^^^^^^^ did you mean `bundles`?
  |
  = keys are version, bundles, vars, shared, on_shared_change, timeout, stages, archive

error: `on_shared_change` can't be `canery`
  --> pipelines/p.yml:3:19
  |
3 | on_shared_change: canery
  |                   ^^^^^^ did you mean `canary`?
  |
  = it is one of mark, canary, rebuild

error: `timeout` takes a time with its unit, such as `90m`, `1h30m`, `7d` or `45s`, and this is the number 90
  --> pipelines/p.yml:4:10
  |
4 | timeout: 90
  |          ^^
  |

error: `2G` is no size: a size ends in KiB, MiB, GiB or TiB
  --> pipelines/p.yml:6:31
  |
6 |   - boot: { image: x, memory: 2G }
  |                               ^^ did you mean `2GiB`?
  |
  = sizes are written `2GiB`, `512MiB`

error: unknown stage `provison`
  --> pipelines/p.yml:7:5
  |
7 |   - provison:
  |     ^^^^^^^^ did you mean `provision`?
  |
  = stages are boot, provision, test, snapshot, render
"#);
}

#[test]
fn globs_and_vars_stay_where_they_belong() {
    insta::assert_snapshot!(told(r#"version: 1
bundles: [/images/*, "a[", ../x]
vars: /etc/passwd
stages:
  - boot: { image: x }
"#), @r#"
error: `/images/*` is no glob of bundles: it begins with `/`
  --> pipelines/p.yml:2:11
  |
2 | bundles: [/images/*, "a[", ../x]
  |           ^^^^^^^^^
  |
  = a glob counts from the repository's root: `images/bundle-*`

error: `a[` is no glob of bundles: unclosed character class; missing ']'
  --> pipelines/p.yml:2:22
  |
2 | bundles: [/images/*, "a[", ../x]
  |                      ^^^^
  |
  = a glob counts from the repository's root: `images/bundle-*`

error: `../x` is no glob of bundles: it leaves the repository with `..`
  --> pipelines/p.yml:2:28
  |
2 | bundles: [/images/*, "a[", ../x]
  |                            ^^^^
  |
  = a glob counts from the repository's root: `images/bundle-*`

error: `vars` counts from the bundle, not from the root
  --> pipelines/p.yml:3:7
  |
3 | vars: /etc/passwd
  |       ^^^^^^^^^^^
  |
  = write it without the leading `/`
"#);
}

#[test]
fn every_fault_of_the_stages_is_said_at_once() {
    insta::assert_snapshot!(told(r#"version: 1
bundles: [images/*]
stages:
  - boot: { image: x, cpus: two, host_key: none }
  - provision:
      expire: 7 days
      step: []
  - snapshot: { name: "{{ bundel.name }}", min_disk: 20GiB }
"#), @r#"
error: `cpus` takes a whole number from 1 to 256, and this is `two`
  --> pipelines/p.yml:4:29
  |
4 |   - boot: { image: x, cpus: two, host_key: none }
  |                             ^^^
  |

error: `host_key` can't be `none`
  --> pipelines/p.yml:4:44
  |
4 |   - boot: { image: x, cpus: two, host_key: none }
  |                                            ^^^^
  |
  = it is one of verified, first-seen

error: `7 days` is no time: a number is followed by d, h, m or s
  --> pipelines/p.yml:6:15
  |
6 |       expire: 7 days
  |               ^^^^^^
  |
  = times are written `90m`, `1h30m`, `7d`, `45s`

error: unknown key `step` in `provision`
  --> pipelines/p.yml:7:7
  |
7 |       step: []
  |       ^^^^ did you mean `steps`?
  |
  = keys are steps, expire, timeout

error: nothing is called `bundel`
  --> pipelines/p.yml:8:24
  |
8 |   - snapshot: { name: "{{ bundel.name }}", min_disk: 20GiB }
  |                        ^^^^^^^^^^^^^^^^^
  |
  = an expression begins with bundle, vars, repository, build

error: `min_disk` takes a whole number from 0 to 1000000, and this is `20GiB`
  --> pipelines/p.yml:8:54
  |
8 |   - snapshot: { name: "{{ bundel.name }}", min_disk: 20GiB }
  |                                                      ^^^^^
  |
"#);
}

#[test]
fn stages_stand_in_their_order_each_once() {
    insta::assert_snapshot!(told_of("  - render:\n  - test: { steps: [] }\n  - boot: { image: y }\n  - snapshot\n"), @r#"
    error: stage `test` comes after `render`
      --> pipelines/p.yml:6:5
      |
    6 |   - test: { steps: [] }
      |     ^^^^
      |
      = stages run in the order boot, provision, test, snapshot, render

    error: stage `boot` stands twice
      --> pipelines/p.yml:7:5
      |
    7 |   - boot: { image: y }
      |     ^^^^
      |
      = it stands in line 4 before; put all its steps into one

    error: `stages` takes maps such as `- boot: { … }`, and this is `snapshot`
      --> pipelines/p.yml:8:5
      |
    8 |   - snapshot
      |     ^^^^^^^^
      |
    "#);
    insta::assert_snapshot!(told("version: 1\nbundles: [x]\nstages:\n  - render: {}\n"), @r#"
    error: the pipeline has no stage `boot`
      --> pipelines/p.yml:4:3
      |
    4 |   - render: {}
      |   ^
      |
      = begin with `- boot: { image: "{{ bundle.img_base }}" }`
    "#);
    insta::assert_snapshot!(told("version: 1\nbundles: []\nstages: {}\n"), @r#"
    error: `bundles` takes at least one glob, and this is an empty list
      --> pipelines/p.yml:2:10
      |
    2 | bundles: []
      |          ^
      |

    error: `stages` takes a list of maps such as `- boot: { … }`, and this is a map
      --> pipelines/p.yml:3:9
      |
    3 | stages: {}
      |         ^
      |
    "#);
    insta::assert_snapshot!(told(""), @r#"
    error: `pipeline` takes a map with version, bundles, vars, shared, on_shared_change, timeout, stages, archive, and this is nothing
      --> pipelines/p.yml:1:1
    "#);
}

#[test]
fn expressions_are_checked_without_a_bundle() {
    insta::assert_snapshot!(told_of(r#"  - provision:
      steps:
        - shell: |
            echo one
            echo {{ bundle.name | upper }}
        - shell: "{{ build.tsamp }}"
          timeout: "{{ build.number }}"
  - snapshot: { name: "x-{{ build.stamp }", min_disk: "{{ vars.size }}" }
"#), @r#"
error: `bundle.name | upper` is not a name
  --> pipelines/p.yml:9:18
  |
9 |             echo {{ bundle.name | upper }}
  |                  ^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = an expression is a dotted name, such as `{{ bundle.name }}`; filters and operators are not known here

error: a build has no `tsamp`
   --> pipelines/p.yml:10:19
   |
10 |         - shell: "{{ build.tsamp }}"
   |                   ^^^^^^^^^^^^^^^^^
   |
   = of a build are known: number, stamp, date, time, commit, branch, path, directory, timestamp, uuid

error: `timeout` must be known before a build begins
   --> pipelines/p.yml:11:20
   |
11 |           timeout: "{{ build.number }}"
   |                    ^^^^^^^^^^^^^^^^^^^^
   |
   = `build.…` can stand in texts: commands, arguments, names, properties

error: `{{` is never closed
   --> pipelines/p.yml:12:26
   |
12 |   - snapshot: { name: "x-{{ build.stamp }", min_disk: "{{ vars.size }}" }
   |                          ^^^^^^^^^^^^^^^^
   |
   = close the expression with `}}`
"#);
}

#[test]
fn what_a_bundle_brings_out_names_the_bundle() {
    let text = WHOLE.replace("min_disk: 20", "min_disk: \"{{ vars.size }}\"");
    insta::assert_snapshot!(bind(&text, VARS).expect_err("no size"), @r#"
    error: `vars.size` is not defined, for images/web
       --> pipelines/p.yml:30:113
       |
    30 |   - snapshot:  { name: "{{ bundle.name }}-{{ build.stamp }}", properties: "{{ bundle.properties }}", min_disk: "{{ vars.size }}" }
       |                                                                                                                 ^^^^^^^^^^^^^^^
       |
       = `vars` has: cpus, bundle
    "#);
    insta::assert_snapshot!(bind(&text, &[VARS, "size: small\n"].concat()).expect_err("no number"), @r#"
    error: `min_disk` takes a whole number from 0 to 1000000, and this is `small`, for images/web
       --> pipelines/p.yml:30:112
       |
    30 |   - snapshot:  { name: "{{ bundle.name }}-{{ build.stamp }}", properties: "{{ bundle.properties }}", min_disk: "{{ vars.size }}" }
       |                                                                                                                ^^^^^^^^^^^^^^^^^^
       |
    "#);
    let vars = VARS.replace("name: web", "name: \"{{ prefix }}-web\"");
    insta::assert_snapshot!(bind(WHOLE, &vars).expect_err("nested"), @r#"
    error: the value of `bundle.name` holds an expression of its own, for images/web
       --> pipelines/p.yml:17:26
       |
    17 |         - shell: echo {{ bundle.name }} {{ build.number }}
       |                          ^^^^^^^^^^^
       |
       = values that a pipeline uses are taken as they are; write the value out
    error: the value of `bundle.name` holds an expression of its own, for images/web
       --> pipelines/p.yml:30:28
       |
    30 |   - snapshot:  { name: "{{ bundle.name }}-{{ build.stamp }}", properties: "{{ bundle.properties }}", min_disk: 20 }
       |                            ^^^^^^^^^^^
       |
       = values that a pipeline uses are taken as they are; write the value out
    "#);
}

#[test]
fn expressions_can_not_grow_without_bound() {
    let steps = "        - shell: \"{{ vars.big }}\"\n".repeat(20);
    let text =
        ["version: 1\nbundles: [x]\nstages:\n  - boot: { image: x }\n  - provision:\n      steps:\n", &steps].concat();
    let vars = format!("big: {}\n", "x".repeat(100_000));
    let told = bind(&text, &vars).expect_err("too much");
    assert!(told.contains("the pipeline's expressions expand to more than 1048576 bytes"), "{told}");
}

#[test]
fn the_schema_has_every_key_that_the_reader_takes() {
    let schema = schema::pipeline();
    let source = Source::new("p.yml", WHOLE);
    let root = yaml::load(&source, &mut Vec::new()).expect("read");
    let Kind::Map(entries) = &root.kind else { panic!("a map") };
    for (key, _) in entries {
        assert!(schema["properties"][&key.text].is_object(), "{}", key.text);
    }
    let stages = schema["properties"]["stages"]["items"]["anyOf"].as_array().expect("stages");
    for (at, (stage, table)) in fields::STAGES.iter().enumerate() {
        let known = &stages[at]["properties"][stage.word()]["properties"];
        assert_eq!(known.as_object().map(|keys| keys.len()), Some(table.len()));
    }
    let step = schema["$defs"]["step"]["properties"].as_object().expect("steps");
    assert_eq!(step.len(), fields::ACTIONS.len() + fields::STEP.len());
    assert!(serde_yaml::from_str::<serde_yaml::Value>(WHOLE).is_ok(), "another reader takes it too");
}
