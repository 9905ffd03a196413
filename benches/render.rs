//! Rendering the example's own Heat template, and one that loops.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use factoryd::domain::path::RepoPath;
use factoryd::domain::value::Value;
use factoryd::render::{Template, Templates, Variables};

const HEAT: &str = include_str!("../images/bundle-debian-nginx/output/nginx_stack.heat.yml.j2");
const LOOP: &str = "{% for port in ports %}rule {{ loop.index }}: {{ port }}\n{% endfor %}";

fn template(name: &str, text: &str) -> Template {
    let path = RepoPath::new(name).expect("a path");
    Template { path, content: text.as_bytes().to_vec() }
}

fn renders(criterion: &mut Criterion) {
    let text = |text: &str| Value::String(text.to_owned());
    let bundle = Value::Map(vec![("name".to_owned(), text("bundle-debian-nginx"))]);
    let ports = Value::List((1..=1000).map(Value::Int).collect());
    let vars = Value::Map(vec![("bundle".to_owned(), bundle), ("ports".to_owned(), ports)]);
    let variables = Variables::new("00000000-0000-4000-8000-000000000000").file(&vars);
    for (what, name, source) in
        [("the Heat template of the example", "stack.yml.j2", HEAT), ("a loop of a thousand turns", "rules.j2", LOOP)]
    {
        criterion.bench_function(&format!("read and render {what}"), |bencher| {
            bencher.iter(|| {
                let templates = Templates::new(vec![template(name, source)]).expect("one template");
                let outcome = templates.render(&variables);
                assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
                black_box(outcome);
            });
        });
    }
}

criterion_group!(benches, renders);
criterion_main!(benches);
