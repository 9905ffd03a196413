//! Output templates: `*.j2` as Ansible's template module renders them, `*.hbs` with handlebars, both strict.
//!
//! A template fails alone: the others are rendered all the same. Nothing here knows where templates come from but for
//! [`domain::tree`](crate::domain::tree), and only [`write_all`] touches the file system. What is not native is given
//! away, for whoever can run the installed Ansible, and its answers are taken back.
//!
//! ```text
//!  Tree ─ collect ─► Templates ─ begin(&Variables) ─► Begun ──────── finish ─► Outcome { rendered, failed } ─ write_all
//!                       │ names: result paths           │ handed()     ▲                       └ lint
//!                       │ jinja/ · handlebars           └─► Ansible ─► answers
//! ```

mod ansible;
mod collect;
mod handlebars;
mod jinja;
mod limits;
mod lint;
mod names;
mod stacks;
mod variables;
mod write;

use std::fmt;
use std::time::Instant;

use crate::domain::path::RepoPath;
use crate::domain::template::{Answer, Handed};
use crate::domain::tree::Tree;
use crate::manifest::fault::{Fault, Span};

pub use lint::{BAD_NAME, in_template, statics};
pub use stacks::{Question, heat_templates};
pub use variables::{Stamp, Variables};
pub use write::{WriteError, write_all};

/// A template as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Where it lies, below the templates' directory.
    pub path: RepoPath,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// What renders a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `*.j2`: constructs that are proven to render as Ansible renders them.
    Native,
    /// `*.j2`: the installed Ansible itself.
    Ansible,
    /// `*.hbs`: handlebars in strict mode.
    Handlebars,
}

