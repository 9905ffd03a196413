//! Base images that can't be: each build ends in one error that says what to do, and others go on.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::factory::{Author, Factory, program, said};

/// A bundle below `os/` with a pipeline of its own, since a base image by path or URL stands in the pipeline.
pub(super) fn bundle(author: &Author, name: &str, image: &str) {
    author.write(&format!("os/{name}/build-vars.yml"), format!("bundle:\n  name: {name}\n"));
    let pipeline = format!(
        "version: 1\nbundles: [os/{name}]\nstages:\n  - boot: {{ image: {image} }}\n  - snapshot: {{ name: \"{name}\" }}\n"
    );
    author.write(&format!("pipelines/{name}.yml"), pipeline);
}

fn qemu_img<const N: usize>(arguments: [&str; N]) {
    said(program("qemu-img").args(arguments)).ended(0);
}

#[test]
fn base_images_that_are_not_what_they_say_are_refused_one_by_one() {
    let factory = Factory::new();
    let bases = factory.path("bases");
    let base = |name: &str| bases.join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(base("secret.raw"), vec![b's'; 1 << 20]).expect("written");
    qemu_img(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base("secret.raw"), &base("backed.qcow2")]);
    qemu_img([
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &format!("data_file={}", base("data.raw")),
        &base("data.qcow2"),
        "1M",
    ]);
    std::fs::write(base("text.qcow2"), "this is no disk").expect("written");
    std::os::unix::fs::symlink("/etc/passwd", base("link.raw")).expect("linked");
    let author = Author::new(&[]);
    let path = |name: &str, format: &str| format!("{{ path: {}, format: {format} }}", base(name));
    let cases = [
        ("backed", path("backed.qcow2", "qcow2"), "backing file", "qemu-img"),
        ("data", path("data.qcow2", "qcow2"), "data file", ""),
        ("text", path("text.qcow2", "qcow2"), "text.qcow2", "format: raw"),
        (
            "missing",
            path("missing.qcow2", "qcow2"),
            "missing.qcow2 is not below a directory that the configuration allows, or not there",
            "base_directories",
        ),
        (
            "outside",
            "{ path: /etc/passwd, format: raw }".to_owned(),
            "/etc/passwd is not below a directory",
            "base_directories",
        ),
        ("linked", path("link.raw", "raw"), "is not below a directory", "base_directories"),
        ("directory", path("", "raw"), "is not a regular file", ""),
    ];
    for (name, image, ..) in &cases {
        bundle(&author, name, image);
    }
    author.bundle("bundle-good", "nothing");
    author.push(&factory, "Boot from anything");
    for (name, _, wanted, help) in cases {
        let build = factory.build_of(name);
        let (message, said) = factory.failed(build);
        assert!(message.contains(wanted), "{name}: {message}");
        assert!(said.contains(help), "{name}: {said}");
        assert_eq!(factory.json(["show", &build.to_string()])["error"]["stage"], "boot");
    }
    // The other bundle had its turn.
    assert!(factory.failed(factory.build_of("bundle-good")).0.contains("`nothing`"));
    factory.is_well();
}

/// Answers every request with the same body, but for `/silence`, where it says nothing for ever.
pub(super) fn serve(body: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 2048];
            let read = stream.read(&mut request).unwrap_or(0);
            if request[..read].starts_with(b"GET /silence") {
                silent.push(stream);
                continue;
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
        }
    });
    port
}

const SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn downloads_are_refused_where_they_lead_inside_or_bring_something_else() {
    let port = serve(b"these are other bytes");
    let image =
        |host: &str, path: &str| format!("{{ url: \"http://{host}:{port}/{path}\", sha256: {SUM}, format: raw }}");
    let author = Author::new(&[]);
    bundle(&author, "inside", &image("127.0.0.1", "disk.raw"));
    bundle(&author, "named", &image("localhost", "disk.raw"));
    bundle(&author, "metadata", &format!("{{ url: \"http://169.254.169.254/x\", sha256: {SUM}, format: raw }}"));
    let factory = Factory::new();
    author.push(&factory, "Look inside");
    for name in ["inside", "named", "metadata"] {
        let (message, help) = factory.failed(factory.build_of(name));
        assert!(message.contains("an address of the inside of a network"), "{message}");
        assert!(help.contains("download.allow_private"), "{help}");
    }

    // Where the configuration allows that network, and no other, the sum still counts.
    let allowing = Factory::with("", "[download]\nallow_private = [\"127.0.0.0/8\"]\n");
    author.push(&allowing, "Look inside, allowed");
    let (message, help) = allowing.failed(allowing.build_of("inside"));
    assert!(
        message.contains("disk.raw sums to sha256:") && message.contains(&format!("sha256:{SUM} was declared")),
        "{message}"
    );
    assert!(help.contains("compare with the sums"), "{help}");
    let (message, _) = allowing.failed(allowing.build_of("metadata"));
    assert!(message.contains("an address of the inside of a network"), "{message}");
    allowing.is_well();
    factory.is_well();
}

#[test]
fn a_download_that_hangs_is_cancelled_at_once_and_keeps_nobody_waiting() {
    let port = serve(b"");
    let factory = Factory::with("", "[download]\nallow_private = [\"127.0.0.0/8\"]\n");
    let author = Author::new(&[]);
    bundle(&author, "silent", &format!("{{ url: \"http://127.0.0.1:{port}/silence\", sha256: {SUM}, format: raw }}"));
    author.push(&factory, "Wait for nothing");
    factory.until("it runs", |factory| (factory.json(["show", "1"])["stages"][0]["state"] == "running").then_some(()));
    assert!(factory.tell(["status"]).contains("▶ running   os/silent"), "status");
    // Another bundle gets its base image and boots it meanwhile.
    let empty = factory.path("bases").join("empty.raw");
    std::fs::write(&empty, vec![0; 1 << 20]).expect("written");
    bundle(&author, "good", &format!("{{ path: {}, format: raw }}", empty.display()));
    author.push(&factory, "Add another");
    let good = factory.build_of("good").to_string();
    factory.until("its machine boots", |factory| {
        let said = factory.run(["logs", &good]);
        said.out.contains("boot  base image sha256:").then_some(())
    });
    assert_eq!(factory.json(["show", "1"])["state"], "running", "the first still waits");
    factory.tell(["cancel", &good]);
    assert_eq!(factory.ended(good.parse().expect("a number"))["outcome"], "cancelled");

    let began = std::time::Instant::now();
    let said = factory.tell(["cancel", "1"]);
    assert!(said.starts_with("#1 "), "{said}");
    let build = factory.ended(1);
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    assert_eq!(build["outcome"], "cancelled");
    // What was cancelled is not begun again by itself.
    assert!(factory.tell(["plan"]).contains("Nothing would be built"), "plan");
    factory.is_well();
}
