//! What a build leaves to be fetched, under the paths that people know from Jenkins, and what it says of that.

use factoryd::domain::id::BuildNo;

use crate::factory::Factory;

/// The paths of a build's artifacts, without its consoles and reports.
fn paths(factory: &Factory, number: u64) -> Vec<String> {
    let artifacts = factory.run(|engine| async move { engine.store().artifacts(BuildNo(number)).await });
    let paths = artifacts.expect("artifacts").into_iter().map(|artifact| artifact.path.to_string());
    paths.filter(|path| !path.starts_with("console/") && !path.starts_with("reports/")).collect()
}

#[test]
fn a_build_leaves_its_log_and_outputs_under_both_names_of_its_bundle() {
    let mut factory = Factory::new();
    factory.edit("images/web/build-vars.yml", "name: web", "name: website");
    factory.deliver(&[]);
    let all = [
        "images/target/web/output/stack.yml",
        "images/target/web/packer.website-2026-11-231402.log",
        "images/target/website/output/stack.yml",
        "images/target/website/packer.website-2026-11-231402.log",
        "packer.latest.log",
    ];
    assert_eq!(paths(&factory, 1), all);
    let log = factory.artifact(1, "packer.latest.log");
    assert!(log.contains("provision: installing"), "{log}");
    assert_eq!(factory.artifact(1, all[1]), log);
    assert_eq!(factory.artifact(1, all[2]), factory.artifact(1, all[0]));

    // The outputs of a render that was a hit are this build's as well; its log has its own name.
    factory.world.days_pass(1);
    factory.deliver(&[("images/web/tests/test_web.py", "def test_other():\n    assert True\n")]);
    assert_eq!(factory.artifact(2, all[0]), factory.artifact(1, all[0]));
    assert!(paths(&factory, 2).contains(&"images/target/web/packer.website-2026-11-241402.log".to_owned()));
}

#[test]
fn a_build_that_fails_leaves_its_log_and_nothing_of_an_earlier_one() {
    let mut factory = Factory::new();
    factory.push();
    factory.settle();
    factory.world.days_pass(1);
    factory.deliver(&[("images/web/scripts/install.sh", "#!/bin/sh\nfail no package nginx\n")]);
    assert!(factory.ended(2).starts_with("failed"));
    let stamped = "images/target/web/packer.web-2026-11-241402.log";
    assert_eq!(paths(&factory, 2), [stamped, "packer.latest.log"]);
    assert!(factory.artifact(2, stamped).contains("no package nginx"));
}

#[test]
fn a_template_that_fails_keeps_nobody_from_the_results_of_the_others() {
    let mut factory = Factory::new();
    factory.deliver(&[("images/web/output/bad.yml.j2", "{{ nobody_knows }}\n")]);
    assert!(factory.ended(1).ends_with("render failed"), "{}", factory.ended(1));
    let outputs: Vec<String> = paths(&factory, 1).into_iter().filter(|path| path.contains("/output/")).collect();
    assert_eq!(outputs, ["images/target/web/output/stack.yml"]);
}

#[test]
fn a_pipeline_chooses_among_the_paths_that_jenkins_archived() {
    let mut factory = Factory::new();
    let archive = "archive: [\"images/target/{{ build.directory }}/packer.*.log\", \
                   \"images/target/{{ build.directory }}/output/*\"]\nstages:";
    factory.edit("pipelines/images.yml", "stages:", archive);
    factory.deliver(&[]);
    let wanted = ["images/target/web/output/stack.yml", "images/target/web/packer.web-2026-11-231402.log"];
    assert_eq!(paths(&factory, 1), wanted);
}

/// A template that names an image of its own, in its third line.
const STALE_OUTPUT: &str = "heat_template_version: 2015-10-15\nresources: {}\n\
                            x: { image: 5f2b8d0e-6c1a-4d3b-9a51-0d6f6e6f7c11, new: {{ result_img_id }} }\n";

/// `FILE:LINE CODE` of what looked wrong in a build's outputs.
fn warnings(factory: &Factory, number: u64) -> Vec<String> {
    let warnings = factory.run(|engine| async move { engine.store().warnings(BuildNo(number)).await });
    let warnings = warnings.expect("warnings").into_iter();
    warnings.map(|warning| format!("{}:{} {}", warning.file, warning.line, warning.code)).collect()
}

#[test]
fn what_looks_wrong_in_outputs_is_told_of_every_build_that_leaves_them() {
    let mut factory = Factory::new();
    factory.deliver(&[("images/web/output/stack.yml.j2", STALE_OUTPUT)]);
    assert!(factory.ended(1).starts_with("passed"));
    let foreign = ["images/web/output/stack.yml.j2:3 foreign-image"];
    assert_eq!(warnings(&factory, 1), foreign);
    let log = factory.artifact(1, "packer.latest.log");
    assert!(log.contains("render: warning: images/web/output/stack.yml.j2:3:"), "{log}");

    // Another test: the outputs are the same, and so is what is wrong with them.
    factory.deliver(&[(
        "images/web/build-vars.yml",
        &factory.clone.files["images/web/build-vars.yml"].0.replace("Debian", "Linux"),
    )]);
    assert!(factory.ended(2).ends_with("render hit"), "{}", factory.ended(2));
    assert_eq!(warnings(&factory, 2), foreign);

    factory.edit("pipelines/images.yml", "{ templates: output }", "{ templates: output, lint: error }");
    factory.deliver(&[("images/web/output/other.yml.j2", "image: {{ result_img_id }}\n")]);
    assert!(factory.ended(3).ends_with("render failed"), "{}", factory.ended(3));
    assert!(factory.failure(3).message.starts_with("images/web/output/stack.yml.j2:3: "), "{:?}", factory.failure(3));
    assert_eq!(warnings(&factory, 3), foreign);
}
