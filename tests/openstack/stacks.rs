//! Heat templates among the outputs of a build: the cloud's Heat looks at them, and what it says is said.

use std::time::Duration;

use factoryd::domain::stack::{StackTemplate, Verdict};
use factoryd::engine::ports::Driver as _;
use serde_json::Value;

use crate::builds::{PIPELINE, World};
use crate::driver::{self, wait};
use crate::fake::faults::{Effect, Fault};
use crate::fake::{Service, Settings};

const OUTPUT: &str = "images/bundle-web/output/";

fn hot(resource: &str) -> String {
    format!("heat_template_version: 2015-10-15\nresources:\n  web: {{{resource}}}\n")
}

fn server(property: &str) -> String {
    hot(&format!("type: OS::Nova::Server, properties: {{flavor: m1, image: {{{{ result_img_id }}}}, {property}}}"))
}

/// A bundle with these templates among its outputs, pushed and built.
fn built(settings: Settings, lint: &str, templates: &[(&str, String)]) -> (World, Value) {
    let pipeline = PIPELINE.replace("templates: output", &format!("templates: output, lint: {lint}"));
    let paths: Vec<String> = templates.iter().map(|(name, _)| format!("{OUTPUT}{name}.j2")).collect();
    let mut files = vec![("pipelines/bundle.yml", pipeline.as_str())];
    files.extend(paths.iter().map(String::as_str).zip(templates.iter().map(|(_, text)| text.as_str())));
    let world = World::with(settings, &files);
    world.push();
    let build = world.factory.ended(1);
    (world, build)
}

/// What `show` warns of: kind, file and words.
fn warned(build: &Value) -> Vec<String> {
    let text = |warning: &Value, key: &str| warning[key].as_str().unwrap_or_default().to_owned();
    let one = |warning: &Value| {
        let file = text(warning, "file").replace(OUTPUT, "");
        format!("{} {file}: {}", text(warning, "code"), text(warning, "message"))
    };
    build["warnings"].as_array().into_iter().flatten().map(one).collect()
}

#[test]
fn what_heat_says_of_each_template_is_said() {
    let templates = [
        ("good.heat.yml", server("name: web")),
        ("bad.heat.yml", server("flavour: m1")),
        ("reads.heat.yml", server("user_data: {get_file: boot.sh}")),
        ("inner.yaml", hot("type: OS::Heat::Value, properties: {value: '{{ result_img_id }}'}")),
        ("outer.heat.yml", hot("type: inner.yaml, metadata: {image: '{{ result_img_id }}'}")),
        ("lost.heat.yml", hot("type: gone.yaml, metadata: {image: '{{ result_img_id }}'}")),
    ];
    let (world, build) = built(Settings::default(), "warn", &templates);
    assert_eq!(
        warned(&build),
        [
            "heat-refuses bad.heat.yml.j2: Heat refuses the template: Property error: resources.web.properties: Unknown \
             Property flavour",
            "heat-unseen lost.heat.yml.j2: Heat was not asked about it: it is made of gone.yaml, which is not among the \
             outputs",
        ]
    );
    let log = world.factory.tell(["logs", "1"]);
    for line in [
        "good.heat.yml: Heat finds it valid\n",
        "outer.heat.yml: Heat finds it valid\n",
        "reads.heat.yml: Heat finds it valid, without having seen boot.sh, which it reads and the outputs lack\n",
    ] {
        assert!(log.contains(line), "{line}{log}");
    }
    assert_eq!(world.cloud.count("POST", "/validate"), 5);
    world.published(1);
    let shown = world.factory.tell(["show", "1"]);
    assert!(shown.contains("2 warnings about its outputs") && shown.contains("Heat refuses the template"), "{shown}");
}

#[test]
fn a_pipeline_can_make_a_refusal_fail_the_build() {
    let (world, build) = built(Settings::default(), "error", &[("web.heat.yml", server("flavour: m1"))]);
    assert_eq!(build["outcome"], "failed", "{build:#}");
    let message = build["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("web.heat.yml.j2") && message.contains("Unknown Property flavour"), "{message}");
    world.is_untouched();
}

#[test]
fn a_cloud_without_heat_fails_no_build_and_is_no_secret() {
    let settings = Settings { heat: false, ..Settings::default() };
    let (world, build) = built(settings, "error", &[("web.heat.yml", server("name: web"))]);
    let why = "no Heat looked at it: the cloud's catalogue has no service of type `orchestration`";
    assert_eq!(warned(&build), [format!("heat-unseen web.heat.yml.j2: {why}")]);
    assert!(world.factory.tell(["logs", "1"]).contains(why));
    world.published(1);
}

#[tokio::test]
async fn a_heat_that_does_not_answer_is_asked_again_and_then_left() {
    let world = driver::World::new();
    let template = StackTemplate { text: server("name: web").replace("{{ result_img_id }}", "x"), files: Vec::new() };
    let refuse = |status| Fault::on(Service::Heat, "POST", "/validate", Effect::Refuse { status, retry_after: None });
    world.cloud.fault(refuse(500));
    world.cloud.fault(Fault::on(Service::Heat, "POST", "/validate", Effect::LoseReply));
    assert_eq!(world.driver.validate(&template, &wait()).await, Verdict::Valid, "asked again");
    world.cloud.fault(refuse(500).times(100));
    let verdict = world.driver.validate(&template, &wait()).await;
    assert!(matches!(&verdict, Verdict::NoAnswer(why) if why.starts_with("Heat answered 500 to POST /validate")));
    let hurried = wait().within(Duration::ZERO);
    let verdict = world.driver.validate(&template, &hurried).await;
    assert!(matches!(&verdict, Verdict::NoAnswer(why) if why.contains("took longer than it may")), "{verdict:?}");
    world.untouched();
}
