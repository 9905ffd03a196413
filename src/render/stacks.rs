//! The Heat templates among the results, each with those results that it reads, as Heat is to be given them.

use super::Rendered;
use crate::domain::stack::StackTemplate;
use crate::manifest::stack_reads;

/// What Heat can be asked about a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether this is a template that it would take. An empty text stands for each of the files that are not at hand.
    Whole {
        /// The template, with what it reads.
        template: StackTemplate,
        /// The files that are not at hand, by the names that it has for them.
        without: Vec<String>,
    },
    /// Nothing, since Heat would refuse it for what it was not given; why, as a phrase.
    Nothing(String),
}

/// The Heat templates among the results.
pub fn heat_templates(rendered: &[Rendered]) -> Vec<(&Rendered, Question)> {
    rendered.iter().filter_map(|one| Some((one, question(one, rendered)?))).collect()
}

fn question(one: &Rendered, all: &[Rendered]) -> Option<Question> {
    let text = std::str::from_utf8(&one.bytes).ok()?;
    let reads = stack_reads(text)?;
    let beside = |name: &String| -> Option<&str> {
        let place = one.path.parent().join(name)?;
        all.iter().find(|other| other.path == place).and_then(|other| std::str::from_utf8(&other.bytes).ok())
    };
    let (mut files, mut without) = (Vec::new(), Vec::new());
    for name in &reads.nested {
        let Some(text) = beside(name) else {
            return Some(Question::Nothing(format!("it is made of {name}, which is not among the outputs")));
        };
        // The names in it count from where it lies, and Heat knows only those that it is given.
        if stack_reads(text).is_some_and(|inner| !inner.nested.is_empty()) {
            return Some(Question::Nothing(format!("it is made of {name}, which is made of other templates")));
        }
        files.push((name.clone(), text.to_owned()));
    }
    for name in &reads.files {
        if beside(name).is_none() {
            without.push(name.clone());
        }
        files.push((name.clone(), beside(name).unwrap_or_default().to_owned()));
    }
    Some(Question::Whole { template: StackTemplate { text: text.to_owned(), files }, without })
}

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::*;
    use crate::domain::path::RepoPath;

    fn rendered(path: &str, text: &str) -> Rendered {
        let path = RepoPath::new(path).expect("a path");
        let (template, bytes) = (path.clone(), text.as_bytes().to_vec());
        Rendered { template, path, bytes, engine: Engine::Native, why: String::new(), warnings: Vec::new() }
    }

    fn hot(resource: &str) -> String {
        format!("heat_template_version: 2016-10-14\nresources: {{a: {resource}}}\n")
    }

    #[test]
    fn a_template_goes_with_the_results_that_it_reads() {
        let inner = hot("{type: OS::Heat::None}");
        let all = [
            rendered("x/inner.yaml", &inner),
            rendered("x/outer.yaml", &hot("{type: inner.yaml, properties: {a: {get_file: ./b.sh}, c: {get_file: c}}}")),
            rendered("x/b.sh", "echo\n"),
        ];
        let stacks = heat_templates(&all);
        let Some((_, Question::Whole { template, without })) = stacks.get(1) else { panic!("{stacks:?}") };
        let files: Vec<(&str, &str)> =
            template.files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(files, [("inner.yaml", inner.as_str()), ("./b.sh", "echo\n"), ("c", "")]);
        assert_eq!((stacks.len(), without.as_slice()), (2, ["c".to_owned()].as_slice()));
    }

    #[test]
    fn nothing_is_asked_of_what_is_made_of_templates_that_are_not_at_hand() {
        let all = [
            rendered("a.yaml", &hot("{type: gone.yaml}")),
            rendered("b.yaml", &hot("{type: a.yaml}")),
            rendered("c.yaml", "no: template\n"),
        ];
        let told: Vec<String> = heat_templates(&all).iter().map(|(_, question)| format!("{question:?}")).collect();
        assert_eq!(
            told,
            [
                "Nothing(\"it is made of gone.yaml, which is not among the outputs\")",
                "Nothing(\"it is made of a.yaml, which is made of other templates\")"
            ]
        );
    }
}
