//! A machine of the cloud: its guest, how it is sealed, how it is taken away.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::Cloud;
use super::console::Printed;
use super::error::ApiError;
use super::glance::{Change, GlanceImage};
use crate::domain::id::{BuildNo, DiskId};
use crate::engine::ports::{Access, Exit, Guest, Lines, Machine, PortError, PortErrorKind, SealedDisk, Wait};
use crate::machine::qemu::disks::remove_directory;
use crate::machine::seal;
use crate::machine::ssh::SshSession;
use async_trait::async_trait;

/// A machine under way.
pub(super) struct CloudMachine {
    guest: CloudGuest,
    access: Access,
    build: BuildNo,
    role: String,
}

struct CloudGuest {
    cloud: Arc<Cloud>,
    session: SshSession,
    server: String,
    printed: Arc<Printed>,
}

impl fmt::Debug for CloudMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloudMachine({})", self.guest.server)
    }
}

impl CloudMachine {
    pub(super) fn new(
        cloud: Arc<Cloud>,
        session: SshSession,
        access: Access,
        (build, role): (BuildNo, String),
        server: String,
        printed: Arc<Printed>,
    ) -> Self {
        Self { guest: CloudGuest { cloud, session, server, printed }, access, build, role }
    }

    async fn shut_down(&self, lines: &Lines, wait: &Wait) -> Result<(), PortError> {
        seal::power_off(&self.guest.session, &self.access.user, lines, wait).await?;
        self.guest.cloud.stopped(&self.guest.server, wait).await
    }

    /// Has Nova make an image of the disk; gives it when it can be used and is known to be ours.
    async fn snapshot(&self, keep: &DiskId, lines: &Lines) -> Result<GlanceImage, PortError> {
        let (cloud, server) = (&self.guest.cloud, &self.guest.server);
        let marks = cloud.marks.of_snapshot(keep, self.build, server);
        let id = self.asked_for_image(keep, &marks).await?;
        lines.line(format!("the cloud makes the image {id} of the server {server}").as_bytes());
        let image = cloud.active(&id, server).await?;
        let nothing = marks.into_iter().filter(|(key, value)| value.is_empty() && image.properties.contains_key(key));
        let changes: Vec<Change> = nothing.map(|(key, _)| Change::Remove(key)).collect();
        if !changes.is_empty() {
            cloud.client.change_image(&id, &changes).await?;
        }
        cloud.client.tag_image(&id, &cloud.marks.tag()).await?;
        Ok(image)
    }

    /// Asks Nova for an image until one is under way; gives its id. One of an attempt whose answer was lost has the disk's
    /// id, and no other image has.
    async fn asked_for_image(&self, keep: &DiskId, marks: &BTreeMap<String, String>) -> Result<String, PortError> {
        let (cloud, server) = (&self.guest.cloud, &self.guest.server);
        let mut made = 1;
        loop {
            let error = match cloud.nova().await?.create_image(server, keep.as_str(), marks).await {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            // Nova makes one image of a server at a time.
            let is_refused = error.has_status(409);
            if (error.is_in_doubt() || is_refused && made > 1)
                && let Some(image) = cloud.looked_for(keep).await?
            {
                return Ok(image.id);
            }
            if is_refused {
                return Err(PortError::unavailable(format!("no image can be made of the server now: {error}")));
            }
            if !error.is_in_doubt() || made >= cloud.client.pace.attempts {
                return Err(error.into());
            }
            tokio::time::sleep(cloud.client.pace.pause(made, error.retry_after)).await;
            made += 1;
        }
    }
}

#[async_trait]
impl Machine for CloudMachine {
    fn access(&self) -> &Access {
        &self.access
    }

    fn guest(&self) -> &dyn Guest {
        &self.guest
    }

