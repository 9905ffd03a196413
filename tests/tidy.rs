//! The rules of the house that the compiler does not know: who may import whom, which file may start a process or name
//! a YAML parser, how long files and functions may be, what they are called. ARCHITECTURE.md has the reasons at length.
//!
//! The sources are read as text, with comments and the inside of literals blanked out, so this is a guard rail and not a
//! proof. A rule that is wrong is changed here, in its table, with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A room of the house: a module of the crate's root, and what it may import of the others.
struct Room {
    name: &'static str,
    /// Paths below `crate::`; everything below them is allowed too. `*` is everything.
    may_import: &'static [&'static str],
    because: &'static str,
}

const ROOMS: &[Room] = &[
    room("domain", &[], "it decides, and knows nothing of what acts"),
    room("blocking", &[], "it is a door that others walk through"),
    room("systemd", &[], "it only talks to the service manager"),
    room("telemetry", &[], "it only sets up the log"),
    room("manifest", &["domain"], "it turns text into the domain's words, wherever the text came from"),
    room("config", &["domain"], "it turns text into settings, wherever they are used"),
    room("store", &["domain", "blocking"], "it keeps what it is given and decides nothing"),
    room("render", &["domain", "manifest"], "it turns templates and vars into text"),
    room("source", &["domain", "engine::ports", "blocking"], "adapters know the engine's ports and never each other"),
    room("machine", &["domain", "engine::ports", "blocking"], "adapters know the engine's ports and never each other"),
    room(
        "engine",
        &["domain", "manifest", "store", "render", "blocking"],
        "the outside reaches it through its ports only",
    ),
    room("server", &["domain", "engine", "blocking"], "it shows what the engine's handle tells"),
    room(
        "cli",
        &[
            "domain",
            "server",
            "engine::ports",
            "manifest",
            "config",
            "source",
            "render",
            "daemon",
            "telemetry",
            "blocking",
        ],
        "it is a client of the API; only offline commands work on files",
    ),
    room("daemon", &["*"], "it wires everything"),
    room(
        "main",
        &["cli", "machine::sandbox"],
        "everything is in the library; a sandbox runs this program inside itself",
    ),
];

const fn room(name: &'static str, may_import: &'static [&'static str], because: &'static str) -> Room {
    Room { name, may_import, because }
}

/// Words of the production code that have their place, or places where they must not be.
struct Words {
    words: &'static [&'static str],
    place: Place,
    because: &'static str,
}

enum Place {
    /// Only in files below one of these.
    Only(&'static [&'static str]),
    /// Nowhere below this one.
    Never(&'static str),
}

const WORDS: &[Words] = &[
    Words {
        words: &["Command::new", "process::Command"],
        place: Place::Only(&[
            // QEMU and its tools.
            "src/machine/process.rs",
            // The daemon itself, once more and before anything else, in the same process.
            "src/daemon/heap.rs",
            // What the repository has a say in: bubblewrap, and the programs inside it.
            "src/machine/sandbox/",
            // git, for fetching.
            "src/source/program.rs",
            // The command line's parser has a `Command` too.
            "src/cli/",
        ]),
        because: "child processes start at few doors, where they get their limits, their end and their place in the log",
    },
    Words {
        words: &["serde_yaml::", "saphyr_parser::"],
        place: Place::Only(&["src/manifest/"]),
        because: "YAML is read in one way, with its positions and limits; ask manifest for a value",
    },
    Words {
        words: &["git2::"],
        place: Place::Only(&["src/source/"]),
        because: "git blocks, and its trees are hostile; ask `engine::ports::Repositories`",
    },
    Words {
        words: &["rusqlite::"],
        place: Place::Only(&["src/store/"]),
        because: "one thread owns the database; ask the store",
    },
    Words {
        words: &["ssh2::"],
        place: Place::Only(&["src/machine/"]),
        because: "a session belongs to one thread; ask `engine::ports::Guest`",
    },
    Words {
        words: &["minijinja::", "handlebars::"],
        place: Place::Only(&["src/render/"]),
        because: "templates are rendered under limits; ask render",
    },
    Words {
        words: &["spawn_blocking"],
        place: Place::Only(&["src/blocking.rs"]),
        because: "`blocking::run` keeps the tracing span",
    },
    Words {
        words: &[
            "async",
            "tokio",
            "serde",
            "serde_json",
            "std::fs",
            "std::env",
            "std::net",
            "std::process",
            "std::thread",
            "SystemTime",
            "Instant",
        ],
        place: Place::Never("src/domain/"),
        because: "the domain is pure: no async, no serde, no clock, no file; give it values",
    },
    Words {
        words: &["todo!", "unimplemented!"],
        place: Place::Never(""),
        because: "what is not there is left out; finish it or remove it",
    },
];

