//! The second engine: what is not native goes to the installed Ansible in the sandbox, and comes back as it would from
//! the template module outside of it.

use std::path::PathBuf;
use std::time::Duration;

use factoryd::domain::id::BuildNo;
use factoryd::domain::path::RepoPath;
use factoryd::engine::ports::{Host as _, PortError, Wait};
use factoryd::machine::host::SandboxedHost;
use factoryd::machine::sandbox::Settings;
use factoryd::render::{Code, Engine, Engines, Outcome, Template, Templates};
use tokio::time::Instant;

use super::table::{REFUSED, SAME};
use super::{variables, with_ansible};

/// What no set of ours will hold: Python's `re`, its YAML, its formats, macros of macros, other templates.
const ONLY_ANSIBLES: &[&str] = &[
    "{{ name | regex_replace('^(.)', '<\\\\1>') }} {{ lines | regex_findall('t.') }}\n",
    "{{ none_list | to_nice_yaml(indent=2) }}{{ users | to_yaml }}",
    "{{ users | to_json }} {{ accent | to_nice_json }}\n\n",
    "{{ '%-5s|%05.1f' | format(name, ratio) }}{{ '%s' % accent }}",
    "{{ name | hash('md5') }} {{ name | hash('sha256') }}\r\n",
    "{% macro inner() %}({{ caller() }}){% endmacro %}{% call inner() %}{{ name }}{% endcall %}",
    "{% set ns = namespace(n=0) %}{% for x in numbers %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
    "#jinja2: lstrip_blocks: True\n  {% if yes %}\na\n  {% endif %}\n",
    "#jinja2: variable_start_string: '[%', variable_end_string: '%]'\n[% name %] {{ kept }}\n",
    "{{ lookup('vars', 'lazier') }} {{ query('dict', bundle.properties) | map(attribute='key') | list }}",
    "{% include 'included.j2' %}|{% import 'included.j2' as other %}{{ other.m(name) }}",
    "{{ given }} {{ given | regex_replace('raw', 'cooked') }}",
    "{{ nope | b64decode }}",
    "{{ name | b64decode | nofilter }}",
    "{{ lazy_two }} {{ ['\u{4e2d}'] }}",
    "{% trans %}x{% endtrans %}",
];
const INCLUDED: &str = "{% macro m(x) %}[{{ x }}]{% endmacro %}in {{ name }}\n";

fn templates(sources: &[&str]) -> Templates {
    let template =
        |name: String, text: &str| Template { path: RepoPath::new(name).expect("a path"), content: text.into() };
    let mut all: Vec<Template> =
        sources.iter().enumerate().map(|(at, source)| template(format!("{at}.j2"), source)).collect();
    all.push(template("included.j2".to_owned(), INCLUDED));
    Templates::new(all).expect("names")
}

/// Renders as a build does: what is left open goes to a sandbox of this machine.
fn render(sources: &[&str], engines: Engines) -> Outcome {
    let begun = templates(sources).begin(&variables(), engines);
    let Some(handed) = begun.handed() else { return begun.finish(Vec::new()) };
    let state = tempfile::tempdir().expect("a directory");
    let host = SandboxedHost::new(Settings::new(state.path(), PathBuf::from(env!("CARGO_BIN_EXE_factoryd"))));
    let answers = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let wait = Wait { cancel: Default::default(), deadline: Instant::now() + Duration::from_secs(120) };
        host.render(BuildNo(1), handed, &wait).await
    });
    begun.finish(answers.unwrap_or_else(|PortError { message, help, .. }| panic!("{message}: {help}")))
}

/// What became of the template of this number.
fn result(outcome: &Outcome, at: usize) -> Option<&[u8]> {
    let path = RepoPath::new(format!("{at}.j2")).expect("a path");
    outcome.rendered.iter().find(|one| one.template == path).map(|one| one.bytes.as_slice())
}

