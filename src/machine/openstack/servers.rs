//! Servers: asked for, waited for, and taken away, with all that belongs to them. What one attempt leaves behind, the next
//! look finds by its marks.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use super::Cloud;
use super::error::ApiError;
use super::marks::{ORDER, ROLE};
use super::nova::{Nova, Server};
use crate::domain::id::BuildNo;
use crate::engine::ports::{Lines, Orphan, PortError, Wait};
use crate::machine::qemu::disks::remove_directory;

/// Looks that are made for a server of which no answer told.
const LOOKS_FOR_LOST: u32 = 3;

/// What became of an attempt to get a server.
enum Attempt {
    Made(String),
    /// The cloud has no room now; why.
    NoRoom(String),
}

impl Cloud {
    /// Nova, with the microversion that suits it and us.
    pub(super) async fn nova(&self) -> Result<Nova<'_>, ApiError> {
        let version = self.version.get_or_try_init(|| self.client.microversion()).await?;
        Ok(Nova { client: &self.client, version })
    }

    /// Our servers as they were after some time.
    pub(super) async fn servers_after(&self, after: Instant) -> Result<(Instant, Arc<Vec<Server>>), ApiError> {
        let nova = self.nova().await?;
        let ask = async || {
            let mut servers = nova.servers(&self.marks.tag()).await?;
            servers.retain(|server| self.marks.server_build(server).is_some());
            Ok(servers)
        };
        self.server_looks.after(after, ask).await
    }

    /// Waits until `decide` says something of a server, which may not be in the lists yet, or no more.
    pub(super) async fn server_until<T>(
        &self,
        id: &str,
        mut decide: impl FnMut(Option<&Server>) -> Option<T>,
    ) -> Result<T, PortError> {
        let mut after = Instant::now();
        loop {
            match self.servers_after(after).await {
                Ok((at, servers)) => {
                    after = at;
                    if let Some(decided) = decide(servers.iter().find(|server| server.id == id)) {
                        return Ok(decided);
                    }
                }
                // An API that is away for a while is waited for; the wait has its own end.
                Err(error) if error.is_in_doubt() || error.is_untouched() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A server that is up, however often the cloud has no room for it before the wait ends.
    pub(super) async fn get_server(
        &self,
        build: BuildNo,
        role: &str,
        wanted: &Value,
        lines: &Lines,
    ) -> Result<Server, PortError> {
        loop {
            let why = match self.attempt(build, role, wanted, lines).await? {
                Attempt::Made(id) => match self.came_up(&id).await? {
                    Ok(server) => return Ok(server),
                    Err(why) => {
                        self.delete_servers(&[id]).await?;
                        why
                    }
                },
                Attempt::NoRoom(why) => why,
            };
            let told = format!("the cloud has no room for the machine: {why}");
            lines.line(format!("{told}; it is asked again in {} s", self.client.pace.room.as_secs()).as_bytes());
            self.waits(build, Some(told));
            tokio::time::sleep(super::pace::jittered(self.client.pace.room * 2)).await;
        }
    }

    /// Asks for a server once. A server that was made although no answer came is found by its order.
    async fn attempt(&self, build: BuildNo, role: &str, wanted: &Value, lines: &Lines) -> Result<Attempt, PortError> {
        let order = uuid::Uuid::new_v4().simple().to_string();
        let mut wanted = wanted.clone();
        wanted["metadata"] = serde_json::json!(self.marks.of_server(build, role, &order));
        let mut made = 1;
        loop {
            let error = match self.nova().await?.create_server(wanted.clone()).await {
                Ok(id) => return Ok(Attempt::Made(id)),
                Err(error) if error.is_shortage() => return Ok(Attempt::NoRoom(error.to_string())),
                Err(error) => error,
            };
            if !error.is_in_doubt() {
                return Err(error.into());
            }
            lines.line(format!("looking whether the machine was made: {error}").as_bytes());
            if let Some(found) = self.made_all_the_same(&order).await? {
                return Ok(Attempt::Made(found));
            }
            if made >= self.client.pace.attempts {
                return Err(error.into());
            }
            tokio::time::sleep(self.client.pace.pause(made, error.retry_after)).await;
            made += 1;
        }
    }

    async fn made_all_the_same(&self, order: &str) -> Result<Option<String>, PortError> {
        let mut after = Instant::now();
        for _ in 0..LOOKS_FOR_LOST {
            let (at, servers) = self.servers_after(after).await?;
            let found = servers.iter().find(|server| server.metadata.get(ORDER).is_some_and(|known| known == order));
            if let Some(server) = found {
                return Ok(Some(server.id.clone()));
            }
            after = at;
        }
        Ok(None)
    }

    /// Waits until a server is up, or says why there was no room for it.
    async fn came_up(&self, id: &str) -> Result<Result<Server, String>, PortError> {
        let mut was_there = false;
        self.server_until(id, |server| match server {
            Some(server) => {
                was_there = true;
                match server.status.as_str() {
                    "ACTIVE" if server.task.is_none() => Some(Ok(Ok(server.clone()))),
                    "ERROR" if says_no_room(&server.fault) => Some(Ok(Err(server.fault.clone()))),
                    "ERROR" => Some(Err(in_error(server))),
                    _ => None,
                }
            }
            None if was_there => {
                Some(Err(PortError::unavailable(format!("the server {id} was deleted while it was made"))
                    .help("somebody removed it; factoryd retry")))
            }
            None => None,
        })
        .await?
    }

    /// Deletes servers and waits until they are gone, which can take minutes. Those that are gone are no error.
    pub(super) async fn delete_servers(&self, ids: &[String]) -> Result<(), PortError> {
        let nova = self.nova().await?;
        for id in ids {
            nova.delete_server(id).await?;
        }
        let gone = async {
            for id in ids {
                self.server_until(id, |server| server.is_none_or(|server| server.status == "DELETED").then_some(()))
                    .await?;
                // Not in the list is only gone when Nova says so of the server itself.
                while let Some(server) = nova.server(id).await? {
                    if matches!(server.status.as_str(), "DELETED" | "SOFT_DELETED") {
                        break;
                    }
                    tokio::time::sleep(self.client.pace.look).await;
                }
            }
            Ok(())
        };
        Self::own_wait(self.client.pace.gone).run("deleting servers", gone).await
    }

    /// Takes away whatever carries a build's number; says how much it was.
    pub(super) async fn release_build(&self, build: BuildNo) -> Result<usize, PortError> {
        self.waits(build, None);
        let mut count = 0;
        let all = self.of_builds().await?;
        // Addresses first: a server that goes takes its port with it, and an address without one is as good as lost.
        for (_, orphan) in all.iter().filter(|(of, _)| *of == build) {
            match orphan.kind {
                "floating address" => self.client.delete_floating_ip(&orphan.id).await?,
                "key pair" => self.nova().await?.delete_keypair(&orphan.id).await?,
                _ => continue,
            }
            count += 1;
        }
        let servers: Vec<String> = all
            .iter()
            .filter(|(of, orphan)| *of == build && orphan.kind == "server")
            .map(|(_, orphan)| orphan.id.clone())
            .collect();
        self.delete_servers(&servers).await?;
        // Images that were begun, when nobody makes them any more.
        for (_, orphan) in all.iter().filter(|(of, orphan)| *of == build && orphan.kind == "image") {
            self.client.delete_image(&orphan.id).await?;
            count += 1;
        }
        let directory = self.of_build(build);
        let local = crate::blocking::run(move || {
            let found = usize::from(directory.exists());
            remove_directory(&directory).map(|()| found)
        });
        Ok(count + servers.len() + local.await?)
    }

    /// Everything outside that carries the number of a build: servers, addresses, key pairs, images that were begun.
    pub(super) async fn of_builds(&self) -> Result<Vec<(BuildNo, Orphan)>, PortError> {
        let mut found = Vec::new();
        let mut add = |build: Option<BuildNo>, kind, id: &str, name: &str| {
            let orphan = |build| Orphan { build, kind, id: id.to_owned(), name: name.to_owned() };
            found.extend(build.map(|build| (build, orphan(build))));
        };
        let nova = self.nova().await?;
        for server in nova.servers(&self.marks.tag()).await? {
            add(self.marks.server_build(&server), "server", &server.id, &server.name);
        }
        for name in nova.keypairs().await? {
            add(self.marks.keypair_build(&name), "key pair", &name, &name);
        }
        for address in self.client.floating_ips().await? {
            let build = self.marks.described_build(&address.description);
            add(build, "floating address", &address.id, &address.address);
        }
        for image in self.our_images().await?.iter().filter(|image| image.is_unfinished()) {
            add(super::marks::Marks::image_build(image), "image", &image.id, &image.name);
        }
        Ok(found)
    }

    /// The builds that anything outside, or below our directory, carries the number of.
    pub(super) async fn tagged_builds(&self) -> Result<Vec<BuildNo>, PortError> {
        let mut builds: BTreeSet<BuildNo> = self.of_builds().await?.into_iter().map(|(build, _)| build).collect();
        let entries = std::fs::read_dir(self.machines()).into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(BuildNo));
        builds.extend(named);
        Ok(builds.into_iter().collect())
    }

    /// Waits until a server has stopped, and stops it where its guest takes too long to.
    pub(super) async fn stopped(&self, id: &str, wait: &Wait) -> Result<(), PortError> {
        let has_stopped = |server: Option<&Server>| match server {
            Some(server) if server.status == "SHUTOFF" && server.task.is_none() => Some(Ok(())),
            Some(server) if server.status == "ERROR" => Some(Err(in_error(server))),
            _ => None,
        };
        let by_itself =
            wait.within(super::SHUTDOWN).run("the guest's shutdown", self.server_until(id, has_stopped)).await;
        match by_itself {
            Err(error) if error.kind == crate::engine::ports::PortErrorKind::TimedOut => {}
            ended => return ended?,
        }
        // Nova may not have noticed: it looks after its guests now and then.
        self.nova().await?.stop(id).await?;
        wait.run("stopping the server", self.server_until(id, has_stopped)).await?
    }

    /// The servers of a build's machine, whichever attempt made them.
    pub(super) async fn servers_of(&self, build: BuildNo, role: &str) -> Result<Vec<String>, PortError> {
        let servers = self.nova().await?.servers(&self.marks.tag()).await?;
        let is_it = |server: &&Server| {
            self.marks.server_build(server) == Some(build)
                && server.metadata.get(ROLE).is_some_and(|known| known == role)
        };
        Ok(servers.iter().filter(is_it).map(|server| server.id.clone()).collect())
    }
}

/// Whether a server could not be placed, which may be otherwise in a while.
fn says_no_room(fault: &str) -> bool {
    let fault = fault.to_lowercase();
    ["no valid host", "quota", "exceeded maximum number of retries", "not enough", "insufficient", "no more ip"]
        .iter()
        .any(|sign| fault.contains(sign))
}

pub(super) fn in_error(server: &Server) -> PortError {
    let why = if server.fault.is_empty() { "Nova does not say why" } else { &server.fault };
    PortError::unavailable(format!("the server {} ({}) went to ERROR: {why}", server.name, server.id))
        .help("the cloud's operator finds more in Nova's log by the server's id")
}
