//! What looks wrong in the outputs of a bundle: they must parse, a HOT template must refer to what is there, and the only
//! image that an output names is the new one.
//!
//! Whether a text is YAML is asked of `serde_yaml`, which takes everything that YAML allows; what it refers to is looked up
//! in the tree of our own reader, which knows the place of every node. Nothing here changes what is rendered.

use std::collections::BTreeSet;

use serde::Deserialize as _;

use super::fault::{Fault, Source, Span, did_you_mean, quoted};
use super::node::{Key, Kind, Node};
use super::yaml;

/// Larger outputs are not looked at: our reader takes no larger trees.
const MOST: usize = yaml::MOST_BYTES as usize;
/// Parameters that Heat itself sets.
const PSEUDO: [&str; 3] = ["OS::stack_name", "OS::stack_id", "OS::project_id"];
/// Keys whose value is an image.
const IMAGE_KEYS: [&str; 6] = ["image", "image_id", "image_ref", "imageref", "source_image", "base_image"];

/// An output to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Output<'t> {
    /// Its name, for the faults.
    pub file: &'t str,
    /// Its text.
    pub text: &'t str,
    /// The new image's id; `None` for a file that is not rendered, and can't hold it.
    pub image: Option<&'t str>,
}

/// Where a text is no YAML: the first thing that no parser takes. A key that stands twice is none, since the last one
/// has the say.
pub fn check_yaml(file: &str, text: &str) -> Option<Fault> {
    for document in serde_yaml::Deserializer::from_str(text) {
        let Err(error) = serde_yaml::Value::deserialize(document) else { continue };
        let message = error.to_string();
        if message.contains("duplicate entry") {
            continue;
        }
        let source = Source::new(file, text);
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let help = "what comes out of a template must be YAML where its name ends in .yml or .yaml";
        // The parser looks for the colon up to the next key, and gives up there.
        let stray = (1..line).rev().find(|line| !source.line(*line).trim().is_empty());
        let stray = stray.filter(|line| message.contains("expected ':'") && !source.line(*line).contains(':'));
        let (span, message) = match stray {
            Some(line) => {
                let text = source.line(line).trim_end();
                let indent = text.len() - text.trim_start().len();
                let span = Span { line, column: indent + 1, length: text.chars().count() - indent };
                (
                    span,
                    format!("this is not YAML: {} is neither a key with a value nor part of one", quoted(text.trim())),
                )
            }
            None => {
                let message = message.split(" at line ").next().unwrap_or_default();
                (Span { line, column, length: 1 }, format!("this is not YAML: {message}"))
            }
        };
        return Some(source.fault(span, "not-yaml", message).with_help(help));
    }
    None
}

/// Everything that looks wrong in an output.
pub fn check_output(output: &Output<'_>) -> Vec<Fault> {
    if output.text.len() > MOST {
        return Vec::new();
    }
    let source = Source::new(output.file, output.text);
    let mut faults = Vec::new();
    let named_yaml = [".yml", ".yaml"].iter().any(|end| output.file.trim_end_matches(".j2").ends_with(end));
    faults.extend(named_yaml.then(|| check_yaml(output.file, output.text)).flatten());
    let mut said = Vec::new();
    let root = if named_yaml { yaml::load(&source, &mut said) } else { None };
    faults.extend(said.into_iter().filter(|fault| fault.code == "duplicate-key"));
    match root.as_ref().filter(|root| matches!(root.kind, Kind::Map(_))) {
        Some(root) => {
            let is_hot = root.get("heat_template_version").is_some();
            if is_hot {
                Hot::new(&source, root).check(&mut faults);
            }
            images_in(&source, root, None, output.image, &mut faults);
            if let Some(fault) = nowhere(&source, output, is_hot && faults.iter().all(|one| one.code != FOREIGN)) {
                faults.push(fault);
            }
        }
        None => lines(&source, output, &mut faults),
    }
    super::fault::in_order(&mut faults);
    faults
}

const FOREIGN: &str = "foreign-image";

/// A rendered HOT template that does not name the new image at all.
fn nowhere(source: &Source, output: &Output<'_>, wanted: bool) -> Option<Fault> {
    let image = output.image.filter(|image| wanted && !image.is_empty() && !output.text.contains(*image))?;
    let span = Span { line: 0, column: 0, length: 1 };
    let message = format!("the new image's id, here {image}, is nowhere in the result");
    Some(source.fault(span, "no-image", message).with_help("use {{ result_img_id }} where the image belongs"))
}

/// In a text that is no YAML, a line that speaks of an image is where its id stands.
fn lines(source: &Source, output: &Output<'_>, faults: &mut Vec<Fault>) {
    for line in 1..=source.line_count() {
        let text = source.line(line);
        if !text.to_ascii_lowercase().contains("image") {
            continue;
        }
        if let Some((at, id)) = uuid_in(text).filter(|(_, id)| Some(*id) != output.image) {
            let span = Span { line, column: text[..at].chars().count() + 1, length: id.len() };
            faults.push(foreign(source, span, id, output.image));
        }
    }
}