impl Engine {
    /// The word for people and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ansible => "ansible",
            Self::Handlebars => "handlebars",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which engines may render `*.j2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engines {
    /// Natively what is proven equal, by Ansible what is not.
    #[default]
    Auto,
    /// Natively, or not at all.
    Native,
    /// By Ansible, all of them.
    Ansible,
}

/// Why a template failed, as a program can match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A link, too large, not UTF-8, or not readable.
    Unreadable,
    /// Its result would have no name, an impossible one, or that of another template's result.
    Name,
    /// Not a template of its language.
    Syntax,
    /// A construct or value that is not known to render as Ansible renders it.
    NotNative,
    /// It asks for what is not the bundle's: facts of a host, its clock, its files.
    Refused,
    /// A variable that does not exist was used.
    Undefined,
    /// A value of the wrong kind was used.
    Value,
    /// One of the limits was exceeded; the message names it.
    Limit,
}

impl Code {
    /// The word for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Name => "name",
            Self::Syntax => "syntax",
            Self::NotNative => "not-native",
            Self::Refused => "refused",
            Self::Undefined => "undefined",
            Self::Value => "value",
            Self::Limit => "limit",
        }
    }
}

/// A rendered template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The template, below the templates' directory.
    pub template: RepoPath,
    /// The result's place, below the directory that results go to.
    pub path: RepoPath,
    /// The result.
    pub bytes: Vec<u8>,
    /// What rendered it.
    pub engine: Engine,
    /// Why that and no other engine.
    pub why: String,
    /// What looks wrong in the result; never a reason to fail.
    pub warnings: Vec<Fault>,
}

/// A template that could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{template}:{line}:{column}: {message}")]
pub struct Failed {
    /// The template, below the templates' directory.
    pub template: RepoPath,
    /// Where its result would have gone; `None` where it has no possible name.
    pub result: Option<RepoPath>,
    /// The kind of failure.
    pub code: Code,
    /// The line, counted from 1; 1 where the whole file is meant.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl Failed {
    /// The same as a fault of a file in a directory of templates.
    pub fn fault(&self, directory: &RepoPath) -> Fault {
        let file = directory.join(self.template.as_bytes()).unwrap_or_else(|| self.template.clone());
        let span = Span { line: self.line, column: self.column, length: 1 };
        Fault::new(&file.to_string(), span, lint::word(self.code), &self.message).with_help(&self.help)
    }
}

/// What became of the templates of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The results, in the order of the templates' paths.
    pub rendered: Vec<Rendered>,
    /// The failures, in the order of the templates' paths.
    pub failed: Vec<Failed>,
}

/// The templates of a bundle, whose results have possible names that differ.
#[derive(Clone, Debug)]
pub struct Templates {
    planned: Vec<Planned>,
    failed: Vec<Failed>,
}

#[derive(Clone, Debug)]
struct Planned {
    source: Template,
    result: RepoPath,
    engine: Engine,
}

impl Templates {
    /// Takes templates and finds where their results go; files that are no templates are left out.
    ///
    /// # Errors
    /// Results without a name, or two templates with one result: then nothing may be rendered.
    pub fn new(sources: Vec<Template>) -> Result<Self, Vec<Failed>> {
        names::plan(sources).map(|planned| Self { planned, failed: Vec::new() })
    }

    /// Reads the templates below a directory, following no link.
    ///
    /// A template that is a link or too large is among the failures of [`Self::render`].
    ///
    /// # Errors
    /// Those of [`Self::new`], a directory that can't be listed, or more templates than are taken.
    pub fn collect(tree: &dyn Tree, directory: &RepoPath) -> Result<Self, Vec<Failed>> {
        let found = collect::collect(tree, directory).map_err(|failed| vec![failed])?;
        let mut templates = Self::new(found.templates)?;
        templates.failed = found.failed;
        Ok(templates)
    }

    /// How many templates there are, the unreadable ones included.
    pub fn len(&self) -> usize {
        self.planned.len() + self.failed.len()
    }

    /// Whether there is nothing to render.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Renders every template natively, or not at all, in at most five seconds for all of them together.
    pub fn render(&self, variables: &Variables) -> Outcome {
        self.begin(variables, Engines::Native).finish_without("only native rendering was asked for", "")
    }

    /// Renders what is native, in at most five seconds for all of them together, and leaves the rest open.
    ///
    /// A template that takes long is put off until the others are done, so that it costs them nothing.
    pub fn begin(&self, variables: &Variables, engines: Engines) -> Begun {
        let worker = std::thread::Builder::new().name("render".to_owned()).stack_size(limits::STACK);
        std::thread::scope(|scope| {
            let thread = worker.spawn_scoped(scope, || self.begin_here(variables, engines));
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(begun)) => begun,
                Ok(Err(_)) => self.all_failed("the renderer stopped in the middle"),
                Err(error) => self.all_failed(&format!("no thread can be started: {error}")),
            }
        })
    }

    fn begin_here(&self, variables: &Variables, engines: Engines) -> Begun {
        let end = Instant::now() + limits::TIME;
        let mut output = limits::OUTPUT_BYTES;
        let mut ends: Vec<Option<End>> = self.planned.iter().map(|_| None).collect();
        for slice in [limits::FIRST_SLICE, limits::TIME] {
            for (planned, place) in self.planned.iter().zip(&mut ends).filter(|(_, place)| place.is_none()) {
                let deadline = end.min(Instant::now() + slice);
                let done = planned.render(variables, engines, limits::Budget::new(deadline, output));
                *place = match done {
                    End::Failed(stop) if stop.is_late() && deadline < end => None,
                    End::Rendered(rendered) => {
                        output -= rendered.bytes.len();
                        Some(End::Rendered(rendered))
                    }
                    other => Some(other),
                };
            }
        }
        let mut begun =
            Begun { done: Outcome { rendered: Vec::new(), failed: self.failed.clone() }, ..Begun::default() };
        let mut sources = Vec::new();
        for (planned, end) in self.planned.iter().zip(ends) {
            if !matches!(&end, Some(End::Failed(stop)) if stop.code == Code::Refused) {
                sources.push(planned);
            }
            match end {
                Some(End::Rendered(rendered)) => begun.done.rendered.push(rendered),
                Some(End::Failed(stop)) => begun.done.failed.push(planned.failed(stop)),
                Some(End::Open(stop)) => begun.open.push(ansible::Open { planned: planned.clone(), stop }),
                None => begun.done.failed.push(planned.failed(jinja::Stop::late())),
            }
        }
        if !begun.open.is_empty() {
            begun.handed = Some(ansible::handed(&sources, &begun.open, variables, output));
        }
        begun.variables = Some(variables.clone());
        begun
    }

    fn all_failed(&self, why: &str) -> Begun {
        let stop = |planned: &Planned| planned.failed(jinja::Stop::new(Code::Limit, why, ""));
        let failed = self.planned.iter().map(stop).chain(self.failed.iter().cloned()).collect();
        Begun { done: Outcome { rendered: Vec::new(), failed }, ..Begun::default() }
    }
}

/// A rendering of which the native part is done.
#[derive(Debug, Default)]
pub struct Begun {
    done: Outcome,
    open: Vec<ansible::Open>,
    handed: Option<Handed>,
    /// What the results are checked against; `None` where there are none.
    variables: Option<Variables>,
}

impl Begun {
    /// What Ansible is to render; `None` where nothing is left.
    pub fn handed(&self) -> Option<&Handed> {
        self.handed.as_ref()
    }

    /// Takes Ansible's answers, one for each that was wanted, and ends the rendering.
    pub fn finish(mut self, answers: Vec<Answer>) -> Outcome {
        let missing = || Answer::Failed("it gave no answer".to_owned());
        let mut answers = answers.into_iter();
        for open in std::mem::take(&mut self.open) {
            match open.settle(answers.next().unwrap_or_else(missing)) {
                Ok(rendered) => self.done.rendered.push(rendered),
                Err(failed) => self.done.failed.push(failed),
            }
        }
        self.end()
    }

    /// Ends the rendering where Ansible can't be run; what is left open fails and names its construct.
    pub fn finish_without(mut self, why: &str, help: &str) -> Outcome {
        let open = std::mem::take(&mut self.open);
        self.done.failed.extend(open.into_iter().map(|open| open.unable(why, help)));
        self.end()
    }

    fn end(self) -> Outcome {
        let mut done = self.done;
        done.rendered.sort_by(|a, b| a.template.cmp(&b.template));
        done.failed.sort_by(|a, b| a.template.cmp(&b.template));
        if let Some(variables) = &self.variables {
            for rendered in &mut done.rendered {
                rendered.warnings = lint::result(&rendered.path, &rendered.bytes, variables.image_id());
            }
        }
        done
    }
}

/// What a look at a template came to.
enum End {
    Rendered(Rendered),
    Failed(jinja::Stop),
    /// Left to Ansible, for a reason if it was not asked for.
    Open(Option<jinja::Stop>),
}

impl Planned {
    fn render(&self, variables: &Variables, engines: Engines, budget: limits::Budget) -> End {
        let content = self.source.content.as_slice();
        let rendered = match self.engine {
            Engine::Handlebars => handlebars::render(content, variables, budget),
            Engine::Native | Engine::Ansible => match jinja::refuse_foreign(content, variables) {
                Err(stop) => Err(stop),
                Ok(()) if engines == Engines::Ansible => return End::Open(None),
                Ok(()) => jinja::render(content, variables, budget),
            },
        };
        match rendered {
            Ok(text) => End::Rendered(self.rendered(text.into_bytes(), self.engine, why(self.engine))),
            Err(stop) if self.engine == Engine::Native && engines == Engines::Auto && stop.is_for_ansible() => {
                End::Open(Some(stop))
            }
            Err(stop) => End::Failed(stop),
        }
    }

    fn rendered(&self, bytes: Vec<u8>, engine: Engine, why: String) -> Rendered {
        let (template, path) = (self.source.path.clone(), self.result.clone());
        Rendered { template, path, bytes, engine, why, warnings: Vec::new() }
    }

    fn failed(&self, stop: jinja::Stop) -> Failed {
        let (line, column) = stop.place(&self.source.content);
        Failed {
            template: self.source.path.clone(),
            result: Some(self.result.clone()),
            code: stop.code,
            line,
            column,
            message: stop.message,
            help: stop.help,
        }
    }
}

fn why(engine: Engine) -> String {
    let why = match engine {
        Engine::Native => "every construct in it is known to render as Ansible renders it",
        Engine::Handlebars => "its name ends in .hbs",
        Engine::Ansible => "",
    };
    why.to_owned()
}

/// Reads the templates below a directory of a tree, and renders what is native.
///
/// # Errors
/// Those of [`Templates::collect`]: then nothing was rendered.
pub fn begin(
    tree: &dyn Tree,
    directory: &RepoPath,
    variables: &Variables,
    engines: Engines,
) -> Result<Begun, Vec<Failed>> {
    Ok(Templates::collect(tree, directory)?.begin(variables, engines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::value::Value;

    const IMAGE: &str = "3f8a1c52-7d0e-4b7e-9d58-0a6f2c3b4d5e";

    fn variables() -> Variables {
        let bundle = Value::Map(vec![("name".into(), Value::from("web")), ("nothing".into(), Value::Null)]);
        let file = Value::Map(vec![
            ("bundle".into(), bundle),
            ("title".into(), Value::from("{{ bundle.name }} & co")),
            ("broken".into(), Value::from("{{ missing }}")),
            ("ports".into(), Value::List(vec![Value::Int(80), Value::Int(443)])),
        ]);
        Variables::new(IMAGE).file(&file)
    }

    fn render(templates: &[(&str, &str)]) -> Outcome {
        let template = |(path, text): &(&str, &str)| Template {
            path: RepoPath::new(path).expect("inside"),
            content: text.as_bytes().to_vec(),
        };
        Templates::new(templates.iter().map(template).collect()).expect("names").render(&variables())
    }

    fn text(path: &str, source: &str) -> String {
        let outcome = render(&[(path, source)]);
        match outcome.failed.first() {
            Some(failed) => format!("{failed}\n  {}", failed.help).trim_end().to_owned(),
            None => String::from_utf8_lossy(&outcome.rendered[0].bytes).into_owned(),
        }
    }

    #[test]
    fn a_column_beyond_what_sixteen_bits_hold_is_said_as_it_is() {
        let long = "ü".repeat(70_000);
        for (path, source, column) in [
            ("t.j2", "{{ nope }}", 70_004),
            ("t.j2", "{{ title | uper }}", 70_012),
            ("t.j2", "{{ 1 + }}", 70_008),
            ("t.hbs", "{{nope}}", 70_001),
        ] {
            let outcome = render(&[(path, &format!("x\n{long}{source}"))]);
            let places: Vec<_> = outcome.failed.iter().map(|failed| (failed.line, failed.column)).collect();
            assert_eq!(places, [(2, column)], "{path}: {source}");
        }
    }

    #[test]
    fn a_template_fails_alone() {
        let outcome = render(&[("a.yml.j2", "{{ nope }}"), ("b.yml.j2", "id: {{ result_img_id }}\n"), ("c.txt", "x")]);
        let [rendered] = outcome.rendered.as_slice() else { panic!("one result") };
        assert_eq!((rendered.path.to_string(), rendered.engine.as_str()), ("b.yml".into(), "native"));
        assert_eq!(rendered.bytes, format!("id: {IMAGE}\n").as_bytes());
        assert_eq!(outcome.failed.len(), 1);
    }

    #[test]
    fn failures_say_where_and_what_to_do() {
        let failing = [
            "one\ntwo {{ nope }}\n",
            "{{ bundel.name }}",
            "\r\n\r\nä {{ bundle.nmae }}",
            "{{ broken }}",
            "{% for x in 5 %}{% endfor %}",
            "a\n{% include 'x' %}",
            "{{ title | uper }}",
            "{{ title | to_yaml }}",
            "{{ lookup('env', 'HOME') }}",
            "{{ hostvars['x'] }}",
            "{{ ansible_hostname }}",
            "{{ bundle_target_name }}",
            "{{ 'a' ~ ",
            "#jinja2: keep_trailing_newline: True\nx",
            "{{ 1 +\n 'a' }}",
        ];
        let all: Vec<String> = failing.iter().map(|source| text("t.j2", source)).collect();
        insta::assert_snapshot!(all.join("\n"), @r"
        t.j2:2:8: `nope` is not defined
          set it in the bundle's vars file, or write `| default(…)` after it
        t.j2:1:4: `bundel` is not defined
          did you mean `bundle`?
        t.j2:3:6: `bundle.nmae` is not defined
          the map has: name, nothing
        t.j2:1:4: in the variable `broken`: `missing` is not defined
          set it in the bundle's vars file, or write `| default(…)` after it
        t.j2:1:13: a number has nothing to go through
        t.j2:2:4: `include` is not known to render as Ansible does
          known are text, variables, if, for, set, with, macro, call, filter, comparisons, common filters and tests
        t.j2:1:12: the filter `uper` is not known to render as Ansible does
          did you mean `upper`?
        t.j2:1:12: the filter `to_yaml` is not known to render as Ansible does
          known are text, variables, if, for, set, with, macro, call, filter, comparisons, common filters and tests
        t.j2:1:4: `lookup()` of `env`, which reads what is not the bundle's: a rendering depends on the bundle and the image alone
          set the value in the bundle's vars file under a name of its own
        t.j2:1:4: `hostvars`, which only Ansible on its host knows: a rendering depends on the bundle and the image alone
          set the value in the bundle's vars file under a name of its own
        t.j2:1:4: `ansible_hostname`, a fact of a host: a rendering depends on the bundle and the image alone
          set the value in the bundle's vars file under a name of its own
        t.j2:1:4: in the variable `bundle_target_name`: `ansible_date_time` is not defined
          the moment of the build is not known here: give the names that need it by hand
        t.j2:1:8: unexpected end of input, expected expression
        t.j2:1:1: the first line sets `keep_trailing_newline: True` for Jinja2
          known are `trim_blocks` and `lstrip_blocks`, each `True` or `False`
        t.j2:1:4: a number and text can't be added or subtracted
        ");
    }

    #[test]
    fn handlebars_is_strict_and_escapes_nothing() {
        assert_eq!(text("t.hbs", "{{title}} {{bundle.name}} <{{ports.[1]}}>"), "web & co web <443>");
        assert_eq!(text("t.hbs", "{{#each ports}}{{#unless @first}}, {{/unless}}{{this}}{{/each}}\n"), "80, 443\n");
        assert_eq!(text("t.hbs", "{{#if (eq bundle.name \"web\")}}yes{{else}}no{{/if}}"), "yes");
        assert_eq!(text("t.hbs", "{{#if nope}}yes{{else}}no{{/if}}"), "no");
        let failing = [
            "a\n{{nope}}",
            "{{bundle.nope}}",
            "{{broken}}",
            "{{#each nope}}x{{/each}}",
            "{{> other}}",
            "a\n  {{#*inline \"p\"}}x{{/inline}}",
            "{{nonsense title}}",
            "{{#if title}}",
            "{{ title",
            "{{#if title}}{{/each}}",
            "{{log title}}",
            "{{#if (eq nope 1)}}x{{/if}}",
            "{{#with nope}}x{{/with}}",
            "{{lookup bundle nope}}|{{lookup bundle \"nope\"}}",
            "{{#each ports}}{{../nope}}{{/each}}",
        ];
        let all: Vec<String> = failing.iter().map(|source| text("t.hbs", source)).collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        t.hbs:2:1: `nope` is not defined
          set it in the bundle's vars file
        t.hbs:1:1: `bundle.nope` is not defined
          set it in the bundle's vars file
        t.hbs:1:1: `broken` is not defined
          in the variable `broken`: `missing` is not defined
        t.hbs:1:1: `nope` is not defined
          set it in the bundle's vars file
        t.hbs:1:1: partials and decorators are not known
          write the text here
        t.hbs:2:3: partials and decorators are not known
          write the text here
        t.hbs:1:1: there is no helper `nonsense`
          known are if, unless, each, with, lookup, raw, eq, ne, gt, gte, lt, lte, and, or, not, len
        t.hbs:1:14: a block is opened and not closed
        t.hbs:1:9: this is no handlebars: expected identifier, helper parameter, or trailing tilde to omit whitespace
        t.hbs:1:14: helper "if" was opened, but "each" is closing
        t.hbs:1:1: there is no helper `log`
          known are if, unless, each, with, lookup, raw, eq, ne, gt, gte, lt, lte, and, or, not, len
        t.hbs:1:1: what `eq` is given is not defined
          only if and unless may ask for what does not exist
        t.hbs:1:1: `nope` is not defined
          set it in the bundle's vars file
        t.hbs:1:1: `something here` is not defined
          set it in the bundle's vars file
        t.hbs:1:16: `../nope` is not defined
          set it in the bundle's vars file
        "#);
    }

    #[test]
    fn the_stamp_of_a_build_makes_todays_name() {
        let stamp = Stamp { year: 2026, month: 3, day: 9, hour: 7, minute: 5, second: 1 };
        let source = "{{ bundle_target_name }} {{ ansible_date_time.time }}";
        let template = Template { path: RepoPath::new("t.j2").expect("inside"), content: source.into() };
        let outcome = Templates::new(vec![template]).expect("names").render(&variables().stamp(stamp));
        assert_eq!(outcome.rendered[0].bytes, b"web-2026-03-090705 07:05:01");
    }
}
