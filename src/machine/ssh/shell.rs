//! Shell text for the guest: quoting, the frame around a command, and the script that ends what a command started.

use crate::engine::ports::PortError;

/// The longest command, in bytes. Linux takes 128 KiB in one argument, and quoting makes it longer.
const LONGEST: usize = 48 * 1024;

/// A command in its frame. The frame first prints a line with a mark and the process id of its shell, which sshd made
/// the leader of a session of its own: that is how everything below it is found again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrapped {
    /// What is sent to sshd.
    pub(super) text: String,
    /// The start of the line that holds the process id.
    pub(super) mark: String,
    /// What people call it: its first line, cut.
    pub(super) summary: String,
    /// Whether it is given a terminal.
    pub(super) terminal: bool,
}

impl Wrapped {
    /// Frames a command for the login user's own shell.
    pub(super) fn command(command: &str, env: &[(String, String)]) -> Result<Self, PortError> {
        let mut assignments = String::new();
        for (name, value) in env {
            assignments.push_str(&assignment(name, value)?);
        }
        let env = if assignments.is_empty() { String::new() } else { format!("env{assignments} ") };
        Self::frame(command, &format!("exec {env}\"${{SHELL:-/bin/sh}}\" -c {} 2>&1", quote(command)))
    }

    /// Frames a script of ours for `/bin/sh`, with arguments.
    pub(super) fn script(script: &str, args: &[&str]) -> Result<Self, PortError> {
        let args: String = args.iter().map(|arg| format!(" {}", quote(arg))).collect();
        Self::frame(script, &format!("exec /bin/sh -c {} sh{args} 2>&1", quote(script)))
    }

    fn frame(command: &str, last: &str) -> Result<Self, PortError> {
        if command.contains('\0') || last.contains('\0') {
            return Err(PortError::failed("a command can't hold a NUL"));
        }
        let mark = format!("factoryd-{}", uuid::Uuid::new_v4().simple());
        // `exec` everywhere: sshd reports how the command itself ended, a signal included. Both its streams go into one
        // already in the guest, since sshd reads two pipes in no certain order.
        let text = format!("exec /bin/sh -c {}", quote(&format!("echo {mark} $$; {last}")));
        if text.len() > LONGEST {
            return Err(PortError::failed(format!(
                "a command of {} bytes is longer than a guest takes",
                command.len()
            ))
            .help("put it into a file of the bundle and use `script:`"));
        }
        let summary = command.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        Ok(Self { text, mark, summary: summary.chars().take(60).collect(), terminal: false })
    }
}

/// Ends every process of a session and all that descends from it: TERM, two seconds, KILL. Processes that went into a
/// session of their own and whose parents are gone are daemons that were meant to stay.
pub(super) const END_SESSION: &str = r#"session=$1
find_all() {
  list=' '; more=1
  while [ $more = 1 ]; do
    more=0
    for entry in /proc/[0-9]*; do
      pid=${entry#/proc/}
      case "$list" in *" $pid "*) continue ;; esac
      { read -r stat < "$entry/stat"; } 2>/dev/null || continue
      set -- ${stat##*) }
      [ "$1" = Z ] && continue
      case "$list" in *" $2 "*) ;; *) [ "$4" = "$session" ] || continue ;; esac
      list="$list$pid "; more=1
    done
  done
  [ "$list" != ' ' ]
}
for signal in TERM KILL; do
  find_all || exit 0
  kill -$signal $list 2>/dev/null || sudo -n kill -$signal $list 2>/dev/null
  tries=0
  while [ $tries -lt 10 ]; do
    find_all || exit 0
    sleep 0.2
    tries=$((tries + 1))
  done
done
exit 1
"#;

/// Quotes a text for a POSIX shell.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn assignment(name: &str, value: &str) -> Result<String, PortError> {
    let mut letters = name.chars();
    let first = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !first || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(PortError::failed(format!("{name:?} can't be the name of an environment variable"))
            .help("names are letters, digits and _, and do not begin with a digit"));
    }
    Ok(format!(" {name}={}", quote(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in ["plain", "it's", "a\nb", "$HOME `id` \"x\" \\", "''"] {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(text))).output();
            assert_eq!(output.expect("sh runs").stdout, text.as_bytes());
        }
    }

    #[test]
    fn names_of_variables_and_long_commands_are_refused() {
        let env = |name: &str| Wrapped::command("true", &[(name.to_owned(), String::new())]);
        assert!(env("A_1").is_ok());
        assert!(env("x; reboot").is_err());
        assert!(env("1A").is_err());
        assert!(Wrapped::command(&"x".repeat(LONGEST), &[]).expect_err("too long").help.contains("script:"));
    }

    #[test]
    fn the_frame_ends_everything_below_it() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let mut child = Command::new("setsid");
        child.args(["-w", "sh", "-c", "echo $$; sh -c 'trap \"\" TERM; sleep 600 & wait' & setsid sleep 600 & wait"]);
        let mut child = child.stdout(Stdio::piped()).spawn().expect("setsid is part of util-linux");
        let mut leader = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut leader).expect("a line");
        let end = Command::new("sh").args(["-c", END_SESSION, "sh", leader.trim()]).status().expect("sh runs");
        assert!(end.success());
        child.wait().expect("it ended");
    }
}