    /// The server goes only when its image is there, whole and known as ours.
    async fn seal(&mut self, keep: &DiskId, lines: &Lines, wait: &Wait) -> Result<SealedDisk, PortError> {
        let cloud = self.guest.cloud.clone();
        cloud.refuse_if_there(keep).await?;
        seal::remove_identity(&self.guest, &self.access.user, lines, wait).await?;
        self.shut_down(lines, wait).await?;
        let image = wait.run("making the image", self.snapshot(keep, lines)).await?;
        let again = cloud.image_of(keep).await?;
        let bytes = again.size.unwrap_or(0);
        if again.id != image.id || bytes == 0 || again.hash.is_none() {
            return Err(PortError::unavailable(format!("the image {} is not there as it was made", image.id))
                .help("the server stays until its build is released; factoryd retry"));
        }
        self.destroy().await?;
        Ok(SealedDisk { disk: keep.clone(), bytes, backing: Vec::new() })
    }

    fn attached(&self) -> Option<&str> {
        None
    }

    async fn keep_attached(&mut self, _: &DiskId, _: &Lines, _: &Wait) -> Result<SealedDisk, PortError> {
        Err(PortError::refused("no disk is attached to the machine"))
    }

    async fn destroy(&mut self) -> Result<(), PortError> {
        let cloud = &self.guest.cloud;
        cloud.read_console(&self.guest.printed).await;
        self.guest.printed.finish();
        // Also without a network of floating addresses in the configuration: it may have had one when this was made.
        let description = cloud.marks.description(self.build, &self.role);
        for address in cloud.client.floating_ips().await? {
            if address.description == description {
                cloud.client.delete_floating_ip(&address.id).await?;
            }
        }
        cloud.delete_servers(std::slice::from_ref(&self.guest.server)).await?;
        cloud.nova().await?.delete_keypair(&cloud.marks.keypair(self.build, &self.role)).await?;
        let directory = cloud.of_build(self.build);
        remove_directory(&directory.join(&self.role))?;
        // Another machine of the build may be in it, or it is gone already.
        let _not_empty = std::fs::remove_dir(directory);
        Ok(())
    }
}

impl Cloud {
    /// An image of which no answer told, looked for more than once: it may be there a moment later.
    async fn looked_for(&self, disk: &DiskId) -> Result<Option<GlanceImage>, ApiError> {
        for made in 1..=3 {
            if let Some(image) = self.images_of(disk).await?.into_iter().next() {
                return Ok(Some(image));
            }
            tokio::time::sleep(self.client.pace.pause(made, None)).await;
        }
        Ok(None)
    }
}

impl CloudGuest {
    /// Says what became of the server, where that is why the connection was lost.
    async fn explain(&self, error: PortError, what: &str) -> PortError {
        if !matches!(error.kind, PortErrorKind::Unavailable | PortErrorKind::Lost) {
            return error;
        }
        self.cloud.read_console(&self.printed).await;
        let server = match self.cloud.nova().await {
            Ok(nova) => nova.server(&self.server).await,
            Err(error) => Err(error),
        };
        match server {
            Ok(Some(server)) if server.status == "SHUTOFF" => PortError::failed(format!(
                "the guest powered off during {what}"
            ))
            .help(format!("a step must not power its machine off: sealing does; {}", self.printed.console.last())),
            Ok(Some(server)) if server.status == "ERROR" => super::servers::in_error(&server),
            Ok(None) => PortError::unavailable(format!("the server {} was deleted during {what}", self.server))
                .help("somebody removed it; factoryd retry"),
            _ => {
                let help = format!("{}; {}", error.help, self.printed.console.last());
                error.help(help)
            }
        }
    }
}

#[async_trait]
impl Guest for CloudGuest {
    async fn run(
        &self,
        command: &str,
        env: &[(String, String)],
        lines: &Lines,
        wait: &Wait,
    ) -> Result<Exit, PortError> {
        match self.session.run(command, env, lines, wait).await {
            Ok(exit) => Ok(exit),
            Err(error) => Err(self.explain(error, "a command").await),
        }
    }

    async fn upload(&self, from: &Path, to: &str, mode: Option<u32>, wait: &Wait) -> Result<(), PortError> {
        match self.session.upload(from, to, mode, wait).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error, "the copying of files").await),
        }
    }
}
