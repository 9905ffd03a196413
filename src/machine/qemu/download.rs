//! Base images from elsewhere: streamed to a file, continued where an earlier try broke off, and summed on the way.
//!
//! A URL comes from a repository, which is not trusted with the factory's network: addresses that only the inside of a
//! network has are refused, for the URL itself, for every name it resolves to, and after every redirect. Proxies of the
//! environment are not used, since then the proxy would resolve the name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use super::disks::{discard, remove_file, trouble};
use super::room::Room;
use crate::blocking;
use crate::domain::id::Digest;
use crate::engine::ports::{Lines, PortError};
use crate::machine::making::Making;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// After so many bytes it is looked whether there is still room on the disk.
const LOOK_AFTER: u64 = 16 << 20;
/// How long a part is kept for somebody to continue it.
const RESUMABLE: Duration = Duration::from_hours(24);
/// How many redirects are followed.
const REDIRECTS: usize = 8;

/// The addresses inside of networks that the configuration lets downloads reach; by default none.
#[derive(Clone)]
pub struct AllowedInside(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl AllowedInside {
    /// Those of which `allows` says so.
    pub fn new(allows: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(allows))
    }
}

impl Default for AllowedInside {
    fn default() -> Self {
        Self::new(|_| false)
    }
}

impl std::fmt::Debug for AllowedInside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AllowedInside").finish_non_exhaustive()
    }
}

/// What is downloaded, and within which bounds.
#[derive(Debug)]
pub(super) struct Download<'a> {
    pub(super) url: &'a str,
    pub(super) sha256: Digest,
    /// The most that is taken, in bytes.
    pub(super) largest: u64,
    /// The addresses that are reached although they are not public.
    pub(super) allow_private: &'a AllowedInside,
    /// Where it is written.
    pub(super) room: &'a Room,
}

impl Download<'_> {
    /// Downloads into a file, which is complete and right afterwards. A part that is there is continued; one that is left
    /// can be.
    pub(super) async fn fetch(&self, part: &Path, lines: &Lines) -> Result<(), PortError> {
        let had = part.metadata().map_or(0, |found| found.len());
        let sum = self.fetch_part(part, had, lines).await?;
        if sum == self.sha256 {
            return Ok(());
        }
        discard(part).await?;
        if had > 0 {
            lines.line(b"the continued download is wrong; starting again");
            if self.fetch_part(part, 0, lines).await? == self.sha256 {
                return Ok(());
            }
            discard(part).await?;
        }
        Err(PortError::refused(format!("{} sums to {sum}, but {} was declared", self.url, self.sha256))
            .help("the file has changed, or the declared sum is another file's: compare with the sums that its makers publish"))
    }

    /// Returns the sum of the whole file. What can't be continued is removed.
    async fn fetch_part(&self, part: &Path, had: u64, lines: &Lines) -> Result<Digest, PortError> {
        match self.fetch_from(part, had, lines).await {
            Ok(sum) => Ok(sum),
            Err(Broken::Later(error)) => Err(error),
            Err(Broken::ForGood(error)) => {
                // Should it stay all the same, garbage collection finds it.
                let _swept_later = discard(part).await;
                Err(error)
            }
        }
    }

    async fn fetch_from(&self, part: &Path, had: u64, lines: &Lines) -> Result<Digest, Broken> {
        let response = self.get(had).await?;
        let continued = response.status() == StatusCode::PARTIAL_CONTENT;
        if had > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // Nothing is left to send: the sum tells whether the part is the whole.
            return Ok(Digest(hashed(part).await?.finalize().into()));
        }
        if !response.status().is_success() {
            return Err(self.unsuccessful(response.status()).into());
        }
        let (start, hash) = if continued && had > 0 { (had, hashed(part).await?) } else { (0, Sha256::new()) };
        let length = response.content_length().map(|length| length.saturating_add(start));
        if length.is_some_and(|length| length > self.largest) {
            return Err(Broken::ForGood(self.too_large()));
        }
        self.require(length.unwrap_or(start) - start).map_err(Broken::ForGood)?;
        let what = if start > 0 { "continuing to download" } else { "downloading" };
        lines.line(format!("{what} {}: {} MiB", self.url, length.unwrap_or(0) >> 20).as_bytes());
        self.stream(response, part, start, hash).await
    }

    async fn stream(&self, response: Response, part: &Path, start: u64, mut hash: Sha256) -> Result<Digest, Broken> {
        let broken = |error: &std::io::Error| Broken::ForGood(trouble("written", part, error));
        let mut options = tokio::fs::OpenOptions::new();
        let opened = options.create(true).append(start > 0).write(true).truncate(start == 0).open(part).await;
        let mut file = opened.map_err(|error| broken(&error))?;
        let (mut size, mut looked, mut bytes) = (start, start, response.bytes_stream());
        while let Some(chunk) = bytes.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    // What has come is kept for the next try.
                    file.flush().await.map_err(|error| broken(&error))?;
                    return Err(self.unreachable(&error).into());
                }
            };
            size += chunk.len() as u64;
            if size > self.largest {
                return Err(Broken::ForGood(self.too_large()));
            }
            if size - looked > LOOK_AFTER {
                looked = size;
                self.require(0).map_err(Broken::ForGood)?;
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(|error| broken(&error))?;
        }
        file.flush().await.map_err(|error| broken(&error))?;
        Ok(Digest(hash.finalize().into()))
    }

    /// Looks whether there is room for so many bytes more.
    fn require(&self, bytes: u64) -> Result<(), PortError> {
        self.room.require(bytes, &format!("the download of {}", self.url))
    }

    /// The last answer after all redirects. Each hop is looked at by us: no library decides where we go.
    async fn get(&self, had: u64) -> Result<Response, PortError> {
        let mut url: Url =
            self.url.parse().map_err(|error| PortError::failed(format!("{} is no URL: {error}", self.url)))?;
        for _ in 0..=REDIRECTS {
            self.permit(&url)?;
            let client = self.client()?;
            let request = client.get(url.clone());
            let request = if had > 0 { request.header(RANGE, format!("bytes={had}-")) } else { request };
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            match target.filter(|_| response.status().is_redirection()) {
                None => return Ok(response),
                Some(target) => {
                    url = url
                        .join(target)
                        .map_err(|error| PortError::failed(format!("{url} redirects to no URL: {error}")))?;
                }
            }
        }
        Err(PortError::failed(format!("{} redirects more than {REDIRECTS} times", self.url)))
    }

    fn client(&self) -> Result<Client, PortError> {
        let builder =
            Client::builder().redirect(Policy::none()).no_proxy().connect_timeout(CONNECT).read_timeout(SILENCE);
        let builder = builder.dns_resolver(Permitted(self.allow_private.clone()));
        builder.build().map_err(|error| PortError::unavailable(format!("no HTTP client: {error}")))
    }

    fn permit(&self, url: &Url) -> Result<(), PortError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(PortError::refused(format!("{url} is neither http nor https")));
        }
        let host = url.host_str().unwrap_or_default();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        match address {
            Some(address) if !may_reach(address, self.allow_private) => {
                Err(PortError::refused(format!("{url} is at {address}, an address of the inside of a network"))
                    .help(ALLOW))
            }
            _ => Ok(()),
        }
    }

    fn too_large(&self) -> PortError {
        PortError::refused(format!("{} is larger than {} MiB", self.url, self.largest >> 20))
            .help("no larger base image is taken: name a smaller one, such as a compressed qcow2 file")
    }

    fn unsuccessful(&self, status: StatusCode) -> PortError {
        let message = format!("{} answered {status}", self.url);
        match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            true => PortError::unavailable(message),
            false => PortError::failed(message).help("look at `boot.image.url`"),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> PortError {
        let mut causes = Vec::new();
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(next) = cause {
            causes.push(next.to_string());
            cause = next.source();
        }
        let told = PortError::unavailable(format!("{} can't be downloaded: {}", self.url, causes.join(": ")));
        match causes.iter().find(|cause| cause.contains(INSIDE)) {
            Some(why) => PortError::refused(format!("{}: {why}", self.url)).help(ALLOW),
            None => told.help("what has come is kept, and continued by `factoryd retry`"),
        }
    }
}

