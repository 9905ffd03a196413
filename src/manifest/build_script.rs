//! `os/*/build.sh` of today's factory, read and never run: what it downloads, what it changes in the mounted image before
//! the first boot, and what it calls the result.
//!
//! Of the shell's language only assignments and `$NAME` are worked out. The lines between `guestmount` and `guestunmount`
//! are kept as they are written: they run as a change of the disk, in a guest, where `$ROOT` is what was mounted.

use std::collections::BTreeMap;

use super::fault::{Fault, Source, Span};
use crate::domain::expression::Text;
use crate::domain::inputs::Input;
use crate::domain::value::Value;

/// The script, in a bundle of `os/`.
pub(super) const FILE: &str = "build.sh";

/// What `sed` puts into a copy of the vars before today's playbook reads them.
const IMAGE_TOKEN: &str = "TMP_IMAGE_ID";
const NAME_TOKEN: &str = "B_TARGET_NAME";

/// The variables that [`in_vars`] gives a pipeline.
const KEY: &str = "build_sh";

/// Programs that change or take apart an image in ways that are not read here.
const UNKNOWN: [&str; 14] = [
    "guestfish",
    "kpartx",
    "losetup",
    "mount",
    "qemu-img",
    "qemu-nbd",
    "virt-builder",
    "virt-copy-in",
    "virt-customize",
    "virt-edit",
    "virt-resize",
    "virt-sparsify",
    "virt-sysprep",
    "virt-tar-in",
];

/// What a script says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BuildScript {
    /// How the names of its images begin.
    pub(super) basename: String,
    /// What it downloads.
    pub(super) url: String,
    /// What it does to the mounted image, as lines for a shell, and the line of `guestmount`.
    pub(super) changes: Option<(String, usize)>,
    /// What an author should know.
    pub(super) warnings: Vec<Fault>,
}

/// Reads a script.
///
/// # Errors
/// What has no meaning here, with its lines.
pub(super) fn read(source: &Source) -> Result<BuildScript, Vec<Fault>> {
    let mut reading = Reading { source, names: BTreeMap::new(), faults: Vec::new(), warnings: Vec::new() };
    let (mut url, mut mounted, mut unmounted) = (None, None, None);
    for (number, line) in logical_lines(source) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let inside = mounted.is_some() && unmounted.is_none();
        match words.as_slice() {
            ["guestmount", ..] if mounted.is_none() => mounted = Some((number, words[words.len() - 1].to_owned())),
            ["guestunmount", ..] if inside => unmounted = Some(number),
            _ if inside => {}
            ["wget" | "curl", arguments @ ..] if url.is_none() => url = reading.download(number, arguments),
            ["pushd" | "cd", suite] => reading.directory(suite),
            ["nosetests" | "nosetests3" | "pytest", ..] => reading.suite(number),
            [program, ..] if UNKNOWN.contains(program) => reading.unknown(number, program),
            _ => reading.assign(&line),
        }
    }
    let changes = reading.changes(mounted, unmounted);
    let basename = reading.names.get("BASENAME").cloned();
    if basename.is_none() {
        let help = "it says how the image is called: BASENAME=\"debian-12\"";
        reading.fault(0, "no-basename", "build.sh gives no BASENAME a plain value", help);
    }
    if url.is_none() {
        let help = "it says what the image is made from: `wget -q $IMG_URL`, with http or https";
        reading.fault(0, "no-download", "build.sh downloads nothing whose address can be read", help);
    }
    let Reading { faults, warnings, .. } = reading;
    match (basename, url) {
        (Some(basename), Some(url)) if faults.is_empty() => Ok(BuildScript { basename, url, changes, warnings }),
        _ => Err(faults),
    }
}

