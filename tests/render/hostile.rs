//! Templates and variables that loop, grow or nest without end.

use std::fs;
use std::time::{Duration, Instant};

use factoryd::domain::path::RepoPath;
use factoryd::domain::value::Value;
use factoryd::render::{Template, Templates, Variables};

use super::variables;

/// What must end in one clear error: (what it is, a template's suffix, its text, what the error says).
fn hostile_templates() -> Vec<(&'static str, &'static str, String, &'static str)> {
    let many = |text: &str, count: usize| text.repeat(count);
    let loops = |body: &str| {
        let open = "{% for x in range(900) %}".repeat(4);
        format!("{open}{body}{}", "{% endfor %}".repeat(4))
    };
    let each = format!("{}{}", "{{#each big}}".repeat(4), "{{/each}}".repeat(4)).replace("big", "@root.big");
    vec![
        ("loops in loops", "j2", loops(""), "50 million operations|5 s"),
        ("loops that write", "j2", loops("{{ lines }}{{ lines }}{{ lines }}{{ lines }}"), "64 MiB|50 million|5 s"),
        ("a text that doubles", "j2", many("{% set name = name ~ name %}", 60), "32 MiB"),
        ("a text that replaces itself", "j2", many("{% set name = name | replace('e', 'eeeeeeee') %}", 60), "32 MiB"),
        ("a list that doubles", "j2", many("{% set list = list + list %}", 60), "32 MiB"),
        ("a long range", "j2", "{% for x in range(1000000000000) %}{% endfor %}".into(), "32 MiB"),
        ("an indented text", "j2", "{{ lines | indent(999999999) }}".into(), "`indent` by this"),
        ("nested brackets", "j2", format!("{{{{ {} }}}}", many("(", 2000)), "recursion"),
        ("many minuses", "j2", format!("{{{{ {}1 }}}}", many("-", 100_000)), "4,000"),
        ("fewer minuses", "j2", format!("{{{{ {}1 }}}}", many("- ", 3_900)), "100 (recursion)"),
        ("many nots", "j2", format!("{{{{ {}1 }}}}", many("not ", 3_900)), "100 (recursion)"),
        ("many conditions", "j2", format!("{{{{ {}1 }}}}", many("1 if 0 else ", 970)), "100 (recursion)"),
        ("many attributes", "j2", format!("{{{{ a{} }}}}", many(".a", 1_900)), "100 (recursion)"),
        ("many filters", "j2", format!("{{{{ a{} }}}}", many("|upper", 1_900)), "100 (recursion)"),
        ("many branches", "j2", format!("{{% if 1 %}}{}", many("{% elif 1 %}", 10_000)), "deeper than 100"),
        ("many blocks", "j2", many("{% if 1 %}", 10_000), "deeper than 100"),
        ("many tags", "j2", many("{{a}}", 3_000_000), "250,000"),
        ("only braces", "j2", many("{{", 5_000_000), "250,000|4,000|unexpected"),
        ("too long", "j2", many("x", (16 << 20) + 1), "16 MiB"),
        ("a circle of variables", "j2", "{{ circle }}".into(), "circle, circle2"),
        ("variables that double", "j2", "{{ laugh0 }}".into(), "32 MiB"),
        ("variables in variables", "j2", "{{ chain0 }}".into(), "deeper than 100"),
        ("each without end", "hbs", each, "50 million operations|5 s"),
        (
            "each that writes",
            "hbs",
            format!("{}{{{{@root.long}}}}{}", many("{{#each @root.big}}", 3), many("{{/each}}", 3)),
            "64 MiB|5 s",
        ),
        ("a partial of itself", "hbs", "{{#*inline \"p\"}}{{> p}}{{/inline}}{{> p}}".into(), "partials and decorators"),
        ("nested blocks", "hbs", many("{{#if 1}}", 100_000), "deeper than 100"),
        ("nested expressions", "hbs", format!("{{{{ {} }}}}", many("(not ", 100_000)), "deeper than 100"),
        ("many expressions", "hbs", many("{{a}}", 1_000_000), "50,000"),
    ]
}

/// The same of macros, of texts of statements, and of lists that change.
fn hostile_statements() -> Vec<(&'static str, &'static str, String, &'static str)> {
    let many = |text: &str, count: usize| text.repeat(count);
    vec![
        ("a macro without end", "j2", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), "100 (recursion)"),
        (
            "macros that call each other twice",
            "j2",
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}".into(),
            "50 million operations|5 s",
        ),
        (
            "a caller that calls",
            "j2",
            "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}"
                .into(),
            "recursion",
        ),
        (
            "a macro whose text doubles",
            "j2",
            format!("{{% macro m(t) %}}{{{{ t }}}}{{{{ t }}}}{{% endmacro %}}{{% set t = name %}}{}", many("{% set t = m(t) %}", 60)),
            "32 MiB",
        ),
        (
            "a list that grows by itself",
            "j2",
            format!("{{% set l = [1] %}}{}", many("{% set _ = l.extend(list + list + list) %}{% set l = l + l %}", 60)),
            "32 MiB",
        ),
        (
            "a list that is appended to for ever",
            "j2",
            "{% set l = [] %}{% for x in range(900) %}{% for y in range(900) %}{% set _ = l.append(y) %}{% endfor %}{% endfor %}"
                .into(),
            "32 MiB|50 million|5 s",
        ),
        ("texts of statements in each other", "j2", many("{% set x %}", 10_000), "recursion|deeper"),
        ("filters of bodies in each other", "j2", many("{% filter upper %}", 10_000), "deeper than 100"),
        (
            "lists in lists",
            "j2",
            format!("{{% set l = [] %}}{}{{{{ l | flatten }}}}", many("{% set l = [l] %}", 300)),
            "100 (recursion)",
        ),
        ("a comment that repeats", "j2", "{{ name | comment(prefix_count=999999999) }}".into(), "this `prefix_count`"),
        ("a wide format", "j2", "{{ '%999999999d' % 1 }}".into(), "this width"),
        ("a number for ever", "j2", format!("{{{{ 1{} }}}}", many(" | string | comment", 150)), "100 (recursion)"),
    ]
}

