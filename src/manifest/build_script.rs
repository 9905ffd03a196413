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

/// The most bytes of a variable's value that is worked out, and of an address.
const MOST_VALUE: usize = 4096;
const MOST_URL: usize = 2048;

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
    let mut reading = Reading::new(source);
    let lines = logical_lines(source);
    for line in &lines {
        reading.line(line);
    }
    let changes = reading.changes(&lines);
    let basename = reading.names.get("BASENAME").cloned();
    if basename.is_none() {
        let help = "it says how the image is called: BASENAME=\"debian-12\"";
        reading.fault(0, "no-basename", "build.sh gives no BASENAME a plain value", help);
    }
    let download = reading.download();
    let Reading { faults, mut warnings, .. } = reading;
    match (basename, download) {
        (Some(basename), Some((url, span))) if faults.is_empty() => {
            warnings.push(no_checksum(source, span, &url));
            Ok(BuildScript { basename, url, changes, warnings })
        }
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
    let basename = Value::String(script.basename.clone());
    entries.push((KEY.to_owned(), Value::Map(vec![("basename".to_owned(), basename)])));
    Value::Map(entries)
}

/// The image's name of a bundle whose vars [`in_vars`] made, as today's script has it, and what of the vars it depends on.
pub(super) fn image_name(vars: &Value) -> Option<(Text, Input)> {
    let basename = vars.get(KEY)?.get("basename")?;
    let stamp = Text::parse("-{{ build.date }}-{{ build.time }}").ok()?;
    let name = Text::concat([Text::literal(basename.as_str()?), stamp]);
    Some((name, Input::value(format!("vars.{KEY}.basename"), basename.canonical())))
}

/// The code of what [`no_checksum`] says.
pub(super) const NO_CHECKSUM: &str = "no-checksum";