/// The vars as today's script leaves them, with what was read from it as `build_sh`.
pub(super) fn in_vars(vars: &Value, script: &BuildScript) -> Value {
    let Value::Map(mut entries) = with_image(vars, &script.url) else { return vars.clone() };
    // Its value is the image's name, which the pipeline says.
    entries.retain(|(key, value)| {
        key != KEY && !(key == "bundle_target_name" && value.as_str().is_some_and(|text| text.contains(NAME_TOKEN)))
    });
    let text = |text: &str| Value::String(text.to_owned());
    let change = |(lines, _): &(String, usize)| {
        Value::Map(vec![("name".to_owned(), text(FILE)), ("shell".to_owned(), text(lines))])
    };
    let read = vec![
        ("basename".to_owned(), text(&script.basename)),
        ("url".to_owned(), text(&script.url)),
        ("changes".to_owned(), Value::List(script.changes.iter().map(change).collect())),
    ];
    entries.push((KEY.to_owned(), Value::Map(read)));
    Value::Map(entries)
}

/// The image's name of a bundle whose vars [`in_vars`] made, as today's script has it, and what of the vars it depends on.
pub(super) fn image_name(vars: &Value) -> Option<(Text, Input)> {
    let basename = vars.get(KEY)?.get("basename")?;
    let stamp = Text::parse("-{{ build.date }}-{{ build.time }}").ok()?;
    let name = Text::concat([Text::literal(basename.as_str()?), stamp]);
    Some((name, Input::value(format!("vars.{KEY}.basename"), basename.canonical())))
}

/// The vars with the download in the place of the image that is uploaded today.
fn with_image(value: &Value, url: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replacen(IMAGE_TOKEN, url, 1)),
        Value::List(items) => Value::List(items.iter().map(|item| with_image(item, url)).collect()),
        Value::Map(entries) => {
            Value::Map(entries.iter().map(|(key, value)| (key.clone(), with_image(value, url))).collect())
        }
        other => other.clone(),
    }
}

struct Reading<'s> {
    source: &'s Source,
    /// Variables whose values are known.
    names: BTreeMap<String, String>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Reading<'_> {
    fn fault(&mut self, line: usize, code: &'static str, message: impl AsRef<str>, help: impl AsRef<str>) {
        self.faults.push(self.source.fault(self.span(line), code, message).with_help(help));
    }

    /// A line from its first character on; line 0 is the file as a whole.
    fn span(&self, line: usize) -> Span {
        if line == 0 {
            return Span::default();
        }
        let text = self.source.line(line);
        let indent = text.chars().take_while(|c| c.is_whitespace()).count();
        Span { line, column: indent + 1, length: text.trim().chars().count().max(1) }
    }

    /// `NAME=value`; a value that only a shell knows makes the name unknown.
    fn assign(&mut self, line: &str) {
        let Some((name, value)) = assignment(line) else { return };
        match self.expand(value) {
            Some(value) => drop(self.names.insert(name.to_owned(), value)),
            None => drop(self.names.remove(name)),
        }
    }

    /// The last directory that is gone to: where the suite lies that runs after.
    fn directory(&mut self, directory: &str) {
        self.names.insert(SUITE.to_owned(), directory.trim_end_matches('/').to_owned());
    }

    fn suite(&mut self, line: usize) {
        let suite = self.names.get(SUITE).map_or_else(|| "here".to_owned(), |suite| format!("in {suite}"));
        let message = format!("the tests that build.sh runs {suite} are not run: they are written for a cloud's API");
        let help = "whether a machine that is booted from the image answers is tested; for more, say `- pytest: …` in a \
                    pipeline of your own, pipelines/os.yml";
        let fault = self.source.fault(self.span(line), "tests-not-run", message).with_help(help);
        self.warnings.push(fault);
    }

    fn unknown(&mut self, line: usize, program: &str) {
        let help = "what changes the image stands between `guestmount` and `guestunmount`, or in `boot.changes` of a \
                    pipeline of your own";
        self.fault(line, "build-script", format!("what `{program}` does to the image is not understood"), help);
    }

    /// The first address among the arguments.
    fn download(&mut self, line: usize, arguments: &[&str]) -> Option<String> {
        let words = arguments.iter().filter(|word| !word.starts_with('-'));
        let expanded: Vec<Option<String>> = words.map(|word| self.expand(word)).collect();
        let is_url = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
        let found = expanded.iter().flatten().find(is_url).cloned();
        if found.is_none() && expanded.iter().any(Option::is_none) {
            let help = "its address must follow from plain assignments above: IMG_URL=http://…/$IMG";
            self.fault(line, "build-script", "what is downloaded here is known to a shell alone", help);
        }
        found
    }

    /// The lines between the two, with the variables that stand before them.
    fn changes(&mut self, mounted: Option<(usize, String)>, unmounted: Option<usize>) -> Option<(String, usize)> {
        let (from, place) = mounted?;
        let Some(to) = unmounted else {
            let help = "the lines between `guestmount` and `guestunmount` are what changes the image";
            self.fault(from, "build-script", "what `guestmount` mounts is never unmounted", help);
            return None;
        };
        let name = place.trim_matches('"').trim_start_matches("${").trim_start_matches('$').trim_end_matches('}');
        let mount = match is_name(name) && place.contains('$') {
            true => format!("{name}=\"$ROOT\""),
            false => format!("cd \"$(mktemp -d)\" && ln -s \"$ROOT\" {place}"),
        };
        let before = logical_lines(self.source).into_iter().take_while(|(line, _)| *line < from);
        let assignments = before.map(|(_, line)| line).filter(|line| assignment(line).is_some());
        let inside = (from + 1..to).map(|line| self.source.line(line).to_owned());
        // As today, a line that fails does not end the script; `exit` does.
        let lines = assignments.chain([mount]).chain(inside).chain([":".to_owned()]);
        Some((lines.collect::<Vec<_>>().join("\n"), from))
    }

    /// A word without its quotes and with its variables filled in; `None` where only a shell knows its value.
    fn expand(&self, word: &str) -> Option<String> {
        let (word, is_literal) = match word.strip_prefix('\'').and_then(|word| word.strip_suffix('\'')) {
            Some(literal) => (literal, true),
            None => (word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap_or(word), false),
        };
        if is_literal {
            return Some(word.to_owned());
        }
        if word.contains(['`', '\\', '"', '\'', ' ', ';', '&', '|']) {
            return None;
        }
        let mut parts = word.split('$');
        let mut out = parts.next()?.to_owned();
        for part in parts {
            let (name, rest) = match part.strip_prefix('{') {
                Some(part) => part.split_once('}')?,
                None => {
                    part.split_at(part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len()))
                }
            };
            out.push_str(self.names.get(name)?);
            out.push_str(rest);
        }
        Some(out)
    }
}