/// Lines of code that a file may have before its tests.
const FILE_LIMIT: usize = 500;
/// Lines that a function may have.
const FUNCTION_LIMIT: usize = 80;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 8] = ["utils", "util", "helpers", "helper", "common", "types", "misc", "shared"];

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(root, &root.join(folder), &mut sources);
    }
    assert!(sources.len() > 10, "there are sources below {}", root.display());
    mark_test_files(&mut sources);
    let faults = faults(&sources);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry of the sources").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source is text");
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("a plain name");
            sources.push(Source::new(name, &text));
        }
    }
}

/// A file, and its code without comments and the inside of literals.
struct Source {
    path: String,
    text: String,
    code: String,
    /// Where its tests begin, in bytes of `code`; they go to the end.
    tests: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = code_of(text);
        let stem = stem(path);
        let only_tests = !path.starts_with("src/") || stem == "tests" || stem.ends_with("_tests");
        let tests = if only_tests { 0 } else { test_module(&code, '{').map_or(code.len(), |(at, _)| at) };
        Self { path: path.to_owned(), text: text.to_owned(), code, tests }
    }

    /// Where the module lies that this file declares for its tests (`#[cfg(test)] mod scenarios;`), without `.rs`.
    fn test_file(&self) -> Option<String> {
        let (_, name) = test_module(&self.code, ';')?;
        let folder = self.path.trim_end_matches(".rs");
        let folder = ["/mod", "/lib", "/main"].iter().find_map(|end| folder.strip_suffix(end)).unwrap_or(folder);
        Some(format!("{folder}/{name}"))
    }

    fn production(&self) -> &str {
        &self.code[..self.tests]
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    fn fault(&self, at: usize, message: &str) -> String {
        format!("{}:{}: {message}", self.path, self.line(at))
    }

    /// The modules that lead to this file: `engine`, `stages`, `boot`.
    fn modules(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').collect()
    }
}

fn stem(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// The first module that is compiled for tests only and whose name is followed by this: where it begins, its name.
fn test_module(code: &str, follows: char) -> Option<(usize, &str)> {
    let attribute = "#[cfg(test)]";
    code.match_indices(attribute).find_map(|(at, _)| {
        let name = code[at + attribute.len()..].trim_start().strip_prefix("mod ")?;
        let rest = name.trim_start_matches(is_word);
        rest.trim_start().starts_with(follows).then(|| (at, &name[..name.len() - rest.len()]))
    })
}

/// Marks the files that another file declares as tests.
fn mark_test_files(sources: &mut [Source]) {
    let files: BTreeSet<String> = sources.iter().filter_map(Source::test_file).collect();
    for source in sources.iter_mut() {
        let place = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        if files.contains(place) {
            source.tests = 0;
        }
    }
}

fn faults(sources: &[Source]) -> Vec<String> {
    let rules = [opening, length, functions, names, imports, words, tests_wait_for_events];
    sources.iter().flat_map(|source| rules.iter().flat_map(move |rule| rule(source))).collect()
}

fn opening(source: &Source) -> Vec<String> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![source.fault(0, "the first line is not `//!`; open the file with what it is for and what it must not do")]
}

fn length(source: &Source) -> Vec<String> {
    let lines = source.production().lines().filter(|line| !line.trim().is_empty()).count();
    if lines <= FILE_LIMIT {
        return Vec::new();
    }
    let message =
        format!("{lines} lines of code before the tests, {FILE_LIMIT} are allowed; split it by what it knows");
    vec![source.fault(0, &message)]
}

fn functions(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for at in occurrences(&source.code, "fn") {
        let Some(end) = body_end(&source.code[at..]).map(|end| at + end) else { continue };
        let lines = source.line(end) - source.line(at) + 1;
        if lines > FUNCTION_LIMIT {
            let message =
                format!("a function of {lines} lines, {FUNCTION_LIMIT} are allowed; give its parts their names");
            faults.push(source.fault(at, &message));
        }
    }
    faults
}