/// What an author should know of a base image by its address alone, at the place that names it.
pub(super) fn no_checksum(source: &Source, span: Span, url: &str) -> Fault {
    let message = format!("nothing says what the bytes of {url} must sum to");
    let help = format!(
        "the factory's configuration must: [base.\"{url}\"] with url, sha256 and format, or with the path of a copy"
    );
    source.fault(span, NO_CHECKSUM, message).with_help(help)
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

/// A line as a shell takes it: one that ends in a backslash goes on in the next.
struct Line {
    first: usize,
    last: usize,
    text: String,
}

/// Where the mounted image is, and which lines change it.
struct Mounted {
    first: usize,
    /// The first line behind it.
    from: usize,
    /// The word that names the place.
    place: String,
    /// The line of `guestunmount`.
    to: Option<usize>,
}

struct Reading<'s> {
    source: &'s Source,
    /// Variables whose values are known.
    names: BTreeMap<String, String>,
    /// Addresses with their lines; `None` where only a shell knows them.
    downloads: Vec<(usize, Option<String>)>,
    /// The names of files that are mounted or uploaded.
    images: Vec<String>,
    mounted: Option<Mounted>,
    /// The last directory that was gone to.
    directory: String,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl<'s> Reading<'s> {
    fn new(source: &'s Source) -> Self {
        Self {
            source,
            names: BTreeMap::new(),
            downloads: Vec::new(),
            images: Vec::new(),
            mounted: None,
            directory: "here".to_owned(),
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn line(&mut self, line: &Line) {
        let words: Vec<&str> = line.text.split_whitespace().collect();
        if words.first().is_none_or(|first| first.starts_with('#') || matches!(*first, "echo" | "printf")) {
            return;
        }
        if let Some(mounted) = self.mounted.as_mut().filter(|mounted| mounted.to.is_none()) {
            if words[0] == "guestunmount" {
                mounted.to = Some(line.first);
            }
            return;
        }
        let uploads = words.windows(2).filter(|pair| pair[0] == "--file");
        let uploaded: Vec<String> = uploads.filter_map(|pair| self.expand(pair[1])).collect();
        self.images.extend(uploaded);
        match words.as_slice() {
            ["guestmount", ..] => self.mount(line, &words),
            _ if programs(&words).any(|program| program == "guestmount") => self.odd_mount(line.first),
            ["wget" | "curl", arguments @ ..] => {
                let url = self.address(arguments);
                self.downloads.push((line.first, url));
            }
            ["pushd" | "cd", directory] => self.directory = format!("in {}", directory.trim_end_matches('/')),
            ["nosetests" | "nosetests3" | "pytest", ..] => self.suite(line.first),
            _ => match programs(&words).find(|program| UNKNOWN.contains(program)) {
                Some(program) => self.unknown(line.first, program),
                None => self.assign(line),
            },
        }
    }

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
    fn assign(&mut self, line: &Line) {
        let Some((name, value)) = assignment(&line.text) else { return };
        if !is_closed(value) {
            let help = "write the value into one line, or set it between `guestmount` and `guestunmount`";
            return self.fault(line.first, "build-script", "a value of more than one line is not understood", help);
        }
        match self.expand(value) {
            Some(value) => drop(self.names.insert(name.to_owned(), value)),
            None => drop(self.names.remove(name)),
        }
    }

    fn suite(&mut self, line: usize) {
        let directory = &self.directory;
        let message =
            format!("the tests that build.sh runs {directory} are not run: they are written for a cloud's API");
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
    fn address(&self, arguments: &[&str]) -> Option<String> {
        let words = arguments.iter().filter(|word| !word.starts_with('-'));
        let is_url = |url: &String| {
            let is_web = url.starts_with("http://") || url.starts_with("https://");
            is_web && url.len() <= MOST_URL && !url.contains("{{")
        };
        words.filter_map(|word| self.expand(word)).find(is_url)
    }

    /// The download that is the image: the only one whose address is known, or the one whose file is mounted or uploaded.
    fn download(&mut self) -> Option<(String, Span)> {
        let known: Vec<(usize, String)> =
            self.downloads.iter().filter_map(|(line, url)| Some((*line, url.clone()?))).collect();
        let last = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
        let named: Vec<_> = known.iter().filter(|(_, url)| self.images.contains(&last(url))).collect();
        match (named.as_slice(), known.as_slice()) {
            ([(line, url), ..], _) | (_, [(line, url)]) => return Some((url.clone(), self.span(*line))),
            (_, [_, (line, _), ..]) => {
                let help = "name the file of the image where it is mounted: `guestmount -a $IMG -i $TMP_DIR`";
                self.fault(*line, "build-script", "which of the downloads is the image is not to be seen", help);
            }
            _ => {
                let line = self.downloads.first().map_or(0, |(line, _)| *line);
                let help = "it says what the image is made from: `wget -q $IMG_URL`, with http or https, from plain \
                            assignments above: IMG_URL=http://…/$IMG";
                self.fault(line, "no-download", "build.sh downloads nothing whose address can be read", help);
            }
        }
        None
    }

    fn odd_mount(&mut self, line: usize) {
        let help =
            "write it alone in its line, once, and with a variable for the place: `guestmount -a $IMG -i $TMP_DIR`";
        self.fault(line, "build-script", "how `guestmount` is called here is not understood", help);
    }

    fn mount(&mut self, line: &Line, words: &[&str]) {
        let place = words[words.len() - 1];
        let name = variable(place);
        let is_plain = !line.text.contains(['|', '&', ';', '<', '>', '#', '(']);
        if self.mounted.is_some() || !is_plain || !(name.is_some() || is_relative(place)) {
            return self.odd_mount(line.first);
        }
        let file = words.windows(2).find(|pair| pair[0] == "-a").and_then(|pair| self.expand(pair[1]));
        self.images.extend(file);
        self.mounted = Some(Mounted { first: line.first, from: line.last + 1, place: place.to_owned(), to: None });
    }

    /// The lines between the two, with the variables that stand before them.
    fn changes(&mut self, lines: &[Line]) -> Option<(String, usize)> {
        let Mounted { first, from, place, to } = self.mounted.take()?;
        let Some(to) = to else {
            let help = "the lines between `guestmount` and `guestunmount` are what changes the image";
            self.fault(first, "build-script", "what `guestmount` mounts is never unmounted", help);
            return None;
        };
        let inside: Vec<String> = (from..to).map(|line| self.source.line(line).to_owned()).collect();
        let name = variable(&place);
        let mentioned = name.unwrap_or(&place);
        if inside.iter().all(|line| line.trim().is_empty()) {
            return None;
        }
        if !inside.iter().any(|line| line.contains(mentioned)) {
            let help = format!("the lines before `guestunmount` must name it: {place}/etc/…");
            self.fault(first, "build-script", "nothing is changed in what is mounted here", help);
        }
        let mount = match name {
            Some(name) => format!("{name}=\"$ROOT\""),
            None => format!("cd \"$(mktemp -d)\" && ln -s \"$ROOT\" {place}"),
        };
        let before = lines.iter().take_while(|line| line.first < first);
        let kept = |line: &&Line| assignment(&line.text).is_some() || line.text.trim_start().starts_with("set ");
        let before = before.filter(kept).map(|line| line.text.clone());
        // As today, a line that fails does not end the script, unless it says `set -e`; `exit` does.
        let all = before.chain([mount]).chain(inside).chain([":".to_owned()]);
        Some((all.collect::<Vec<_>>().join("\n"), first))
    }

    /// A word without its quotes and with its variables filled in; `None` where only a shell knows its value.
    fn expand(&self, word: &str) -> Option<String> {
        if let Some(literal) = word.strip_prefix('\'').and_then(|word| word.strip_suffix('\'')) {
            return Some(literal.to_owned());
        }
        let word = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap_or(word);
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
            if out.len() > MOST_VALUE {
                return None;
            }
        }
        (out.len() <= MOST_VALUE).then_some(out)
    }
}

/// The lines as a shell takes them.
fn logical_lines(source: &Source) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut goes_on = false;
    for number in 1..=source.line_count() {
        let line = source.line(number);
        let (text, next) = line.strip_suffix('\\').map_or((line, false), |text| (text, true));
        match lines.last_mut() {
            Some(before) if goes_on => {
                before.text.push_str(text);
                before.last = number;
            }
            _ => lines.push(Line { first: number, last: number, text: text.to_owned() }),
        }
        goes_on = next;
    }
    lines
}

/// The words of a line that stand where a shell looks for a program.
fn programs<'w>(words: &'w [&'w str]) -> impl Iterator<Item = &'w str> {
    const BEFORE: [&str; 12] = ["sudo", "if", "!", "then", "do", "else", "exec", "time", "while", "&&", "||", "|"];
    let mut is_next = true;
    words.iter().filter_map(move |word| {
        let is_program = is_next || word.starts_with(['(', '`']) || word.contains("$(");
        let is_setting = is_next && assignment(word).is_some();
        is_next = BEFORE.contains(word) || word.ends_with(';') || is_setting;
        is_program.then(|| bare(word.rsplit("$(").next().unwrap_or(word)))
    })
}

/// A word without what a shell's grammar puts around it: `(guestmount`, `"$(qemu-img`, `mount;`.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| "()`\"'$;|&!{}".contains(c))
}

/// The name of a word that is one variable.
fn variable(word: &str) -> Option<&str> {
    let name = word.trim_matches('"').strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    is_name(name).then_some(name)
}

/// Whether a word is a plain directory below the one that the script is in.
fn is_relative(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    !word.starts_with(['/', '-', '.']) && !word.contains("..") && word.chars().all(is_plain) && !word.ends_with('/')
}

/// Whether the quotes of a value end where they begin.
fn is_closed(value: &str) -> bool {
    let mut open = None;
    let mut escaped = false;
    for c in value.chars() {
        match (open, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '"' | '\'') => open = Some(c),
            (Some(quote), c) if quote == c => open = None,
            _ => {}
        }
    }
    open.is_none()
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
        let script = "BASENAME=$(hostname)\nwget $(cat url)\nqemu-img resize x 5G\nguestmount -i guest\n";
        insta::assert_snapshot!(told(script), @r#"
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
        4 | guestmount -i guest
          | ^^^^^^^^^^^^^^^^^^^
          |
          = the lines between `guestmount` and `guestunmount` are what changes the image
        error: build.sh gives no BASENAME a plain value
          --> os/x/build.sh
          = it says how the image is called: BASENAME="debian-12"
        error: build.sh downloads nothing whose address can be read
          --> os/x/build.sh:2:1
          |
        2 | wget $(cat url)
          | ^^^^^^^^^^^^^^^
          |
          = it says what the image is made from: `wget -q $IMG_URL`, with http or https, from plain assignments above: IMG_URL=http://…/$IMG
        "#);
    }

    #[test]
    fn a_change_that_would_be_lost_is_a_fault_at_its_line() {
        let plain = "guestmount -a $IMG -i $TMP_DIR";
        for odd in [
            "guestmount -a $IMG -i $TMP_DIR || exit 1",
            "guestmount -a $IMG -i $TMP_DIR >/dev/null 2>&1",
            "guestmount -a $IMG -i /mnt",
            "sudo guestmount -a $IMG -i $TMP_DIR",
            "if ! guestmount -a $IMG -i $TMP_DIR; then exit 1; fi",
            "sudo virt-customize -a $IMG --install x",
            "if ! qemu-img resize $IMG 5G; then exit 1; fi",
            "LIBGUESTFS_BACKEND=direct virt-sysprep -a $IMG",
            "OUT=$(qemu-img info $IMG)",
            "NOTE=\"one\ntwo\"\nguestmount -a $IMG -i $TMP_DIR",
        ] {
            let told = told(&DEBIAN.replace(plain, odd));
            assert!(told.contains("not understood") && told.contains("--> os/x/build.sh:17:1"), "{odd}: {told}");
        }
        let twice =
            DEBIAN.replace("glance image-create", &format!("{plain}\nrm $TMP_DIR/x\nguestunmount $TMP_DIR\nglance"));
        assert!(told(&twice).contains("how `guestmount` is called here is not understood"));
        let elsewhere = DEBIAN
            .replace("$TMP_DIR/etc/cloud/cloud.cfg", "/etc/cloud.cfg")
            .replace("echo \"guestunmount $TMP_DIR\"\n", "");
        assert!(told(&elsewhere).contains("nothing is changed in what is mounted here"), "{}", told(&elsewhere));
    }

    #[test]
    fn lines_are_taken_over_as_a_shell_takes_them() {
        let script = DEBIAN.replace("guestmount -a $IMG -i", "set -e\nguestmount -a $IMG \\\n  -i");
        let changes = read(&Source::new("b", &script)).expect("understood").changes.expect("changes").0;
        assert!(changes.contains("\nset -e\nTMP_DIR=\"$ROOT\"\n\nif [ \"$?\""), "{changes}");
    }

    #[test]
    fn the_download_of_the_image_is_told_from_others() {
        let sums = DEBIAN.replace("wget -q $IMG_URL", "wget http://mirror/SHA256SUMS\nwget -q $IMG_URL");
        assert_eq!(read(&Source::new("b", &sums)).expect("understood").url, "http://mirror/images/debian.qcow2");
        let two = "BASENAME=x\nwget http://m/a.img\nwget http://m/b.img\n";
        assert!(told(two).contains("which of the downloads is the image"));
    }

    #[test]
    fn a_script_that_grows_without_end_does_not() {
        let doubling = "A=$A$A\n".repeat(60);
        let script = format!("BASENAME=x\nA=xxxxxxxxxxxxxxxx\n{doubling}wget http://m/$A\n");
        assert!(told(&script).contains("downloads nothing whose address can be read"));
        let long = format!("BASENAME=x\nwget http://m/{}\n", "y".repeat(5000));
        assert!(told(&long).contains("downloads nothing whose address can be read"));
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
