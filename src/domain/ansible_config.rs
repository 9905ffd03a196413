//! What a repository's own `ansible.cfg` says, as far as the factory must know it: which files of the repository it leads
//! to, and what has to stand beside the settings that the sandbox makes.
//!
//! The format is that of Python's `configparser` as Ansible opens it: sections, `key = value` or `key: value`, values that
//! go on in indented lines, comments behind `#` and `;`. Keys do not care about case. What Ansible would refuse in it
//! Ansible refuses.

/// Keys of `[defaults]` whose values are lists of paths, relative to the file.
const PATHS: [&str; 24] = [
    "action_plugins",
    "become_plugins",
    "cache_plugins",
    "callback_plugins",
    "cliconf_plugins",
    "collections_path",
    "collections_paths",
    "connection_plugins",
    "doc_fragment_plugins",
    "filter_plugins",
    "httpapi_plugins",
    "inventory_plugins",
    "library",
    "lookup_plugins",
    "module_utils",
    "netconf_plugins",
    "roles_path",
    "strategy_plugins",
    "terminal_plugins",
    "test_plugins",
    "vars_plugins",
    "vault_identity_list",
    "vault_password_file",
    "connection_password_file",
];

/// The settings of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnsibleConfig(Vec<Setting>);

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    section: String,
    key: String,
    value: String,
    /// Counted from 1.
    line: usize,
}

impl AnsibleConfig {
    /// What Ansible calls the file, in the directory that it runs in.
    pub const FILE: &'static str = "ansible.cfg";

    /// Reads a file's text.
    pub fn read(text: &str) -> Self {
        let mut settings: Vec<Setting> = Vec::new();
        let mut section = String::new();
        let mut goes_on = false;
        for (line, raw) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            let content = without_comment(raw).trim();
            if content.is_empty() {
                continue;
            }
            if goes_on
                && raw.starts_with([' ', '\t'])
                && let Some(last) = settings.last_mut()
            {
                last.value.push('\n');
                last.value.push_str(content);
                continue;
            }
            goes_on = false;
            if let Some(name) = content.strip_prefix('[') {
                name.trim_end_matches(']').clone_into(&mut section);
            } else if let Some((key, value)) = content.split_once(['=', ':']) {
                let (key, value) = (key.trim().to_lowercase(), value.trim().to_owned());
                settings.push(Setting { section: section.clone(), key, value, line });
                goes_on = true;
            }
        }
        Self(settings)
    }

    /// The value of a setting.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        let mut named = self.0.iter().rev().filter(|setting| setting.section == section && setting.key == key);
        named.next().map(|setting| setting.value.as_str())
    }

    /// The paths that it leads to, relative to its directory, each with its line; absolute ones and those of a home lie
    /// outside of any repository and are left out.
    pub fn paths(&self) -> impl Iterator<Item = (&str, usize)> {
        let defaults = self.0.iter().filter(|setting| setting.section == "defaults");
        defaults.flat_map(|setting| paths_of(&setting.key, &setting.value).map(|path| (path, setting.line)))
    }
}

/// The paths that a variable of Ansible's environment leads to, relative to the directory that it runs in.
pub fn paths_of_variable<'v>(name: &str, value: &'v str) -> impl Iterator<Item = &'v str> {
    let key = name.strip_prefix("ANSIBLE_").unwrap_or_default().to_lowercase();
    paths_of(&key, value)
}

fn paths_of<'v>(key: &str, value: &'v str) -> impl Iterator<Item = &'v str> + use<'v> {
    let is_identity = key == "vault_identity_list";
    let value = if PATHS.contains(&key) { value } else { "" };
    let parts = value.split(if is_identity { [',', '\n'] } else { [':', '\n'] });
    parts.filter_map(move |part| relative(if is_identity { after_label(part) } else { part }))
}

/// A vault's identity is `LABEL@FILE`.
fn after_label(identity: &str) -> &str {
    identity.split_once('@').map_or(identity, |(_, file)| file)
}

fn relative(path: &str) -> Option<&str> {
    let path = path.trim();
    let path = path.strip_prefix("{{CWD}}/").unwrap_or(path);
    (!path.is_empty() && !path.starts_with(['/', '~', '$']) && !path.contains("{{")).then_some(path)
}

/// `#` begins a comment at a line's start, `;` behind white space too.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with(['#', ';']) {
        return "";
    }
    let behind_space = |(at, _): &(usize, &str)| line[..*at].ends_with(char::is_whitespace);
    line.match_indices(';').find(behind_space).map_or(line, |(at, _)| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::AnsibleConfig;

    #[test]
    fn settings_are_read_as_ansible_reads_them() {
        let text = "# a comment\n[defaults]\nRoles_Path = roles:../shared/roles:/etc/ansible/roles ; two of ours\n\
                    forks: 20\n; forks = 3\nlibrary =\n    modules\n    ~/modules\n\n[ssh_connection]\n\
                    ssh_args = -o Compression=yes\n  -C\nforks = 7\n";
        let config = AnsibleConfig::read(text);
        assert_eq!(config.get("defaults", "forks"), Some("20"));
        assert_eq!(config.get("ssh_connection", "ssh_args"), Some("-o Compression=yes\n-C"));
        assert_eq!(config.get("ssh_connection", "pipelining"), None);
        let paths: Vec<(&str, usize)> = config.paths().collect();
        assert_eq!(paths, [("roles", 3), ("../shared/roles", 3), ("modules", 6)]);
    }

    #[test]
    fn variables_lead_to_files_as_settings_do() {
        let paths = |name, value| super::paths_of_variable(name, value).collect::<Vec<_>>();
        assert_eq!(paths("ANSIBLE_ROLES_PATH", "roles:~/roles:../more"), ["roles", "../more"]);
        assert_eq!(paths("ANSIBLE_VAULT_IDENTITY_LIST", "dev@keys/dev, keys/all"), ["keys/dev", "keys/all"]);
        assert!(paths("ANSIBLE_FORKS", "20").is_empty());
        assert!(paths("ROLES_PATH", "roles").is_empty());
    }

    #[test]
    fn what_is_no_configuration_says_nothing() {
        for text in ["", "[", "=", "[defaults\n: x\n", " indented\n", "\0\n[x]\ny"] {
            assert_eq!(AnsibleConfig::read(text).get("defaults", "forks"), None, "{text:?}");
        }
    }
}