/// Why a download broke off.
enum Broken {
    /// It may go on where it stands.
    Later(PortError),
    /// What has come is of no use.
    ForGood(PortError),
}

impl From<PortError> for Broken {
    fn from(error: PortError) -> Self {
        Self::Later(error)
    }
}

const INSIDE: &str = "an address of the inside of a network";
const ALLOW: &str = "a mirror inside is allowed by download.allow_private of the configuration, which lists networks";

/// Resolves names, and refuses those that lead inside.
struct Permitted(AllowedInside);

impl Resolve for Permitted {
    fn resolve(&self, name: Name) -> Resolving {
        let (name, allowed) = (name.as_str().to_owned(), self.0.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One inside address among others is enough: which one is taken is not ours to say.
            match found.iter().find(|address| !may_reach(address.ip(), &allowed)) {
                Some(inside) => Err(format!("{name} resolves to {}, {INSIDE}", inside.ip()).into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

fn may_reach(address: IpAddr, allowed: &AllowedInside) -> bool {
    is_public(address) || (allowed.0)(address)
}

/// Whether an address is one of the whole Internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special =
        matches!((a, b, c), (0 | 10 | 127 | 224.., _, _) | (100, 64..128, _) | (192, 0, 0) | (198, 18..20, _));
    !(special || address.is_private() || address.is_link_local() || address.is_documentation())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    // 2000::/3 is what is given out; in it, 6to4 and Teredo carry other addresses, and 2001:db8::/32 is for documents.
    parts[0] & 0xe000 == 0x2000 && parts[0] != 0x2002 && !(parts[0] == 0x2001 && matches!(parts[1], 0 | 0xdb8))
}

async fn hashed(part: &Path) -> Result<Sha256, PortError> {
    let part = part.to_owned();
    blocking::run(move || {
        let mut hash = Sha256::new();
        std::fs::File::open(&part)
            .and_then(|mut file| std::io::copy(&mut file, &mut Hasher(&mut hash)))
            .map_err(|error| trouble("read", &part, &error))?;
        Ok(hash)
    })
    .await
}

struct Hasher<'a>(&'a mut Sha256);

impl std::io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Removes parts that nobody goes on with: they are a day old, and no build has the turn to continue them. Says how many
/// they were and what they took. Blocks.
pub(super) fn sweep(work: &Path, making: &Making) -> Result<(usize, u64), PortError> {
    let mut swept = (0, 0);
    let entries = std::fs::read_dir(work).map_err(|error| trouble("listed", work, &error))?;
    for part in entries.flatten().map(|entry| entry.path()) {
        let sum = part.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let (Some(sum), Ok(found), true) =
            (sum, part.metadata(), part.extension().is_some_and(|extension| extension == "part"))
        else {
            continue;
        };
        let old = found.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > RESUMABLE);
        if old && let Some(_turn) = making.free_turn(Making::of_sum(&sum)) {
            remove_file(&part)?;
            swept = (swept.0 + 1, swept.1 + found.blocks() * 512);
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests;
