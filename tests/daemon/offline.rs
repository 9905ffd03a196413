//! Commands that ask no daemon: what they say of broken input, and that they end.

use std::path::Path;
use std::time::Duration;

use super::factory::{Author, BINARY, Said, program, said};

/// What a pure command may take, whatever it is given.
const AT_MOST: Duration = Duration::from_secs(5);

fn factoryd(directory: &Path, arguments: &[&str]) -> Said {
    said(program(BINARY).current_dir(directory).args(arguments))
}

/// A template rendered on its own: the exit code and what was said.
fn render(template: &str, vars: &str) -> (i32, String) {
    let author = Author::new(&[]);
    author.write("b/build-vars.yml", vars);
    author.write("b/output/stack.yaml.j2", template);
    author.write("b/output/good.txt.j2", "image {{ result_img_id }}\n");
    let said = factoryd(author.path(), &["render", "b", "--image-id", "42", "-o", "out"]);
    assert!(said.took < AT_MOST + Duration::from_secs(2), "{:?}", said.took);
    assert!(!author.path().join("out/stack.yaml").exists() || said.code == 0, "nothing of a failed one is left");
    let good = std::fs::read_to_string(author.path().join("out/good.txt"));
    assert_eq!(good.expect("the other is written"), "image 42\n");
    (said.code, format!("{}{}", said.out, said.err))
}

#[test]
fn a_template_that_fails_names_its_line_and_costs_the_others_nothing() {
    let (code, said) = render("a\nb\nimage: {{ nope }}\n", "bundle: {}\n");
    assert_eq!(code, 1);
    assert!(said.contains("stack.yaml.j2:3:") && said.contains("nope"), "{said}");
    let (code, said) = render("{% if %}\n", "bundle: {}\n");
    assert!(code == 1 && said.contains("stack.yaml.j2:1:"), "{said}");
    let (code, said) = render("{{ lookup('pipe', 'id') }}\n", "bundle: {}\n");
    assert!(code == 1 && said.contains("`lookup()`"), "{said}");
}

#[test]
fn a_template_that_loops_or_grows_without_end_is_stopped() {
    let loops = format!("{}{}", "{% for x in range(900) %}".repeat(4), "{% endfor %}".repeat(4));
    let (code, said) = render(&loops, "bundle: {}\n");
    assert!(code == 1 && (said.contains("50 million") || said.contains("5 s")), "{said}");
    let (code, said) = render(&"{% set a = (a | default('xx')) ~ (a | default('xx')) %}".repeat(60), "bundle: {}\n");
    assert!(code == 1 && said.contains("MiB"), "{said}");
    let (code, said) = render("{{ a }}\n", "a: \"{{ b }}\"\nb: \"{{ a }}\"\n");
    assert!(code == 1 && said.contains("stack.yaml.j2:1"), "{said}");
}

#[test]
fn check_and_plan_end_whatever_a_directory_holds() {
    let author = Author::new(&["bundle-good"]);
    let levels: String = (1..40)
        .map(|level| format!("l{level}: &l{level} [{}]\n", vec![format!("*l{}", level - 1); 10].join(", ")))
        .collect();
    author.write(
        "images/bundle-bomb/build-vars.yml",
        format!("bundle: {{ name: x, img_base: y }}\nl0: &l0 [a]\n{levels}"),
    );
    author.write("images/bundle-deep/build-vars.yml", format!("bundle: {}\n", "{a: ".repeat(200_000)));
    let broken = "version: 2\nbundles: [os/*]\nstages:\n  - boot: {}\n  - boot: {}\n";
    author.write("pipelines/broken.yml", broken);
    let check = factoryd(author.path(), &["check"]);
    assert!(check.took < AT_MOST, "{:?}", check.took);
    let told = check.ended(1);
    for wanted in ["images/bundle-bomb/build-vars.yml", "images/bundle-deep/build-vars.yml", "pipelines/broken.yml:1:"]
    {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
    author.commit("All of it");
    let plan = factoryd(author.path(), &["plan", "--repo", "."]);
    assert!(plan.took < AT_MOST, "{:?}", plan.took);
    let told = plan.ended(0);
    assert!(told.contains("1 of 3 bundles would build"), "{told}");

    let missing = factoryd(author.path(), &["check", "nowhere"]).ended(1);
    assert!(missing.starts_with("error: nowhere can't be checked: "), "{missing}");
    let unknown = factoryd(author.path(), &["plan", "--repo", ".", "nope"]).ended(1);
    assert!(unknown.contains("nope"), "{unknown}");
}

#[test]
fn packaging_commands_print_what_packages_need() {
    let author = Author::new(&[]);
    let schema = factoryd(author.path(), &["schema", "pipeline"]).ended(0);
    serde_json::from_str::<serde_json::Value>(&schema).expect("JSON");
    assert!(factoryd(author.path(), &["completions", "bash"]).ended(0).contains("factoryd"));
    factoryd(author.path(), &["man", "man"]).ended(0);
    let page = std::fs::read_to_string(author.path().join("man/factoryd.1")).expect("a page");
    assert!(page.contains("Exit codes"), "exit codes are documented");
    assert!(factoryd(author.path(), &["--version"]).ended(0).starts_with("factoryd 0."));
}