/// The same of one large text, which is looked at or written again and again.
fn hostile_texts() -> Vec<(&'static str, &'static str, String, &'static str)> {
    // A text of so many letters, a power of two.
    let text = |letter: &str, doublings: usize| {
        format!(
            "{{% set {letter} = '{letter}' %}}{}",
            format!("{{% set {letter} = {letter} ~ {letter} %}}").repeat(doublings)
        )
    };
    // One text of 1 MiB, which a list of 2,000 items shares.
    let shared = |rest: &str| {
        let list = "{% set l = range(2000) | map('ternary', y, y) | list %}";
        format!("{}{list}{rest}", text("y", 20))
    };
    let spent = "32 MiB|50 million operations|5 s";
    let trim = "{% for x in range(900) %}{{ b | trim(a ~ b[:1]) | length }}{% endfor %}";
    let deep = "{% set l = [l] %}".repeat(90);
    let escaped = format!("{}{{% set x = x | replace('x', '{}') %}}", text("x", 21), "\u{7f}".repeat(12));
    let lines = format!("{}{{% set x = x | replace('x', '{}') %}}", text("x", 21), "\n".repeat(12));
    let pairs: Vec<String> = (0..100).map(|at| format!("'{at}': y")).collect();
    vec![
        ("trims of many characters", "j2", format!("{}{}{trim}", text("a", 19), text("b", 19)), spent),
        (
            "a deep list as JSON",
            "j2",
            format!("{{% set l = range(100000) | list %}}{deep}{{{{ l | to_json(indent=100) | length }}}}"),
            spent,
        ),
        ("a list as nice JSON", "j2", shared("{{ l | to_nice_json | length }}"), spent),
        ("JSON of what is escaped", "j2", format!("{escaped}{{{{ x | to_json | length }}}}"), spent),
        ("a list's text of what is escaped", "j2", format!("{lines}{{{{ [x, x] | string | length }}}}"), spent),
        ("a sort of one text", "j2", shared("{{ l | sort | length }}"), spent),
        ("a sort of one text by case", "j2", shared("{{ l | sort(case_sensitive=true) | length }}"), spent),
        ("the least of one text", "j2", shared("{{ l | min | length }}"), spent),
        ("the largest of one text", "j2", shared("{{ l | max | length }}"), spent),
        ("one text made unique", "j2", shared("{{ l | unique | list | length }}"), spent),
        (
            "a map sorted by one text",
            "j2",
            shared(&format!("{{{{ {{{}}} | dictsort(by='value') | length }}}}", pairs.join(", "))),
            spent,
        ),
        ("truth in one text", "j2", shared("{{ l | map('bool') | list | length }}"), spent),
        ("the names of one path", "j2", shared("{{ l | map('basename') | list | length }}"), spent),
        ("numbers in one text", "j2", shared("{{ l | map('int') | list | length }}"), spent),
        ("one text compared", "j2", shared("{{ l | select('eq', y[:9] ~ y[9:]) | list | length }}"), spent),
        ("one text looked for", "j2", shared("{{ l | select('in', y ~ 'z') | list | length }}"), spent),
    ]
}

/// Variables that are as hostile as the templates.
fn hostile_variables() -> Variables {
    let texts = |name: &'static str, count: usize, times: usize| {
        (0..count).map(move |at| {
            let next = format!("{{{{ {name}{} }}}}", at + 1);
            (format!("{name}{at}"), Value::String(next.repeat(times)))
        })
    };
    let ends = [("laugh40", "ha"), ("chain200", "end")].map(|(name, text)| (name.to_owned(), Value::from(text)));
    let all = texts("laugh", 40, 2).chain(texts("chain", 200, 1)).chain(ends);
    variables().file(&Value::Map(all.collect()))
}

#[test]
fn a_hostile_template_ends_in_one_clear_error_and_costs_the_others_nothing() {
    // Two sets, since handlebars works out all variables beforehand.
    let (big, hostile) = (big_variables(), hostile_variables());
    let all = [hostile_templates(), hostile_statements(), hostile_texts()].into_iter().flatten();
    for (what, suffix, source, expected) in all {
        let template = |name: String, content: &str| Template {
            path: RepoPath::new(name).expect("a path"),
            content: content.into(),
        };
        let sources = vec![template(format!("a.{suffix}"), &source), template("z.j2".into(), "{{ name }}")];
        let begun = Instant::now();
        let outcome = Templates::new(sources).expect("names").render(if suffix == "hbs" { &big } else { &hostile });
        let taken = begun.elapsed();
        let failed = &outcome.failed[0];
        let says = expected.split('|').any(|expected| failed.message.contains(expected));
        assert!(says, "{what}: {} ({taken:?})", failed.message);
        assert!(taken < Duration::from_secs(6), "{what} takes {taken:?}");
        assert_eq!(outcome.rendered.len(), 1, "{what}: the other template is rendered");
    }
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of memory");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 200 << 10, "memory peaked at {} MiB", kib >> 10);
}

fn big_variables() -> Variables {
    let big = Value::List(vec![Value::Int(1); 900]);
    let long = Value::String("x".repeat(1000));
    variables().file(&Value::Map(vec![("big".into(), big), ("long".into(), long)]))
}