/// Where the body of the function ends that begins here; `None` for a type or a declaration.
fn body_end(code: &str) -> Option<usize> {
    let name = code.strip_prefix("fn")?;
    if !name.starts_with(char::is_whitespace) {
        return None;
    }
    let (mut brackets, mut braces) = (0_usize, 0_usize);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' if braces <= 1 => return Some(at),
            '}' => braces -= 1,
            _ => {}
        }
    }
    None
}

fn names(source: &Source) -> Vec<String> {
    let empty = source.path.split('/').map(stem).find(|part| EMPTY_NAMES.contains(part));
    let message = |part| format!("`{part}` says nothing; call the file by what it knows or does");
    empty.map(|part| source.fault(0, &message(part))).into_iter().collect()
}

fn imports(source: &Source) -> Vec<String> {
    let modules = source.modules();
    if !source.path.starts_with("src/") || modules == ["lib"] {
        return Vec::new();
    }
    let Some(room) = ROOMS.iter().find(|room| room.name == modules[0]) else {
        return vec![
            source.fault(0, "a room that tests/tidy.rs does not know; add to ROOMS what it may import, and why"),
        ];
    };
    let allowed = |path: &str| {
        path.split("::").next() == Some(room.name)
            || room.may_import.iter().any(|own| *own == "*" || below(path, own, "::"))
            || !ROOMS.iter().any(|other| below(path, other.name, "::"))
    };
    let mut faults = Vec::new();
    for (at, path) in paths_of_this_crate(source.production(), &modules) {
        if !allowed(&path) {
            let message = format!(
                "`{}` may not import `{path}`: {}. It may import: {}. Pass a value, or put a port between",
                room.name,
                room.because,
                if room.may_import.is_empty() { "nothing".to_owned() } else { room.may_import.join(", ") },
            );
            faults.push(source.fault(at, &message));
        }
    }
    faults
}

fn below(path: &str, parent: &str, separator: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
}

/// Every path that leads to the crate's root and down again, without `crate::`, and where it stands.
fn paths_of_this_crate(code: &str, modules: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate", "factoryd"] {
        for at in occurrences(code, root) {
            if let Some(rest) = code[at + root.len()..].strip_prefix("::") {
                leaves(rest, "", &mut |path| found.push((at, path)));
            }
        }
    }
    for at in occurrences(code, "super").filter(|at| !code[..*at].ends_with("super::")) {
        let (mut rest, mut up) = (&code[at..], 0);
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, up) = (after, up + 1);
        }
        if up == modules.len() {
            leaves(rest, "", &mut |path| found.push((at, path)));
        }
    }
    found
}

/// The paths that a use tree stands for (`a::{b, c::d}` is `a::b` and `a::c::d`); returns what follows the tree.
fn leaves<'c>(code: &'c str, prefix: &str, found: &mut dyn FnMut(String)) -> &'c str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = leaves(rest, prefix, found).trim_start();
            match rest.strip_prefix(',') {
                Some(next) if !next.trim_start().starts_with('}') => rest = next,
                Some(end) => return end.trim_start().trim_start_matches('}'),
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let rest = code.trim_start_matches(is_word);
    let name = &code[..code.len() - rest.len()];
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    match rest.strip_prefix("::") {
        Some(next) => leaves(next, &path, found),
        None => {
            found(path);
            after_alias(rest)
        }
    }
}

/// What follows `as name`, if that comes next.
fn after_alias(code: &str) -> &str {
    match code.trim_start().strip_prefix("as ") {
        Some(alias) => alias.trim_start().trim_start_matches(is_word),
        None => code.strip_prefix('*').unwrap_or(code),
    }
}

fn words(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for rule in WORDS {
        let (applies, place) = match rule.place {
            Place::Only(places) => {
                (!places.iter().any(|place| source.path.starts_with(place)), format!("only in {}", places.join(", ")))
            }
            Place::Never(place) => (source.path.starts_with(place), format!("never in {place}*")),
        };
        // An empty place is the whole repository, tests and all.
        let code = if matches!(rule.place, Place::Never("")) { &source.code } else { source.production() };
        for (word, at) in rule.words.iter().flat_map(|word| occurrences(code, word).map(move |at| (word, at))) {
            if applies {
                faults.push(source.fault(at, &format!("`{word}` stands {place}: {}", rule.because)));
            }
        }
    }
    faults
}

