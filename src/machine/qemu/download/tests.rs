//! Against a small HTTP server on loopback.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::engine::ports::{LineSink, PortErrorKind};

#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl LineSink for Kept {
    fn line(&self, line: &[u8]) {
        self.0.lock().expect("no panic").push(String::from_utf8_lossy(line).into_owned());
    }
}

/// Serves `/image` (with ranges), `/norange`, `/unsaid` (no length), `/cut` (breaks off half way), and redirects.
async fn server(content: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            let (mut path, mut from) = (String::new(), 0_usize);
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(rest) = line.strip_prefix("GET ") {
                    path = rest.split(' ').next().unwrap_or_default().to_owned();
                } else if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    from = range.trim_end_matches('-').parse().expect("a number");
                } else if line.is_empty() {
                    break;
                }
            }
            let answer = answer(&path, from, &content);
            // A client that has heard enough closes first.
            let _closed = writer.write_all(&answer).await;
        }
    });
    address
}

fn answer(path: &str, from: usize, content: &[u8]) -> Vec<u8> {
    let whole = |status: &str, body: &[u8], length: usize| {
        [format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").as_bytes(), body]
            .concat()
    };
    let redirect = |to: &str| {
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    };
    match path {
        "/image" if from > 0 => whole("206 Partial Content", &content[from..], content.len() - from),
        "/image" | "/norange" => whole("200 OK", content, content.len()),
        "/cut" => whole("200 OK", &content[..content.len() / 2], content.len()),
        "/unsaid" => [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", content].concat(),
        "/hop" => redirect("/image"),
        "/file" => redirect("file:///etc/shadow"),
        "/loop" => redirect("/loop"),
        _ => whole("404 Not Found", b"", 0),
    }
}

struct Case {
    content: Vec<u8>,
    address: SocketAddr,
    directory: tempfile::TempDir,
    kept: Arc<Kept>,
}

impl Case {
    async fn new() -> Self {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let address = server(content.clone()).await;
        Self { content, address, directory: tempfile::tempdir().expect("a directory"), kept: Arc::default() }
    }

    fn part(&self) -> std::path::PathBuf {
        self.directory.path().join("part")
    }

    async fn fetch(&self, path: &str, sha256: Digest) -> Result<(), PortError> {
        let url = format!("http://{}{path}", self.address);
        let room = Room::on(self.directory.path(), 0);
        let download = Download { url: &url, sha256, largest: 2 << 20, allow_private: &loopback(), room: &room };
        download.fetch(&self.part(), &(self.kept.clone() as Lines)).await
    }

    fn whole(&self) -> bool {
        std::fs::read(self.part()).is_ok_and(|bytes| bytes == self.content)
    }
}

/// The server of these scenarios.
fn loopback() -> AllowedInside {
    AllowedInside::new(|address| address.is_loopback())
}

#[tokio::test]
async fn a_download_is_whole_also_after_a_redirect() {
    let case = Case::new().await;
    case.fetch("/hop", Digest::of(&case.content)).await.expect("downloaded");
    assert!(case.whole());
}

#[tokio::test]
async fn a_broken_download_is_continued_where_it_broke_off() {
    let case = Case::new().await;
    let sum = Digest::of(&case.content);
    let error = case.fetch("/cut", sum).await.expect_err("cut");
    assert_eq!(error.kind, PortErrorKind::Unavailable);
    assert_eq!(case.part().metadata().expect("kept").len(), case.content.len() as u64 / 2);
    case.fetch("/image", sum).await.expect("continued");
    assert!(case.whole());
    assert!(case.kept.0.lock().expect("no panic").last().expect("a line").starts_with("continuing"));
    // A server that knows no ranges sends everything again; a wrong part is thrown away.
    case.fetch("/norange", sum).await.expect("again");
    assert!(case.whole());
    std::fs::write(case.part(), b"something else").expect("written");
    case.fetch("/image", sum).await.expect("started again");
    assert!(case.whole());
}

#[tokio::test]
async fn a_wrong_sum_is_refused_with_both_sums() {
    let case = Case::new().await;
    let declared = Digest::of(b"another file");
    let error = case.fetch("/image", declared).await.expect_err("refused");
    assert_eq!(error.kind, PortErrorKind::Refused);
    assert!(error.message.contains(&declared.to_string()), "{error}");
    assert!(error.message.contains(&Digest::of(&case.content).to_string()), "{error}");
    assert!(!case.part().exists());
}

#[tokio::test]
async fn what_is_missing_too_large_or_endless_is_said_so() {
    let case = Case::new().await;
    let sum = Digest::of(&case.content);
    assert!(case.fetch("/none", sum).await.expect_err("missing").message.contains("404"));
    assert!(case.fetch("/loop", sum).await.expect_err("endless").message.contains("redirects more than"));
}

#[tokio::test]
async fn what_can_not_be_resumed_leaves_nothing() {
    let case = Case::new().await;
    let fetch = |path: &'static str, largest: u64, keep: u64| {
        let (url, room) = (format!("http://{}{path}", case.address), Room::on(case.directory.path(), keep));
        let (sha256, part, lines) = (Digest::of(&case.content), case.part(), case.kept.clone() as Lines);
        async move {
            let download = Download { url: &url, sha256, largest, allow_private: &loopback(), room: &room };
            download.fetch(&part, &lines).await.expect_err("refused")
        }
    };
    for path in ["/image", "/unsaid"] {
        let error = fetch(path, 1 << 20, 0).await;
        assert!(error.message.contains("larger than 1 MiB"), "{path}: {error}");
        assert!(!case.part().exists(), "{path}: what is too large once is so again");
        let error = fetch(path, 2 << 20, 1 << 60).await;
        assert!(error.message.contains("there is no room for the download of http://"), "{path}: {error}");
        assert!(!case.part().exists(), "{path}");
    }
    // A part of what is too large goes too.
    fetch("/cut", 2 << 20, 0).await;
    assert!(case.part().exists(), "this one can be continued");
    fetch("/image", 1 << 20, 0).await;
    assert!(!case.part().exists());
}

#[tokio::test]
async fn addresses_inside_are_refused_by_number_by_name_and_after_a_redirect() {
    let case = Case::new().await;
    let refused = |url: String, is_allowed: bool| {
        let allowed = if is_allowed { loopback() } else { AllowedInside::default() };
        let (part, lines) = (case.part(), case.kept.clone() as Lines);
        async move {
            let room = Room::on("/", 0);
            let (sha256, largest) = (Digest::of(b""), 1 << 20);
            let download = Download { url: &url, sha256, largest, allow_private: &allowed, room: &room };
            let error = download.fetch(&part, &lines).await.expect_err("refused");
            assert_eq!(error.kind, PortErrorKind::Refused, "{url}: {error}");
            error.message
        }
    };
    let port = case.address.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        let message = refused(format!("http://{host}:{port}/image"), false).await;
        assert!(message.contains("inside of a network"), "{host}: {message}");
    }
    assert!(refused(format!("http://{}/file", case.address), true).await.contains("neither http nor https"));
    assert!(refused("ftp://example.org/x".to_owned(), true).await.contains("neither http nor https"));
}

