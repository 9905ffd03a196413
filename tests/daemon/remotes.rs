//! Repositories on other machines, as far as loopback can stand for them: over https and over ssh.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::factory::{Author, Factory, WAITING, program, said};

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// git's own program for smart HTTP behind TLS; says its port in its first line.
const HTTPS: &str = r#"
import http.server, os, ssl, sys
directory, project = sys.argv[1:3]
os.chdir(directory)
class Handler(http.server.CGIHTTPRequestHandler):
    # By fork it would become another user where it is root.
    have_fork = False
    def is_cgi(self):
        self.cgi_info = ("", "git-http-backend" + self.path)
        return True
    def translate_path(self, path):
        return "/usr/lib/git-core/git-http-backend"
    def log_message(self, *words):
        pass
os.environ.update(GIT_PROJECT_ROOT=project, GIT_HTTP_EXPORT_ALL="1")
class Server(http.server.ThreadingHTTPServer):
    def shutdown_request(self, request):
        try:
            request.unwrap()
        except OSError:
            pass
        super().shutdown_request(request)
server = Server(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Starts a program that says in its first line where it listens.
fn listening(command: &mut Command) -> (Server, u16) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts; scripts/setup installs it");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let server = Server(child);
    (server, line.trim().parse().unwrap_or_else(|_| panic!("no port: {line:?}")))
}

/// A directory with somebody's bare repository `images.git`, and the one who pushes to it.
fn hosted(directory: &Path) -> Author {
    let author = Author::new(&["bundle-one"]);
    author.commit("Begin");
    let bare = directory.join("images.git");
    said(program("git").args(["clone", "--quiet", "--bare"]).arg(author.path()).arg(&bare)).ended(0);
    author.git(["remote", "add", "origin", bare.to_str().expect("UTF-8")]);
    author
}

fn mirrors(url: &str) -> String {
    format!("[[repository]]\nname = \"factory\"\nurl = \"{url}\"\npoll = \"1s\"\n{WAITING}")
}

/// What is pushed there is found by the poll.
fn follows(factory: &Factory, author: &Author) {
    assert_eq!(factory.build_of("bundle-one"), 1);
    author.bundle("bundle-two", "nothing");
    author.commit("Add another");
    author.git(["push", "--quiet", "origin", "main"]);
    assert_eq!(factory.build_of("bundle-two"), 2);
}

/// What status says of the repository.
fn problem(factory: &Factory) -> String {
    factory.until("status says it", |factory| {
        let status = factory.json(["status"]);
        status["repositories"][0]["problem"].as_str().map(str::to_owned)
    })
}

#[test]
fn a_remote_is_followed_over_https_if_its_certificate_is_known() {
    let place = tempfile::tempdir().expect("a directory");
    let author = hosted(place.path());
    let certificate = place.path().join("cert.pem");
    let mut openssl = program("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out"]).arg(&certificate);
    said(openssl.arg("-keyout").arg(place.path().join("key.pem"))).ended(0);
    let (_server, port) = listening(program("python3").args(["-c", HTTPS]).arg(place.path()).arg(place.path()));
    let url = format!("https://localhost:{port}/images.git");

    let stranger = Factory::with("", &mirrors(&url));
    let said = problem(&stranger);
    assert!(said.starts_with(&format!("fetching {url} failed")) && said.contains("certificate"), "{said}");

    let mut factory = Factory::stopped("", &mirrors(&url));
    factory.start_with(&[("GIT_SSL_CAINFO", certificate.as_os_str())]);
    follows(&factory, &author);
    factory.is_well();
}

#[test]
fn a_remote_is_followed_over_ssh_if_its_host_key_is_known() {
    let place = tempfile::tempdir().expect("a directory");
    let author = hosted(place.path());
    let at = |name: &str| place.path().join(name).display().to_string();
    for key in ["host", "user"] {
        said(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)])).ended(0);
    }
    std::fs::copy(at("user.pub"), at("authorized")).expect("copied");
    // One connection each on standard input and output, as inetd starts it; a few lines listen and say their port.
    let sshd = format!(
        "exec /usr/sbin/sshd -i -f /dev/null -h {} -o AuthorizedKeysFile={} -o StrictModes=no -o UsePAM=no",
        at("host"),
        at("authorized")
    );
    let listen = "import socket, subprocess, sys
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
while True:
    peer, _ = server.accept()
    subprocess.Popen(['sh', '-c', sys.argv[1]], stdin=peer, stdout=peer)
    peer.close()
";
    std::fs::create_dir_all("/run/sshd").expect("sshd wants it");
    let (_server, port) = listening(program("python3").args(["-c", listen, &sshd]));
    let user = said(program("id").arg("-un")).ended(0);
    let url = format!("ssh://{}@127.0.0.1:{port}{}", user.trim(), at("images.git"));
    let ssh = |known: &str| {
        format!("ssh -F /dev/null -i {} -o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes", at("user"))
    };

    let mut stranger = Factory::stopped("", &mirrors(&url));
    stranger.start_with(&[("GIT_SSH_COMMAND", ssh("/dev/null").as_ref())]);
    let message = problem(&stranger);
    assert!(message.starts_with(&format!("fetching {url} failed")), "{message}");
    assert!(message.contains("Host key verification failed"), "{message}");

    let host = std::fs::read_to_string(at("host.pub")).expect("a key");
    std::fs::write(at("known"), format!("[127.0.0.1]:{port} {host}")).expect("written");
    let mut factory = Factory::stopped("", &mirrors(&url));
    factory.start_with(&[("GIT_SSH_COMMAND", ssh(&at("known")).as_ref())]);
    follows(&factory, &author);
    factory.is_well();
}