#[test]
fn what_is_not_native_comes_from_ansible_itself_in_the_sandbox() {
    let native = SAME.iter().step_by(12).copied();
    let refused = REFUSED.iter().map(|(source, _)| *source);
    let all: Vec<&str> = ONLY_ANSIBLES.iter().copied().chain(refused).chain(native).collect();
    let theirs = with_ansible(&all, &[("included.j2", INCLUDED)]);
    for engines in [Engines::Auto, Engines::Ansible] {
        let outcome = render(&all, engines);
        let mut by_ansible = 0;
        for (at, (source, theirs)) in all.iter().zip(&theirs).enumerate() {
            let failed = outcome.failed.iter().find(|one| one.template.to_string() == format!("{at}.j2"));
            if failed.is_some_and(|failed| failed.code == Code::Refused) {
                continue;
            }
            // What Python says of a method holds its address.
            if theirs.as_ref().is_some_and(|theirs| theirs.starts_with(b"<built-in method")) {
                continue;
            }
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let ours = text(result(&outcome, at));
            assert_eq!(ours, text(theirs.as_deref()), "{engines:?} {source:?} {failed:?}");
        }
        for one in &outcome.rendered {
            by_ansible += usize::from(one.engine == Engine::Ansible);
            assert!(!one.why.is_empty());
        }
        let expected = if engines == Engines::Auto { 20 } else { outcome.rendered.len() };
        assert!(by_ansible >= expected, "{engines:?}: only {by_ansible} by Ansible");
    }
}

#[test]
fn a_hostile_template_sees_nothing_hurts_nobody_and_is_told_what_it_may_not() {
    let canary = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(canary.path(), "canary").expect("written");
    let shell = format!(
        "{{{{ cycler.__init__.__globals__.os.popen('cat {} /etc/hostname; id -u; ls /root /home /var; \
         cat /proc/net/dev | tail -n +3 | cut -d: -f1').read() }}}}",
        canary.path().display()
    );
    let sources = [
        "{{ (10 ** 8) ** (10 ** 7) }}",
        "{{ ('a' * 10 ** 12) | hash('md5') }}",
        &shell,
        "{{ name | hash('md5') }}",
        "{{ cycler.__init__.__globals__.os._exit(3) }}",
        "{{ cycler.__init__.__globals__.os.popen('ln -sf /etc/passwd /work/src/out/5; true').read() }}",
    ];
    let outcome = render(&sources, Engines::Auto);
    let seen = String::from_utf8_lossy(result(&outcome, 2).unwrap_or_default()).into_owned();
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["1000", "lo"], "{seen}");
    assert_eq!(result(&outcome, 3), Some(b"2567a5ec9705eb7ac2c984033e06189d".as_slice()));
    let says = |at: usize, wanted: &str| {
        let failed = outcome.failed.iter().find(|one| one.template.to_string() == format!("{at}.j2"));
        let message = failed.map(|failed| failed.message.clone()).unwrap_or_default();
        assert!(message.contains(wanted), "{at}: {message:?}");
    };
    says(0, "longer than 5 s");
    says(1, "768 MiB of memory");
    says(4, "ended without an answer");
    assert!(result(&outcome, 5).is_none_or(|bytes| !bytes.starts_with(b"root:")), "no link is followed");
}

#[test]
fn all_results_together_may_have_64_mib() {
    let half = "{{ 'x' * (40 * 1024 * 1024) }}{{ name | hash('md5') }}";
    let outcome = render(&[half, half], Engines::Auto);
    assert!(result(&outcome, 0).is_some_and(|bytes| bytes.len() > 40 << 20), "{:?}", outcome.failed);
    assert!(outcome.failed[0].message.contains("64 MiB"), "{:?}", outcome.failed);
}

#[test]
fn without_ansible_a_template_is_refused_by_its_construct() {
    let sources = ["{% include 'included.j2' %}", "{{ name }}", "{% do [] %}"];
    let begun = templates(&sources).begin(&variables(), Engines::Auto);
    let outcome = begun.finish_without("ansible-playbook is not installed", "install it");
    assert_eq!(outcome.rendered.len(), 2);
    let messages: Vec<&str> = outcome.failed.iter().map(|failed| failed.message.as_str()).collect();
    let expected = "`include` is not known to render as Ansible does, and Ansible can't be asked: ansible-playbook is not \
                    installed";
    assert_eq!(messages[0], expected);
    // What can't even be parsed here is nothing that is known to be wrong.
    assert!(outcome.failed.iter().all(|failed| failed.code == Code::NotNative), "{:?}", outcome.failed);
    let unread = "it can't be read natively (expected call expression in call block, got list literal), and Ansible can't be \
                  asked: ansible-playbook is not installed";
    assert_eq!(messages[1], unread);
}
