//! `final_glance_options` of a bundle's vars: flags that today's playbook gives to the image client after a build.
//!
//! What they say wins over the pipeline. Attributes that are no properties stand among the properties by the names that
//! the image service has for them: `min_ram`, `protected`, `tags`, `visibility`.

use super::fault::quoted;

/// What the flags say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GlanceOptions {
    /// The smallest disk in GiB.
    pub(super) min_disk: Option<u64>,
    /// Properties and attributes, sorted by name.
    pub(super) properties: Vec<(String, String)>,
}

/// Reads the flags.
///
/// # Errors
/// What is wrong with them, as a message.
pub(super) fn read(text: &str) -> Result<GlanceOptions, String> {
    let mut options = GlanceOptions::default();
    let mut tags = Vec::new();
    let mut words = words(text)?.into_iter().peekable();
    while let Some(word) = words.next() {
        let (flag, given) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        };
        let set = |options: &mut GlanceOptions, name: &str, value: String| {
            options.properties.retain(|(known, _)| known != name);
            options.properties.push((name.to_owned(), value));
        };
        let is_switch = ["protected", "unprotected", "private", "shared", "community", "public"];
        let name = flag.strip_prefix("--").ok_or_else(|| format!("{} is no flag", quoted(&flag)))?;
        if is_switch.contains(&name) {
            // An older client wants a word behind it.
            let is_word = |word: &String| ["true", "false"].contains(&word.to_lowercase().as_str());
            let word = given.or_else(|| words.next_if(is_word)).unwrap_or_else(|| "true".to_owned());
            let (attribute, value) = match name {
                "protected" => ("protected", word.to_lowercase()),
                "unprotected" => ("protected", "false".to_owned()),
                visibility => ("visibility", visibility.to_owned()),
            };
            set(&mut options, attribute, value);
            continue;
        }
        let mut value = || given.clone().or_else(|| words.next()).ok_or_else(|| format!("`{flag}` wants a value"));
        let number =
            |text: String| text.parse::<u64>().map_err(|_| format!("`{flag}` wants a number, not {}", quoted(&text)));
        match name {
            "min-disk" => options.min_disk = Some(number(value()?)?),
            "min-ram" => {
                let ram = number(value()?)?;
                set(&mut options, "min_ram", ram.to_string());
            }
            "property" => {
                let pair = value()?;
                let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                    return Err(format!("`--property` wants NAME=VALUE, not {}", quoted(&pair)));
                };
                set(&mut options, name, value.to_owned());
            }
            "tag" => tags.push(value()?),
            _ if name.len() > 3 && name.starts_with("os-") => {
                let value = value()?;
                set(&mut options, &name.replace('-', "_"), value);
            }
            _ => return Err(format!("the flag {} is not understood", quoted(&flag))),
        }
    }
    if !tags.is_empty() {
        options.properties.push(("tags".to_owned(), tags.join(",")));
    }
    options.properties.sort();
    Ok(options)
}

/// The words of a shell's line: quotes taken off.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => word.extend(chars.next()),
                        Some(other) => word.push(other),
                        None => return Err("a quote is never closed".to_owned()),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() => words.extend(word.take()),
            '$' | '`' | '|' | ';' | '&' | '<' | '>' => {
                return Err(format!("`{c}` would be a shell's, and none is run"));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_an_image_is() {
        let told = read(
            "--min-disk 20 --min-ram=512 --property  img_os='Debian 12' --protected True --tag a --tag b --private --os-distro debian",
        );
        let options = told.expect("flags");
        let properties: Vec<String> =
            options.properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected =
            ["img_os=Debian 12", "min_ram=512", "os_distro=debian", "protected=true", "tags=a,b", "visibility=private"];
        assert_eq!((options.min_disk, properties), (Some(20), expected.map(str::to_owned).to_vec()));
        assert_eq!(
            read("--protected --unprotected").expect("flags").properties,
            [("protected".into(), "false".into())]
        );
        assert_eq!(read("  "), Ok(GlanceOptions::default()));
    }

    #[test]
    fn what_is_no_known_flag_is_named() {
        let cases = [
            ("--owner me", "the flag `--owner` is not understood"),
            ("--min-disk big", "`--min-disk` wants a number, not `big`"),
            ("--min-disk", "`--min-disk` wants a value"),
            ("--property x", "`--property` wants NAME=VALUE, not `x`"),
            ("min-disk", "`min-disk` is no flag"),
            ("--tag 'x", "a quote is never closed"),
            ("--tag $(id)", "`$` would be a shell's, and none is run"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).expect_err(text), expected);
        }
    }
}
