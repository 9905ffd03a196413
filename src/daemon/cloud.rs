//! Where a cloud is and who the factory is to it: from `clouds.yaml`, from systemd's credentials, from `OS_*` variables.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

use crate::config::CloudSettings;
use crate::machine::openstack::{Credentials, CredentialsFault, Interface, Service};
use crate::manifest;

/// Where files of clouds are looked for when nobody says; the first that is there counts.
const SYSTEM: &str = "/etc/openstack/clouds.yaml";

/// Who the factory is to a cloud. `variable` is the environment.
pub(super) fn credentials(
    settings: &CloudSettings,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(Credentials, Option<Vec<u8>>)> {
    let told = |fault: CredentialsFault| anyhow!("{}; {}", fault.message, fault.help);
    let named = settings.cloud.clone().or_else(|| variable("OS_CLOUD")).filter(|name| !name.is_empty());
    let mut credentials = match file(settings, named.is_some(), variable)? {
        Some(file) => {
            let keys = keys(&file, named.as_deref(), variable)?;
            Credentials::from_cloud(keys).map_err(told).with_context(|| format!("in {}", file.display()))?
        }
        None => Credentials::from_environment(variable).map_err(told)?,
    };
    if let Some(region) = &settings.region {
        credentials.region = Some(region.clone());
    }
    if let Some(interface) = settings.interface.and_then(Interface::from_word) {
        credentials.interface = interface;
    }
    for (service, url) in &settings.endpoints {
        let known = Service::ALL.into_iter().find(|known| known.word() == *service);
        credentials.endpoints.extend(known.map(|service| (service, url.clone())));
    }
    if let Some(url) = credentials.endpoints.get(&Service::Identity) {
        credentials.auth_url.clone_from(url);
    }
    let authorities = match settings.ca.as_ref().or(credentials.ca.as_ref()) {
        Some(file) => Some(std::fs::read(file).with_context(|| format!("{} can't be read", file.display()))?),
        None => None,
    };
    Ok((credentials, authorities))
}

/// The file of clouds, where there is to be one.
fn file(
    settings: &CloudSettings,
    is_named: bool,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<PathBuf>> {
    if let Some(file) = &settings.clouds {
        return Ok(Some(file.clone()));
    }
    if let Some(name) = &settings.credential {
        let directory = variable("CREDENTIALS_DIRECTORY")
            .ok_or_else(|| anyhow!("{name} is a credential, and systemd passed none to this process"))?;
        return Ok(Some(Path::new(&directory).join(name)));
    }
    if !is_named {
        return Ok(None);
    }
    let own = variable("OS_CLIENT_CONFIG_FILE").map(PathBuf::from);
    let home = variable("HOME").map(|home| Path::new(&home).join(".config/openstack/clouds.yaml"));
    let usual = [home, Some(PathBuf::from(SYSTEM))].into_iter().flatten().find(|file| file.is_file());
    let help = "name it as `clouds` of the driver, or set OS_CLIENT_CONFIG_FILE";
    own.or(usual).map(Some).ok_or_else(|| anyhow!("a cloud is named and there is no clouds.yaml; {help}"))
}

/// The keys of one cloud: of its file, then of `secure.yaml`.
fn keys(file: &Path, named: Option<&str>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>> {
    let secure = variable("OS_CLIENT_SECURE_FILE").map_or_else(|| file.with_file_name("secure.yaml"), PathBuf::from);
    let mut all = read(file)?;
    let mut names: Vec<String> = all.iter().filter_map(|(keys, _)| cloud_of(keys)).collect();
    names.dedup();
    let name = match (named, names.as_slice()) {
        (Some(named), names) if names.iter().any(|name| name == named) => named.to_owned(),
        (None, [only]) => only.clone(),
        (named, names) => {
            let which = named.map_or_else(|| "several clouds".to_owned(), |named| format!("no cloud {named}"));
            let help = "name one of them as `cloud` of the driver";
            return Err(anyhow!("{} has {which}; there are: {}; {help}", file.display(), names.join(", ")));
        }
    };
    if secure.is_file() {
        all.extend(read(&secure)?);
    }
    let of_it = all.into_iter().filter(|(keys, _)| cloud_of(keys).as_ref() == Some(&name));
    Ok(of_it.map(|(keys, text)| (keys[2..].join("."), text)).collect())
}

fn cloud_of(keys: &[String]) -> Option<String> {
    match keys {
        [clouds, name, _, ..] if clouds == "clouds" => Some(name.clone()),
        _ => None,
    }
}

fn read(file: &Path) -> Result<Vec<(Vec<String>, String)>> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("{shown} can't be read"))?;
    manifest::read_texts(&shown, &text).map_err(|faults| {
        let first = faults.first().map(|fault| format!("{}:{}: {}", fault.line, fault.column, fault.message));
        anyhow!("{shown}:{}", first.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOUDS: &str = "clouds:\n  one:\n    auth:\n      auth_url: http://k\n      username: u\n      project_name: p\n  two: {auth: {auth_url: http://x}}\n";

    fn found(settings: &CloudSettings, variables: &[(&str, &str)]) -> Result<Credentials, String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        credentials(settings, &variable).map(|(credentials, _)| credentials).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_cloud_is_read_with_its_secrets_from_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("clouds.yaml");
        std::fs::write(&file, CLOUDS).expect("written");
        std::fs::write(directory.path().join("secure.yaml"), "clouds: {one: {auth: {password: 0123}}}\n")
            .expect("written");
        let settings = CloudSettings {
            clouds: Some(file.clone()),
            cloud: Some("one".to_owned()),
            region: Some("R".to_owned()),
            interface: Some("internal"),
            endpoints: vec![("image", "http://g/v2".to_owned())],
            ..CloudSettings::default()
        };
        let credentials = found(&settings, &[]).expect("credentials");
        assert_eq!((credentials.auth_url.as_str(), credentials.region.as_deref()), ("http://k/v3", Some("R")));
        assert_eq!(credentials.interface, Interface::Internal);
        assert_eq!(credentials.endpoints[&Service::Image], "http://g/v2");

        // The same by variables alone, as a profile sets them.
        let path = file.display().to_string();
        let by_name = [("OS_CLOUD", "one"), ("OS_CLIENT_CONFIG_FILE", path.as_str())];
        assert_eq!(found(&CloudSettings::default(), &by_name).expect("credentials").auth_url, "http://k/v3");
        // And as a credential of systemd.
        let passed = CloudSettings {
            credential: Some("clouds.yaml".to_owned()),
            cloud: Some("one".to_owned()),
            ..CloudSettings::default()
        };
        let directory = directory.path().display().to_string();
        assert!(found(&passed, &[("CREDENTIALS_DIRECTORY", &directory)]).is_ok());
        assert!(found(&passed, &[]).expect_err("none").contains("systemd passed none"));

        let unnamed = CloudSettings { cloud: None, ..settings.clone() };
        assert!(found(&unnamed, &[]).expect_err("several").contains("has several clouds; there are: one, two"));
        let two = CloudSettings { cloud: Some("two".to_owned()), ..settings };
        assert!(found(&two, &[]).expect_err("no user").contains("no user"));
    }

    #[test]
    fn without_a_file_the_variables_count() {
        let variables =
            [("OS_AUTH_URL", "http://k/v2.0"), ("OS_USERNAME", "u"), ("OS_PASSWORD", "p"), ("OS_TENANT_NAME", "t")];
        assert_eq!(found(&CloudSettings::default(), &variables).expect("credentials").auth_url, "http://k/v3");
        assert!(found(&CloudSettings::default(), &[]).expect_err("nothing").contains("OS_AUTH_URL"));
    }
}
