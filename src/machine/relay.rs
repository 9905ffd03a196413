//! The only way out of a sandbox with `network: guest`: one Unix socket per job.
//!
//! Inside, [`forward`] listens on loopback ports of the sandbox's own network and tells the daemon over the socket
//! *which* of the job's targets a connection is for: one byte, its place in the list. Outside, [`Relay`] connects to
//! that target and to nothing else; an address never comes from inside.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// Where the guest's SSH and ports are found inside: the first target at this port, the others after it. Ports below
/// 1024 can't be had there.
const FIRST_PORT: u16 = 2200;
/// Connections at a time; Ansible and pytest need a dozen, and each takes two files of the daemon.
const CONNECTIONS: usize = 128;
/// How long a guest may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// The port inside at which a target is found.
pub(crate) fn inside_port(target: u8) -> u16 {
    FIRST_PORT + u16::from(target)
}

/// The daemon's side of one job. Dropping it ends the connections.
#[derive(Debug)]
pub(crate) struct Relay(JoinHandle<()>);

impl Relay {
    /// Listens on a socket in a directory and connects what comes to one of the targets: addresses with their ports.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub(crate) fn listen(directory: &Path, name: &str, targets: Vec<(String, u16)>) -> io::Result<Self> {
        // A socket's path has 107 bytes at most; through the directory's descriptor the state directory may lie anywhere.
        let opened = std::fs::File::open(directory)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(name);
        let listener = UnixListener::bind(path)?;
        Ok(Self(tokio::spawn(serve(listener, Arc::from(targets)))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: UnixListener, targets: Arc<[(String, u16)]>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((inside, _)) = listener.accept().await else {
            // Out of files or memory: those that end make room.
            if connections.join_next().await.is_none() {
                return;
            }
            continue;
        };
        let targets = Arc::clone(&targets);
        connections.spawn(async move {
            if let Err(error) = connect(inside, &targets).await {
                tracing::debug!(%error, "a sandbox's connection to its guest ended");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(mut inside: tokio::net::UnixStream, targets: &[(String, u16)]) -> io::Result<()> {
    let target = tokio::time::timeout(CONNECT_WITHIN, inside.read_u8()).await??;
    let (host, port) = targets.get(usize::from(target)).ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut guest =
        tokio::time::timeout(CONNECT_WITHIN, tokio::net::TcpStream::connect((host.as_str(), *port))).await??;
    guest.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut inside, &mut guest).await.map(drop)
}

/// Listens inside for each of the targets and forwards until the process ends.
///
/// # Errors
/// When a port can't be had.
pub(crate) fn forward(socket: &Path, targets: u8) -> io::Result<()> {
    for target in 0..targets {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, inside_port(target)))?;
        let socket = socket.to_owned();
        std::thread::Builder::new().spawn(move || {
            for connection in listener.incoming().flatten() {
                let socket = socket.clone();
                let forwarded = std::thread::Builder::new().spawn(move || pass(&connection, &socket, target));
                // No thread left: the connection is closed, and the program sees that.
                drop(forwarded);
            }
        })?;
    }
    Ok(())
}

/// Carries one connection, both ways, each half closed by itself.
fn pass(connection: &TcpStream, socket: &Path, target: u8) -> io::Result<()> {
    let mut relay = UnixStream::connect(socket)?;
    relay.write_all(&[target])?;
    connection.set_nodelay(true)?;
    let (from, to) = (connection.try_clone()?, relay.try_clone()?);
    let outward = std::thread::Builder::new().spawn(move || {
        drop(io::copy(&mut &from, &mut &to));
        drop(to.shutdown(Shutdown::Write));
    })?;
    drop(io::copy(&mut &relay, &mut &*connection));
    drop(connection.shutdown(Shutdown::Write));
    drop(outward.join());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_connection_reaches_the_target_it_names_and_no_other() {
        let guest = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = guest.local_addr().unwrap().port();
        let place = tempfile::tempdir().unwrap();
        let _relay = Relay::listen(place.path(), "relay.sock", vec![("127.0.0.1".to_owned(), port)]).unwrap();
        let socket = place.path().join("relay.sock");

        let mut known = tokio::net::UnixStream::connect(&socket).await.unwrap();
        known.write_all(b"\0hello").await.unwrap();
        known.shutdown().await.unwrap();
        let (mut served, _) = guest.accept().await.unwrap();
        let mut heard = String::new();
        served.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");

        let mut unknown = tokio::net::UnixStream::connect(&socket).await.unwrap();
        unknown.write_all(&[1]).await.unwrap();
        assert_eq!(unknown.read(&mut [0]).await.unwrap(), 0);
    }
}
