//! Tools of the host: where they are, and what they say of themselves.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::time::timeout;

/// Where programs of the host are looked for, and what sandboxed programs have as `PATH`.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a tool may take to answer; `ansible-playbook --version` needs half a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Where a program is: a path as it is, a name looked up in [`PATH`].
pub(crate) fn find_program(name: &Path) -> Option<PathBuf> {
    if name.is_absolute() {
        return name.is_file().then(|| name.to_owned());
    }
    PATH.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// What a tool of the host prints when asked with one argument; no repository has a say in it.
pub(crate) async fn ask(program: &Path, argument: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.arg(argument).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/").kill_on_drop(true);
    // Ansible writes there even to say its version; without it, it takes the home of the user, who may have none.
    command.envs(std::env::var_os("HOME").map(|home| ("HOME", home)));
    let said = |error: &dyn std::fmt::Display| format!("`{} {argument}` failed: {error}", program.display());
    let output = timeout(ANSWER_WITHIN, command.stdin(Stdio::null()).output())
        .await
        .map_err(|_| said(&"no answer"))?
        .map_err(|error| said(&error))?;
    let all = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&all);
    if output.status.success() { Ok(text.into_owned()) } else { Err(said(&text.trim())) }
}