/// Where [`Reading::directory`] keeps its directory: no variable of a shell has such a name.
const SUITE: &str = "/suite";

/// The lines as a shell takes them: one that ends in a backslash goes on in the next.
fn logical_lines(source: &Source) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for number in 1..=source.line_count() {
        let line = source.line(number);
        let (text, next) = line.strip_suffix('\\').map_or((line, false), |text| (text, true));
        match lines.last_mut() {
            Some((_, before)) if goes_on => before.push_str(text),
            _ => lines.push((number, text.to_owned())),
        }
        goes_on = next;
    }
    lines
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    line.trim_start().split_once('=').filter(|(name, _)| is_name(name)).map(|(name, value)| (name, value.trim_end()))
}

fn is_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "#!/bin/sh\nsource  ~/.profile\nBASENAME=\"debian-x\"\nMARK=\"$(date +%F)\"\n\
        IMG=debian.qcow2\nIMG_URL=http://mirror/images/$IMG\n\nTMP_DIR=guest\n\nif [ -f \"$IMG\" ]; then\n    rm $IMG\nfi\n\n\
        echo \"wget -q $IMG_URL\"\nwget -q $IMG_URL\n\nguestmount -a $IMG -i $TMP_DIR\n\nif [ \"$?\" != \"0\" ]; then\n  exit 1\nfi\n\n\
        sed -i \"s#debian#cloud#\" \\\n    $TMP_DIR/etc/cloud/cloud.cfg\n\necho \"guestunmount $TMP_DIR\"\nguestunmount $TMP_DIR\n\n\
        glance image-create --file $IMG\n\npushd ../test-tools/pytesting_os/\nnosetests --nologcapture\npopd\n";

    fn told(text: &str) -> String {
        match read(&Source::new("os/x/build.sh", text)) {
            Ok(script) => panic!("it was taken: {script:?}"),
            Err(faults) => faults.iter().map(|fault| fault.render("error")).collect(),
        }
    }

    #[test]
    fn a_script_says_its_download_its_changes_and_its_name() {
        let script = read(&Source::new("os/x/build.sh", DEBIAN)).expect("understood");
        assert_eq!((script.basename.as_str(), script.url.as_str()), ("debian-x", "http://mirror/images/debian.qcow2"));
        insta::assert_snapshot!(script.changes.expect("changes").0, @r##"
        BASENAME="debian-x"
        MARK="$(date +%F)"
        IMG=debian.qcow2
        IMG_URL=http://mirror/images/$IMG
        TMP_DIR=guest
        TMP_DIR="$ROOT"

        if [ "$?" != "0" ]; then
          exit 1
        fi

        sed -i "s#debian#cloud#" \
            $TMP_DIR/etc/cloud/cloud.cfg

        echo "guestunmount $TMP_DIR"
        :
        "##);
        insta::assert_snapshot!(script.warnings[0].render("warning"), @r"
        warning: the tests that build.sh runs in ../test-tools/pytesting_os are not run: they are written for a cloud's API
           --> os/x/build.sh:32:1
           |
        32 | nosetests --nologcapture
           | ^^^^^^^^^^^^^^^^^^^^^^^^
           |
           = whether a machine that is booted from the image answers is tested; for more, say `- pytest: …` in a pipeline of your own, pipelines/os.yml
        ");
    }

    #[test]
    fn a_script_without_changes_has_none() {
        let script = read(&Source::new("b", "BASENAME='x y'\ncurl -O https://m/a.img\n")).expect("understood");
        assert_eq!((script.basename.as_str(), script.url.as_str(), script.changes), ("x y", "https://m/a.img", None));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        insta::assert_snapshot!(told("BASENAME=$(hostname)\nwget $(cat url)\nqemu-img resize x 5G\nguestmount -i d\n"), @r#"
        error: what is downloaded here is known to a shell alone
          --> os/x/build.sh:2:1
          |
        2 | wget $(cat url)
          | ^^^^^^^^^^^^^^^
          |
          = its address must follow from plain assignments above: IMG_URL=http://…/$IMG
        error: what `qemu-img` does to the image is not understood
          --> os/x/build.sh:3:1
          |
        3 | qemu-img resize x 5G
          | ^^^^^^^^^^^^^^^^^^^^
          |
          = what changes the image stands between `guestmount` and `guestunmount`, or in `boot.changes` of a pipeline of your own
        error: what `guestmount` mounts is never unmounted
          --> os/x/build.sh:4:1
          |
        4 | guestmount -i d
          | ^^^^^^^^^^^^^^^
          |
          = the lines between `guestmount` and `guestunmount` are what changes the image
        error: build.sh gives no BASENAME a plain value
          --> os/x/build.sh
          = it says how the image is called: BASENAME="debian-12"
        error: build.sh downloads nothing whose address can be read
          --> os/x/build.sh
          = it says what the image is made from: `wget -q $IMG_URL`, with http or https
        "#);
    }

    #[test]
    fn the_vars_get_what_sed_gives_them_today() {
        let script = read(&Source::new("b", DEBIAN)).expect("understood");
        let vars = Value::Map(vec![
            ("bundle_target_name".into(), Value::from("B_TARGET_NAME")),
            ("bundle".into(), Value::Map(vec![("img_base".into(), Value::from("TMP_IMAGE_ID"))])),
        ]);
        let vars = in_vars(&vars, &script);
        let image = vars.get("bundle").and_then(|bundle| bundle.get("img_base"));
        assert_eq!(image.and_then(Value::as_str), Some("http://mirror/images/debian.qcow2"));
        assert_eq!(vars.get("bundle_target_name"), None);
        let name = image_name(&vars).expect("a name").0;
        assert_eq!(name.to_string(), "debian-x-{{ build.date }}-{{ build.time }}");
    }
}
