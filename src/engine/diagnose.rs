//! Finds the lines of a failed step's output that say what failed, so that they can be shown first.

/// The number of a log line and its text.
pub type NumberedLine = (u64, String);

/// How well a line tells what failed, the best first.
const SIGNS: [fn(&str) -> bool; 5] = [
    |line| line.starts_with("E   "),
    |line| line.starts_with("fatal: [") || line.starts_with("failed: ["),
    |line| line.starts_with("ERROR! ") || line.starts_with("FAILED ") || line.starts_with("ERROR "),
    |line| {
        line.starts_with("E: ") || line.contains(": command not found") || line.contains("No such file or directory")
    },
    |line| {
        let lower = line.to_ascii_lowercase();
        lower.contains("error") || lower.contains("failed") || lower.contains("cannot ")
    },
];

/// The first line that tells best what failed; the last line with anything in it, where none does.
pub fn first_error(lines: &[NumberedLine]) -> Option<&NumberedLine> {
    SIGNS
        .iter()
        .find_map(|sign| lines.iter().find(|(_, text)| sign(text.trim_end())))
        .or_else(|| lines.iter().rev().find(|(_, text)| !text.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[&str]) -> Option<String> {
        let numbered: Vec<NumberedLine> = (1..).zip(lines.iter().map(|line| (*line).to_owned())).collect();
        first_error(&numbered).map(|(number, text)| format!("{number} {text}"))
    }

    #[test]
    fn the_line_that_says_what_failed_comes_first() {
        assert_eq!(
            found(&["TASK [nginx]", "fatal: [local]: FAILED! => {\"msg\": \"No package\"}", "PLAY RECAP", "failed=1"]),
            Some("2 fatal: [local]: FAILED! => {\"msg\": \"No package\"}".to_owned()),
        );
        assert_eq!(
            found(&["test_port FAILED", "E   AssertionError: 80 is closed", "FAILED tests/x.py::test_port"]),
            Some("2 E   AssertionError: 80 is closed".to_owned()),
        );
        assert_eq!(found(&["all is", "done", ""]), Some("2 done".to_owned()));
        assert_eq!(found(&[]), None);
    }
}