/// Looks at another process from outside, which tells nobody when it is done: there, looks have pauses between them.
const LOOKS_AT_PROCESSES: &str = "tests/daemon/factory.rs";

fn tests_wait_for_events(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let may_pause = source.path == LOOKS_AT_PROCESSES;
    let sleeps = ["thread::sleep", "time::sleep"].into_iter().flat_map(|word| occurrences(&source.code, word));
    for at in sleeps.filter(|at| *at >= source.tests && !may_pause) {
        faults.push(source.fault(at, "a test that sleeps; wait for the event itself, with a deadline"));
    }
    for (at, _) in source.code.match_indices("#[ignore") {
        faults.push(source.fault(at, "a test that never runs; make it run or remove it"));
    }
    faults
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where a word stands that is not a part of a longer one; `git2::` is the crate, and not a function of that name.
fn occurrences<'c>(code: &'c str, word: &'c str) -> impl Iterator<Item = usize> + 'c {
    let open = word.ends_with("::");
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(is_word) && (open || !code[at + word.len()..].starts_with(is_word)))
}

/// The text with its comments as blanks and the inside of its literals as `_`, line by line the same.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let Some((length, filler)) = literal(rest, code.ends_with(is_word)) else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { filler }));
        rest = &rest[length..];
    }
    code
}