/// Loopback would be refused at the first hop already, so the second one is looked at by itself.
#[test]
fn each_hop_is_judged_alike() {
    let download = Download {
        url: "http://1.1.1.1/",
        sha256: Digest::of(b""),
        largest: 0,
        allow_private: &AllowedInside::default(),
        room: &Room::on("/", 0),
    };
    let permit = |url: &str| download.permit(&url.parse().expect("a URL"));
    assert!(permit("http://1.1.1.1/").is_ok());
    assert!(permit("https://mirror.example/x").is_ok());
    assert!(permit("http://10.1.2.3/secret").is_err());
    for inside in
        ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1"]
    {
        assert!(!is_public(inside.parse().expect("an address")), "{inside} is public");
    }
    for inside in [
        "::",
        "::1",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "2001:db8::1",
    ] {
        assert!(!is_public(inside.parse().expect("an address")), "{inside} is public");
    }
    for outside in ["1.1.1.1", "100.128.0.1", "2606:4700::1111"] {
        assert!(is_public(outside.parse().expect("an address")), "{outside} is inside");
    }
}

#[test]
fn a_part_is_swept_after_a_day_unless_somebody_continues_it() {
    let work = tempfile::tempdir().expect("a directory");
    let (making, old) = (Making::default(), std::time::SystemTime::now() - RESUMABLE - Duration::from_secs(60));
    let part = |name: &str, at: Option<std::time::SystemTime>| {
        let path = work.path().join(name);
        std::fs::write(&path, vec![1; 5000]).expect("written");
        if let Some(at) = at {
            std::fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(at)).expect("dated");
        }
        path
    };
    let sum = |text: &str| Digest::of(text.as_bytes());
    let name = |text: &str| format!("{}.part", sum(text).hex());
    let (left, fresh) = (part(&name("left"), Some(old)), part(&name("fresh"), None));
    let (held, other) = (part(&name("held"), Some(old)), part("disk.part", Some(old)));
    let turn = making.free_turn(Making::of_sum(&sum("held"))).expect("nobody has it");
    assert_eq!(sweep(work.path(), &making).expect("swept"), (1, 8192));
    assert!(!left.exists() && fresh.exists() && held.exists() && other.exists());
    drop(turn);
    assert_eq!(sweep(work.path(), &making).expect("swept").0, 1);
    assert!(!held.exists());
}
