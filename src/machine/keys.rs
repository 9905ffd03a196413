//! The keys of one machine, and the two ways in which a guest is given them: a systemd credential over SMBIOS, and a
//! NoCloud disk for cloud-init. Both are always there; a guest takes what it knows.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::domain::id::BuildNo;
use crate::engine::ports::{PortError, Wait};
use crate::machine::process::{Program, Tag};

/// A key pair, as text in OpenSSH's formats.
#[derive(Clone)]
struct KeyPair {
    private: String,
    /// Algorithm and key, without a comment.
    public: String,
}

/// The keys of one machine.
#[derive(Clone)]
pub(in crate::machine) struct Keys {
    login: KeyPair,
    host: KeyPair,
    /// The file that holds the private login key.
    pub(in crate::machine) login_file: PathBuf,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.login.public)
    }
}

impl Keys {
    /// Makes new ones in the machine's directory, which must be the daemon's alone.
    pub(in crate::machine) async fn make(directory: &Path, tag: &Tag, wait: &Wait) -> Result<Self, PortError> {
        let (login_file, host_file) = (directory.join("key"), directory.join("host_key"));
        let (login, host) = tokio::try_join!(generate(&login_file, tag, wait), generate(&host_file, tag, wait))?;
        Ok(Self { login, host, login_file })
    }

    /// The public host key that the guest is given.
    pub(in crate::machine) fn host_key(&self) -> &str {
        &self.host.public
    }

    /// The public login key, as `authorized_keys` has it.
    pub(in crate::machine) fn login_public(&self) -> &str {
        &self.login.public
    }

    /// The private login key.
    pub(in crate::machine) fn login_key(&self) -> &str {
        &self.login.private
    }

    /// The SMBIOS string. systemd 252 and newer reads further lines for `systemd-tmpfiles` from it, before sshd starts.
    pub(in crate::machine) fn credential(&self, user: &str) -> String {
        let home = if user == "root" { "/root".to_owned() } else { format!("/home/{user}") };
        let line = |path: String, mode: &str, owner: &str, content: &str| {
            format!("f+~ {path} {mode} {owner} {owner} - {}\n", STANDARD.encode(content))
        };
        let lines = [
            format!("d {home}/.ssh 0700 {user} {user} -\n"),
            line(format!("{home}/.ssh/authorized_keys"), "0600", user, &format!("{}\n", self.login.public)),
            line("/etc/ssh/ssh_host_ed25519_key".to_owned(), "0600", "root", &self.host.private),
            line("/etc/ssh/ssh_host_ed25519_key.pub".to_owned(), "0644", "root", &format!("{}\n", self.host.public)),
        ];
        format!("io.systemd.credential.binary:tmpfiles.extra={}", STANDARD.encode(lines.concat()))
    }

    /// The files of the NoCloud disk, by name. JSON is YAML, and needs no quoting rules of its own.
    pub(in crate::machine) fn seed(&self, user: &str, build: BuildNo, role: &str) -> [(&'static str, String); 2] {
        let mut account = json!({"name": user, "ssh_authorized_keys": [self.login.public]});
        if user != "root" {
            account["sudo"] = json!("ALL=(ALL) NOPASSWD:ALL");
            account["shell"] = json!("/bin/bash");
            account["lock_passwd"] = json!(true);
        }
        let config = json!({
            "users": [account], "disable_root": user != "root", "ssh_pwauth": false, "ssh_deletekeys": true,
            "ssh_keys": {"ed25519_private": self.host.private, "ed25519_public": format!("{}\n", self.host.public)},
        });
        // Another instance at every boot of a machine of ours: cloud-init then does its work anew.
        let instance = format!("factoryd-{}-{role}-{}", build.0, uuid::Uuid::new_v4().simple());
        let meta = json!({"instance-id": instance, "local-hostname": role});
        [("user-data", format!("#cloud-config\n{config}\n")), ("meta-data", format!("{meta}\n"))]
    }
}

async fn generate(file: &Path, tag: &Tag, wait: &Wait) -> Result<KeyPair, PortError> {
    let program = Program::new("ssh-keygen", tag).args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(file);
    program.read(64 * 1024, wait).await?;
    let text = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| PortError::unavailable(format!("the new key {} can't be read: {error}", path.display())))
    };
    let public = text(&file.with_extension("pub"))?;
    Ok(KeyPair { private: text(file)?, public: public.split_whitespace().take(2).collect::<Vec<_>>().join(" ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let pair = |name: &str| KeyPair { private: format!("{name} PRIVATE\n"), public: format!("ssh-ed25519 {name}") };
        Keys { login: pair("LOGIN"), host: pair("HOST"), login_file: PathBuf::from("/s/key") }
    }

    #[test]
    fn a_user_who_is_not_root_gets_the_key_at_home() {
        let credential = keys().credential("cloud");
        let lines = credential.strip_prefix("io.systemd.credential.binary:tmpfiles.extra=").expect("the name");
        let lines = String::from_utf8(STANDARD.decode(lines).expect("base64")).expect("text");
        insta::assert_snapshot!(lines, @r"
        d /home/cloud/.ssh 0700 cloud cloud -
        f+~ /home/cloud/.ssh/authorized_keys 0600 cloud cloud - c3NoLWVkMjU1MTkgTE9HSU4K
        f+~ /etc/ssh/ssh_host_ed25519_key 0600 root root - SE9TVCBQUklWQVRFCg==
        f+~ /etc/ssh/ssh_host_ed25519_key.pub 0644 root root - c3NoLWVkMjU1MTkgSE9TVAo=
        ");
        assert!(keys().credential("root").len() > 100);
    }

    #[test]
    fn cloud_init_is_told_the_same() {
        let [(_, user_data), (_, meta_data)] = keys().seed("cloud", BuildNo(7), "test");
        insta::assert_snapshot!(user_data, @r##"
        #cloud-config
        {"disable_root":true,"ssh_deletekeys":true,"ssh_keys":{"ed25519_private":"HOST PRIVATE\n","ed25519_public":"ssh-ed25519 HOST\n"},"ssh_pwauth":false,"users":[{"lock_passwd":true,"name":"cloud","shell":"/bin/bash","ssh_authorized_keys":["ssh-ed25519 LOGIN"],"sudo":"ALL=(ALL) NOPASSWD:ALL"}]}
        "##);
        assert!(meta_data.contains("factoryd-7-test-"));
    }
}
