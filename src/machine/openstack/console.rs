//! What a server prints: Nova gives all of it, or its last part, each time it is asked; here it becomes one text again.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use super::{Cloud, unpoisoned};
use crate::machine::console::Console;
use crate::machine::lines::LineSplitter;

/// So many of the last bytes are remembered, by which the next text is joined.
const JOINT: usize = 128;
/// How many looks at servers pass between two at a console that only somebody reads later.
const SELDOM: u32 = 15;
/// And at one that a guest's host key is waited for on.
const OFTEN: u32 = 4;

/// The console of one server.
#[derive(Debug)]
pub(super) struct Printed {
    server: String,
    pub(super) console: Arc<Console>,
    read: Mutex<(LineSplitter, String)>,
}

impl Printed {
    pub(super) fn new(server: String, console: Arc<Console>) -> Arc<Self> {
        Arc::new(Self { server, console, read: Mutex::default() })
    }

    /// Hands on what is new in a text.
    fn take(&self, text: &str) {
        let mut read = unpoisoned(&self.read);
        let (splitter, joint) = &mut *read;
        let new = match text.rfind(joint.as_str()).filter(|_| !joint.is_empty()) {
            Some(at) => &text[at + joint.len()..],
            None => text,
        };
        splitter.feed(new.as_bytes(), &*self.console);
        if !text.is_empty() {
            let from = text.len().saturating_sub(JOINT);
            let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            *joint = text[from..].to_owned();
        }
    }

    /// No more comes.
    pub(super) fn finish(&self) {
        unpoisoned(&self.read).0.finish(&*self.console);
    }
}

impl Cloud {
    /// Reads what a server has printed until now. A console that can't be read holds nothing up.
    pub(super) async fn read_console(&self, printed: &Arc<Printed>) {
        let asked = async { self.nova().await?.console(&printed.server).await };
        match asked.await {
            Ok(Some(text)) => {
                let printed = printed.clone();
                crate::blocking::run(move || printed.take(&text)).await;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the console can't be read"),
        }
    }

    /// Reads it now and then, until this is dropped. A read that has begun is heard to its end all the same: the answer may
    /// ask to be left alone, which holds for everybody.
    pub(super) async fn read_on(self: &Arc<Self>, printed: &Arc<Printed>, often: bool) -> Infallible {
        loop {
            tokio::time::sleep(self.client.pace.look * if often { OFTEN } else { SELDOM }).await;
            let (cloud, printed) = (self.clone(), printed.clone());
            let read = tokio::spawn(async move { cloud.read_console(&printed).await });
            // It gives nothing back, and nobody ends it.
            let _ended = read.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_overlap_become_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("console.log");
        let printed = Printed::new("1".to_owned(), Console::create(&path).expect("a file"));
        let long: String = (0..200).map(|line| format!("line {line}\n")).collect();
        printed.take("");
        printed.take(&long[..700]);
        printed.take(&long[..1200]);
        printed.take(&long[..1200]);
        // The console holds no more than its end by now.
        printed.take(&long[900..]);
        printed.take(&format!("{}é", &long[1000..]));
        printed.finish();
        let kept = std::fs::read_to_string(&path).expect("text");
        assert_eq!(kept, format!("{long}é\n"));
    }
}
