//! QEMU as a user who owns nothing, where the daemon is root.
//!
//! QEMU opens its disks before it changes the user. Only the NoCloud disk's files are looked up later, while the guest
//! runs, so their directory must be within that user's reach.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::disks::{Disks, trouble};
use crate::engine::ports::PortError;

/// The first version that knows `-run-with user=`, which takes the place of `-runas`.
const RUN_WITH: (u32, u32) = (9, 1);

/// The option of QEMU that changes the user, with its value.
pub(super) fn option(version: &str, (user, group): (u32, u32)) -> [String; 2] {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version < RUN_WITH {
        true => ["-runas".to_owned(), format!("{user}:{group}")],
        false => ["-run-with".to_owned(), format!("user={user}:{group}")],
    }
}

/// The user, if machines can be run as it here. Our own directories let it through afterwards, whatever the umask is.
pub(super) fn usable(user: Option<(u32, u32)>, disks: &Disks) -> Result<Option<(u32, u32)>, PortError> {
    let Some(user) = user else { return Ok(None) };
    let ours = [disks.machines(), disks.work()];
    let state = ours[0].parent().unwrap_or(&ours[0]);
    if let Some(closed) = state.ancestors().find(|directory| !lets_through(directory, user)) {
        let (closed, (uid, _)) = (closed.display(), user);
        tracing::warn!(
            "machines run as root: {closed} does not let the user {uid} through (chmod o+x {closed}, or a state directory \
             elsewhere)"
        );
        return Ok(None);
    }
    ours.iter().try_for_each(|directory| open(directory))?;
    Ok(Some(user))
}

/// Lets everybody through a directory of ours, and look at nothing in it.
pub(super) fn open(directory: &Path) -> Result<(), PortError> {
    std::fs::set_permissions(directory, Permissions::from_mode(0o711))
        .map_err(|error| trouble("opened to QEMU's user", directory, &error))
}

fn lets_through(directory: &Path, (user, group): (u32, u32)) -> bool {
    let Ok(found) = directory.metadata() else { return false };
    let bit = match (found.uid() == user, found.gid() == group) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    found.mode() & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_one_that_this_qemu_knows() {
        for (version, option_name) in
            [("7.2.19", "-runas"), ("9.0.4", "-runas"), ("9.1.0", "-run-with"), ("10.0.2", "-run-with")]
        {
            assert_eq!(option(version, (1, 2))[0], option_name, "{version}");
        }
        assert_eq!(option("10.0.2", (65_534, 7))[1], "user=65534:7");
        assert_eq!(option("7.2", (65_534, 7))[1], "65534:7");
    }

    #[test]
    fn a_user_who_can_t_get_there_is_not_taken() {
        let place = tempfile::tempdir().expect("a directory");
        let state = place.path().join("s");
        let disks = Disks::open(&state).expect("made");
        let other = Some((64_321, 64_321));
        let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
        mode(place.path(), 0o700);
        assert_eq!(usable(other, &disks).expect("looked"), None);
        mode(place.path(), 0o711);
        mode(&disks.machines(), 0o700);
        assert_eq!(usable(other, &disks).expect("looked"), other);
        assert_eq!(disks.machines().metadata().expect("there").mode() & 0o777, 0o711);
        assert_eq!(usable(None, &disks).expect("looked"), None);
    }
}
