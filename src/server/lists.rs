//! Answers with lists as long as the factory is large. Their rows are looked up and written while they are sent, so that
//! ten thousand of them never stand in memory together, neither as rows nor as text.

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::files::{Pieces, pipe};
use crate::engine::memory::StoreError;

/// Rows that are looked up and sent together.
pub(super) const ROWS: usize = 100;

/// A JSON object that is being sent.
pub(super) struct Rows {
    pieces: Pieces,
    /// The object's own keys, until the first list begins.
    text: Vec<u8>,
    /// Whether a list is open.
    in_list: bool,
    /// Whether a row was written into it.
    has_rows: bool,
}

/// Why an answer broke off. Its reader sees an object without an end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The reader went away.
    Gone,
    /// Rows could not be read.
    Unread(String),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Unread(error.to_string())
    }
}

impl Rows {
    /// Begins a list; the one before has ended.
    pub(super) fn list(&mut self, name: &str) {
        if self.in_list {
            self.text.push(b']');
        }
        if self.text.last() != Some(&b'{') {
            self.text.push(b',');
        }
        self.text.extend(Value::from(name).to_string().into_bytes());
        self.text.extend(b":[");
        (self.in_list, self.has_rows) = (true, false);
    }

    /// Sends rows of the list.
    ///
    /// # Errors
    /// When the reader went away.
    pub(super) async fn rows<T: Serialize>(&mut self, rows: impl Iterator<Item = T> + Send) -> Result<(), Broken> {
        for row in rows {
            if self.has_rows {
                self.text.push(b',');
            }
            self.has_rows = true;
            serde_json::to_writer(&mut self.text, &row).map_err(|error| Broken::Unread(error.to_string()))?;
        }
        self.send().await
    }

    async fn send(&mut self) -> Result<(), Broken> {
        self.pieces.send(Ok(std::mem::take(&mut self.text))).await.map_err(|_| Broken::Gone)
    }

    async fn end(mut self) -> Result<(), Broken> {
        self.text.extend(if self.in_list { b"]}".as_slice() } else { b"}" });
        self.send().await
    }
}

/// An answer of an object's keys, and of lists that `write` adds row by row in the place of those keys.
pub(super) fn answer<W, F>(head: &impl Serialize, lists: &[&str], write: W) -> Response
where
    W: FnOnce(Rows) -> F,
    F: Future<Output = Result<Rows, Broken>> + Send + 'static,
{
    let mut head: Map<String, Value> = match serde_json::to_value(head) {
        Ok(Value::Object(head)) => head,
        _ => Map::new(),
    };
    lists.iter().for_each(|name| drop(head.remove(*name)));
    let mut text = Value::Object(head).to_string().into_bytes();
    text.pop();
    let (pieces, body) = pipe();
    let verdict = pieces.clone();
    let written = write(Rows { pieces, text, in_list: false, has_rows: false });
    tokio::spawn(async move {
        let sent = match written.await {
            Ok(rows) => rows.end().await,
            Err(broken) => Err(broken),
        };
        if let Err(Broken::Unread(why)) = sent {
            drop(verdict.send(Err(std::io::Error::other(why))).await);
        }
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