/// Ids in the places of images, anywhere in a tree.
fn images_in(source: &Source, node: &Node, key: Option<&str>, image: Option<&str>, faults: &mut Vec<Fault>) {
    match &node.kind {
        Kind::Scalar { raw, .. } => {
            let is_place = key.is_some_and(|key| IMAGE_KEYS.contains(&key.to_ascii_lowercase().as_str()));
            let whole = uuid_in(raw).filter(|(at, id)| *at == 0 && id.len() == raw.len());
            if let Some((_, id)) = whole.filter(|(_, id)| is_place && Some(*id) != image) {
                faults.push(foreign(source, source.locate(id, node.span), id, image));
            }
        }
        Kind::List(items) => items.iter().for_each(|item| images_in(source, item, key, image, faults)),
        Kind::Map(entries) => {
            for (name, value) in entries {
                // The default of a parameter stands where the parameter is used.
                let speaks = key.is_some_and(|key| key.to_ascii_lowercase().contains("image"));
                let key = if name.text == "default" && speaks { "image" } else { name.text.as_str() };
                images_in(source, value, Some(key), image, faults);
            }
        }
        Kind::Open(_) => {}
    }
}

fn foreign(source: &Source, span: Span, id: &str, image: Option<&str>) -> Fault {
    let (message, help) = match image {
        Some(_) => (
            format!("{id} stands where the new image belongs, so the image just built is not used"),
            "use {{ result_img_id }} in its place",
        ),
        None => (
            format!("{id} is the id of an image, in a file that is neither rendered nor copied"),
            "make the file a template (NAME.j2) with {{ result_img_id }} in its place, or remove it",
        ),
    };
    source.fault(span, FOREIGN, message).with_help(help)
}

/// The first text in UUID syntax that stands alone, and where it begins in bytes.
fn uuid_in(line: &str) -> Option<(usize, &str)> {
    let bytes = line.as_bytes();
    let free = |at: usize| !bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    (0..bytes.len().saturating_sub(35)).find_map(|at| {
        let is_uuid = bytes[at..at + 36].iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        let alone = (at == 0 || free(at - 1)) && free(at + 36);
        (is_uuid && alone).then(|| (at, &line[at..at + 36]))
    })
}

/// A Heat orchestration template: what it has, and what refers to it.
struct Hot<'t> {
    source: &'t Source,
    root: &'t Node,
    parameters: BTreeSet<&'t str>,
    resources: BTreeSet<&'t str>,
    conditions: BTreeSet<&'t str>,
}

impl<'t> Hot<'t> {
    fn new(source: &'t Source, root: &'t Node) -> Self {
        let names = |section: &str| match root.get(section).map(|node| &node.kind) {
            Some(Kind::Map(entries)) => entries.iter().map(|(key, _)| key.text.as_str()).collect(),
            _ => BTreeSet::new(),
        };
        let mut parameters: BTreeSet<&str> = names("parameters");
        parameters.extend(PSEUDO);
        Self { source, root, parameters, resources: names("resources"), conditions: names("conditions") }
    }

    fn check(&self, faults: &mut Vec<Fault>) {
        if let Some(Kind::Map(resources)) = self.root.get("resources").map(|node| &node.kind) {
            for (key, resource) in resources {
                self.resource(key, resource, faults);
            }
        }
        for section in ["resources", "outputs", "conditions"] {
            self.root.get(section).into_iter().for_each(|node| self.functions(node, faults));
        }
        if let Some(Kind::Map(outputs)) = self.root.get("outputs").map(|node| &node.kind) {
            outputs.iter().for_each(|(_, output)| self.condition(output.get("condition"), faults));
        }
    }

    fn resource(&self, key: &Key, resource: &Node, faults: &mut Vec<Fault>) {
        if resource.get("type").is_none() {
            let message = format!("the resource {} has no type", quoted(&key.text));
            faults.push(self.source.fault(key.span, "no-type", message).with_help("write `type: OS::…`"));
        }
        self.condition(resource.get("condition"), faults);
        match resource.get("depends_on").map(|node| (node, &node.kind)) {
            Some((node, Kind::Scalar { .. })) => self.named(node, &self.resources, "resource", faults),
            Some((_, Kind::List(items))) => {
                items.iter().for_each(|item| self.named(item, &self.resources, "resource", faults));
            }
            _ => {}
        }
    }

    fn condition(&self, node: Option<&Node>, faults: &mut Vec<Fault>) {
        if let Some(node) = node.filter(|node| node.text().is_some()) {
            self.named(node, &self.conditions, "condition", faults);
        }
    }

    /// Functions anywhere in a tree: maps of one key.
    fn functions(&self, node: &Node, faults: &mut Vec<Fault>) {
        match &node.kind {
            Kind::List(items) => items.iter().for_each(|item| self.functions(item, faults)),
            Kind::Map(entries) => {
                if let [(key, value)] = entries.as_slice() {
                    self.function(&key.text, value, faults);
                }
                entries.iter().for_each(|(_, value)| self.functions(value, faults));
            }
            _ => {}
        }
    }