/// How long the comment or literal is that begins here, and what to put in its place.
fn literal(rest: &str, in_word: bool) -> Option<(usize, char)> {
    if rest.starts_with("//") {
        return Some((rest.find('\n').unwrap_or(rest.len()), ' '));
    }
    if rest.starts_with("/*") {
        return Some((block_comment(rest), ' '));
    }
    if let Some(after) = rest.strip_prefix('r').filter(|_| !in_word) {
        let hashes = after.len() - after.trim_start_matches('#').len();
        let inside = after[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some((2 + hashes + inside.find(&end).map_or(inside.len(), |at| at + end.len()), '_'));
    }
    if let Some(inside) = rest.strip_prefix('"') {
        return Some((1 + quoted(inside, '"'), '_'));
    }
    let inside = rest.strip_prefix('\'')?;
    // A lifetime has no second quote behind its first letter.
    let mut letters = inside.chars();
    let is_char = letters.next() == Some('\\') || letters.next() == Some('\'');
    is_char.then(|| (1 + quoted(inside, '\''), '_'))
}

fn quoted(inside: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    inside.len()
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

// --- the checker itself, on made-up files

/// The faults of one made-up file, without its path.
fn of(path: &str, text: &str) -> Vec<String> {
    let faults = faults(&[Source::new(path, &format!("//! Made up.\n{text}"))]);
    faults.iter().map(|fault| fault.trim_start_matches(path).trim_start_matches(':').to_owned()).collect()
}

/// How the only fault of a made-up file begins.
fn only_fault(path: &str, text: &str) -> String {
    let faults = of(path, text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    let wrong = [
        "use crate::store::Db;",
        "use crate::{domain::id::BuildNo, store::{self, Db}, blocking};",
        "fn f() { crate::store::open(); }",
        "use super::super::store::Db;",
        "use crate::{\n    domain::id,\n    machine::ssh as shell,\n};",
        "use crate::engine::{ports::Wait, scheduler::Slots};",
        "use crate::engine;",
    ];
    for text in wrong {
        let faults = of("src/source/trees.rs", text);
        assert!(!faults.is_empty() && faults[0].contains("`source` may not import `"), "{text}: {faults:?}");
    }
    let fault = only_fault("src/domain/plan.rs", "\nuse crate::store::Db;");
    let expected =
        "3: `domain` may not import `store::Db`: it decides, and knows nothing of what acts. It may import: nothing.";
    assert!(fault.starts_with(expected), "{fault}");
}

#[test]
fn a_right_import_passes() {
    let text = "use super::mirror::Mirror;\nuse crate::engine::ports::{Wait, Lines};\nuse crate::{blocking, domain::*};\n\
                // use crate::store::Db;\nconst S: &str = \"crate::store\"; const C: char = '\"';\n\
                #[cfg(test)]\nmod tests { use crate::store::Db; use super::super::super::store; }\n";
    assert_eq!(of("src/source/trees.rs", text), [""; 0]);
    assert_eq!(of("src/daemon.rs", "use crate::{store, machine::ssh};"), [""; 0]);
    assert_eq!(of("src/main.rs", "fn main() { factoryd::cli::run() }"), [""; 0]);
    assert!(only_fault("src/main.rs", "use factoryd::store::Db;").contains("`main` may not import"));
    assert!(only_fault("src/attic.rs", "").contains("a room that tests/tidy.rs does not know"));
}

#[test]
fn a_word_out_of_its_place_is_found() {
    assert!(only_fault("src/engine/runner.rs", "fn f() { Command::new(\"rm\"); }").contains("few doors"));
    assert!(only_fault("src/store/db.rs", "use serde_yaml::Value;").contains("only in src/manifest/"));
    assert!(only_fault("src/domain/plan.rs", "use std::time::SystemTime;").contains("the domain is pure"));
    assert!(only_fault("tests/git.rs", "fn f() { todo!() }").contains("left out"));
    assert_eq!(of("src/machine/process.rs", "fn f() { Command::new(\"qemu-img\"); }"), [""; 0]);
    assert_eq!(of("src/store/db.rs", "#[cfg(test)]\nmod tests { fn f() { Command::new(\"git\"); } }"), [""; 0]);
    assert!(only_fault("src/store/db.rs", "use git2::Repository;").contains("only in src/source/"));
    assert_eq!(of("src/store/db.rs", "fn git2() {} // git2::x\n/* git2::x /* */ git2::x */"), [""; 0]);
}

#[test]
fn what_is_too_long_or_says_nothing_is_found() {
    let lines = |count: usize| "    f();\n".repeat(count);
    assert_eq!(of("src/store/db.rs", &format!("fn f() {{\n{}}}", lines(78))), [""; 0]);
    let fault = only_fault("src/store/db.rs", &format!("fn f<'a>(x: [u8; 4]) {{\n'{{';\n{}}}", lines(78)));
    assert!(fault.starts_with("2: a function of 81 lines"), "{fault}");
    let short = "fn f() {}\n".repeat(500);
    assert_eq!(of("src/store/db.rs", &format!("// Why.\n\n{short}#[cfg(test)]\nmod tests {{\n{short}}}")), [""; 0]);
    assert!(only_fault("src/store/db.rs", &format!("{short}fn g() {{}}")).contains("501 lines of code"));
    assert!(only_fault("src/store/utils.rs", "").contains("`utils` says nothing"));
    assert!(only_fault("tests/common/mod.rs", "").contains("`common` says nothing"));
    assert!(faults(&[Source::new("src/store/db.rs", "// No purpose.")])[0].contains("the first line is not `//!`"));
}

#[test]
fn a_test_that_sleeps_or_never_runs_is_found() {
    let sleeping = "#[cfg(test)]\nmod tests { fn f() { std::thread::sleep(S); } }";
    assert!(only_fault("src/store/db.rs", sleeping).starts_with("3: a test that sleeps"));
    let asleep = "async fn f() { tokio::time::sleep(S).await; }";
    assert!(only_fault("tests/qemu.rs", asleep).starts_with("2: a test that sleeps"));
    assert_eq!(of("src/machine/reap.rs", "fn f() { std::thread::sleep(S); }"), [""; 0]);
    assert!(
        only_fault("tests/git.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}").starts_with("3: a test that never runs")
    );
}

#[test]
fn a_file_that_is_declared_as_tests_is_tests() {
    let long = format!("//! Made up.\n{}", "fn f() {}\n".repeat(501));
    let mut sources = [
        Source::new("src/store/mod.rs", "//! Made up.\nmod db;\n#[cfg(test)]\nmod scenarios;\nfn f() {}\n"),
        Source::new("src/store/scenarios.rs", &long),
        Source::new("src/store/db.rs", &long),
    ];
    mark_test_files(&mut sources);
    let faults = faults(&sources);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("src/store/db.rs:1: 501 lines"), "{faults:?}");
}

#[test]
fn every_room_stands_in_the_table_once() {
    let names: BTreeSet<_> = ROOMS.iter().map(|room| room.name).collect();
    assert_eq!(names.len(), ROOMS.len());
    let unknown = ROOMS
        .iter()
        .flat_map(|room| room.may_import)
        .find(|path| **path != "*" && !names.contains(path.split("::").next().unwrap_or_default()));
    assert_eq!(unknown, None, "a room of the table that is no room");
}
