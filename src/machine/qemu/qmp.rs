//! QEMU's machine protocol: JSON lines over a Unix socket. QEMU connects to us, so there is no race for its start.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use crate::engine::ports::PortError;

/// The longest message that is read, in bytes.
const LONGEST: usize = 1024 * 1024;

/// An open connection.
#[derive(Debug)]
pub(super) struct Qmp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// The part of a message that has come so far: a dropped call must not lose it.
    pending: Vec<u8>,
    events: Vec<String>,
}

/// Listens before QEMU is started.
pub(super) fn listen(path: &Path) -> Result<UnixListener, PortError> {
    UnixListener::bind(path).map_err(|error| {
        PortError::unavailable(format!("the socket {} can't be made: {error}", path.display()))
            .help("the path of a socket is 107 bytes at most: use a shorter state directory")
    })
}

impl Qmp {
    /// Takes QEMU's connection and says hello.
    pub(super) async fn accept(listener: &UnixListener) -> Result<Self, PortError> {
        let (stream, _) = listener.accept().await.map_err(|error| broken(&error))?;
        Self::greet(stream).await
    }

    async fn greet(stream: UnixStream) -> Result<Self, PortError> {
        let (reader, writer) = stream.into_split();
        let mut qmp = Self { reader: BufReader::new(reader), writer, pending: Vec::new(), events: Vec::new() };
        let greeting = qmp.message().await?;
        if greeting.get("QMP").is_none() {
            return Err(PortError::unavailable(format!("QEMU greeted with {greeting}")));
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Executes a command and returns what it returned.
    pub(super) async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, PortError> {
        tracing::debug!(command, %arguments, "QMP");
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).await.map_err(|error| broken(&error))?;
        loop {
            let mut message = self.message().await?;
            if let Some(event) = event_of(&message) {
                self.events.push(event);
            } else if let Some(error) = message.get("error") {
                return Err(PortError::failed(format!(
                    "QEMU refused {command}: {}",
                    error["desc"].as_str().unwrap_or_default()
                )));
            } else if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// The name of the next event. May be dropped and called again.
    pub(super) async fn event(&mut self) -> Result<String, PortError> {
        if !self.events.is_empty() {
            return Ok(self.events.remove(0));
        }
        loop {
            if let Some(event) = event_of(&self.message().await?) {
                return Ok(event);
            }
        }
    }

    /// Where the host reaches the guest's ports: pairs of guest port and host port.
    pub(super) async fn forwards(&mut self) -> Result<Vec<(u16, u16)>, PortError> {
        let asked = json!({"command-line": "info usernet"});
        let table = self.execute("human-monitor-command", asked).await?;
        Ok(forwards(table.as_str().unwrap_or_default()))
    }

    async fn message(&mut self) -> Result<Value, PortError> {
        loop {
            let read = self.reader.fill_buf().await.map_err(|error| broken(&error))?;
            if read.is_empty() {
                return Err(PortError::unavailable("QEMU closed its monitor"));
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(read.len(), |end| end + 1);
            self.pending.extend_from_slice(&read[..taken]);
            self.reader.consume(taken);
            if self.pending.len() > LONGEST {
                return Err(PortError::unavailable("QEMU's monitor sent a message without end"));
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.pending);
                return serde_json::from_slice(&line)
                    .map_err(|error| PortError::unavailable(format!("QEMU's monitor sent no JSON: {error}")));
            }
        }
    }
}

fn event_of(message: &Value) -> Option<String> {
    let event = message.get("event")?.as_str()?;
    let reason = message["data"]["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
    Some(format!("{event}{reason}"))
}

/// Reads the table of `info usernet`: protocol, descriptor, host address and port, guest address and port.
fn forwards(table: &str) -> Vec<(u16, u16)> {
    let rows = table.lines().filter(|line| line.contains("TCP[HOST_FORWARD]"));
    rows.filter_map(|row| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        Some((columns.get(5)?.parse().ok()?, columns.get(3)?.parse().ok()?))
    })
    .collect()
}

fn broken(error: &std::io::Error) -> PortError {
    PortError::unavailable(format!("QEMU's monitor broke off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_ports_are_read_from_the_monitors_table() {
        let table = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[HOST_FORWARD]  11       127.0.0.1 36831       10.0.2.15    22     0     0\r\n  \
            TCP[ESTABLISHED]   14       127.0.0.1 36831       10.0.2.15    22     0     0\r\n  \
            TCP[HOST_FORWARD]  12       127.0.0.1 40001       10.0.2.15    80     0     0\r\n";
        assert_eq!(forwards(table), [(22, 36831), (80, 40001)]);
    }

    #[tokio::test]
    async fn commands_are_answered_whatever_events_come_between() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let server = tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(b"{\"QMP\": {}}\n").await.expect("written");
            lines.next_line().await.expect("read");
            writer.write_all(b"{\"return\": {}}\n").await.expect("written");
            lines.next_line().await.expect("read");
            let answer = b"{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-shutdown\"}}\n{\"error\": {\"desc\": \"no\"}}\n";
            writer.write_all(answer).await.expect("written");
        });
        let mut qmp = Qmp::greet(ours).await.expect("greeted");
        let error = qmp.execute("quit", json!({})).await.expect_err("refused");
        assert_eq!(error.message, "QEMU refused quit: no");
        assert_eq!(qmp.event().await.expect("an event"), "SHUTDOWN (guest-shutdown)");
        server.await.expect("no panic");
        assert_eq!(qmp.event().await.expect_err("closed").message, "QEMU closed its monitor");
    }
}