    fn function(&self, name: &str, value: &Node, faults: &mut Vec<Fault>) {
        let (known, what) = match name {
            "get_param" => (&self.parameters, "parameter"),
            "get_resource" | "get_attr" => (&self.resources, "resource"),
            "if" => (&self.conditions, "condition"),
            _ => return,
        };
        match &value.kind {
            Kind::List(items) => {
                items.first().into_iter().for_each(|first| self.named(first, known, what, faults));
            }
            Kind::Scalar { .. } if name != "if" => self.named(value, known, what, faults),
            _ => {}
        }
    }

    /// A name that must be among those that are there.
    fn named(&self, node: &Node, known: &BTreeSet<&str>, what: &str, faults: &mut Vec<Fault>) {
        let Kind::Scalar { raw, .. } = &node.kind else { return };
        if known.contains(raw.as_str()) {
            return;
        }
        let code = match what {
            "parameter" => "unknown-parameter",
            "condition" => "unknown-condition",
            _ => "unknown-resource",
        };
        let fault = self.source.fault(
            Span { length: raw.chars().count().max(1), ..self.source.locate(raw, node.span) },
            code,
            format!("there is no {what} {}", quoted(raw)),
        );
        let hint = did_you_mean(raw, known.iter().copied().filter(|name| !PSEUDO.contains(name)));
        let fault = fault.with_hint(hint.map(|near| format!("did you mean `{near}`?")).unwrap_or_default());
        faults.push(fault.with_help(format!("the template's {what}s are what it may refer to")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "3f8a1c52-7d0e-4b7e-9d58-0a6f2c3b4d5e";
    const OTHER: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

    fn said(file: &str, text: &str) -> Vec<String> {
        let faults = check_output(&Output { file, text, image: Some(NEW) });
        faults
            .iter()
            .map(|fault| format!("{}:{} {}: {}", fault.line, fault.column, fault.code, fault.message))
            .collect()
    }

    #[test]
    fn a_template_that_refers_to_what_is_there_is_left_in_peace() {
        let text = format!(
            "heat_template_version: 2016-10-14\nparameters:\n  key: {{ type: string }}\nconditions:\n  big: {{ equals: \
             [{{ get_param: key }}, x] }}\nresources:\n  net:\n    type: OS::Neutron::Net\n  server:\n    type: \
             OS::Nova::Server\n    depends_on: [net]\n    condition: big\n    properties:\n      image: {NEW}\n      \
             key_name: {{ get_param: key }}\n      name: {{ get_param: 'OS::stack_name' }}\n      networks: [{{ network: \
             {{ get_resource: net }} }}]\n      floating_network_id: {OTHER}\n      user_data:\n        str_replace: {{ \
             template: 'get_param $x', params: {{ $x: {{ if: [big, 1, 2] }} }} }}\noutputs:\n  ip: {{ value: {{ get_attr: \
             [server, first_address] }} }}\n"
        );
        assert_eq!(said("a.heat.yml", &text), [""; 0]);
    }

    #[test]
    fn what_is_not_there_is_named_with_its_place() {
        let text = "heat_template_version: 2013-05-23\nparameters:\n  keypair: { type: string }\nresources:\n  server:\n    \
                    type: OS::Nova::Server\n    depends_on: nett\n    condition: no\n    properties:\n      key: { get_param: \
                    keypiar }\n      image: 0a1b2c3d-0000-4000-8000-0123456789ab\n      a: { get_attr: [sever, x] }\n      b: \
                    { get_resource: gone }\n  other: {}\n";
        assert_eq!(
            said("a.yaml", text),
            [
                "7:17 unknown-resource: there is no resource `nett`",
                "10:25 unknown-parameter: there is no parameter `keypiar`",
                "11:14 foreign-image: 0a1b2c3d-0000-4000-8000-0123456789ab stands where the new image belongs, so the image \
                 just built is not used",
                "12:23 unknown-resource: there is no resource `sever`",
                "13:26 unknown-resource: there is no resource `gone`",
                "14:3 no-type: the resource `other` has no type",
            ]
        );
    }

    #[test]
    fn an_output_must_parse_and_name_the_new_image() {
        assert_eq!(said("a.yml", "heat_template_version: 1\n\nk\n\nx: y\n").len(), 1);
        assert!(said("a.yml", "heat_template_version: 1\n\nk\n\nx: y\n")[0].starts_with("3:1 not-yaml"));
        assert!(said("a.yml", "outputs: 1\nx: y\noutputs: 2\n")[0].starts_with("3:1 duplicate-key"));
        assert_eq!(said("a.txt", "{ not yaml: ["), [""; 0]);
        assert_eq!(said("a.yml", "--- !tag {a: 1}\n--- [b]\n"), [""; 0]);
        assert!(said("a.yml", "heat_template_version: 1\nresources: {}\n")[0].contains("no-image"));
        assert_eq!(said("a.yml", "resources: {}\n"), [""; 0]);
        assert!(said("a.sh", &format!("boot --image {OTHER}\nnet {OTHER}\n"))[0].starts_with("1:14 foreign-image"));
        let parameter = format!("parameters:\n  image_id: {{ default: {OTHER} }}\n  ip: {{ default: {OTHER} }}\n");
        assert_eq!(said("a.yml", &parameter).len(), 1);
    }
}
