//! A strict fake of an OpenStack cloud: Keystone, Nova, Glance, Neutron, Cinder and Heat over HTTP on loopback.
//!
//! It answers what the services answered when they were tried, errors in their own shapes, and remembers each rule that
//! its client broke ([`Cloud::violations`]). Its time is its own ([`clock`]): states change when that time has come, and
//! nothing waits. Servers are guests that a real sshd lets in ([`guests`]). Other people's resources are there from the
//! start ([`strangers`]). Trouble is ordered with [`faults`].

mod cinder;
mod clock;
pub(crate) mod faults;
mod glance;
mod glance_data;
mod guests;
mod heat;
mod http;
mod keystone;
mod neutron;
mod neutron_lists;
mod nova;
mod nova_actions;
mod nova_create;
mod nova_lists;
mod rules;
mod settle;
mod state;
mod strangers;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use clock::FakeClock;
use faults::{Fault, ImageFate, ServerFate, Storm};
pub(crate) use http::Service;
pub(crate) use rules::Seen;
use state::{Endpoints, State};
pub(crate) use state::{Quota, Settings};

/// How many things the fake's client may ask at once.
const AT_ONCE: usize = 16;

/// A cloud that runs until it is dropped.
pub(crate) struct Cloud {
    inner: Arc<Inner>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the services share.
pub(crate) struct Inner {
    clock: FakeClock,
    state: Mutex<State>,
    /// Counts requests, so that a test can wait for one.
    requests: watch::Sender<u64>,
    runtime: tokio::runtime::Handle,
    _directory: TempDir,
}

impl Inner {
    /// The state as it is now: everything whose time has come has happened.
    fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle(self.clock.now());
        state
    }
}

impl Cloud {
    /// A cloud with a project `factory` for us, images, flavors, networks, and strangers' resources.
    pub(crate) fn start(settings: Settings) -> Self {
        let (told, ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("fake-cloud".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                let inner = open(settings).await;
                told.send(inner).expect("somebody waits");
                let _dropped = stopped.await;
            });
            runtime.shutdown_background();
        });
        let thread = thread.expect("a thread");
        let inner = ready.recv().expect("the fake cloud starts");
        Self { inner, stop: Some(stop), thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.settled()
    }

    /// Where Keystone is: `http://127.0.0.1:PORT/v3`.
    pub(crate) fn auth_url(&self) -> String {
        format!("{}/v3", self.state().endpoints.keystone)
    }

    /// The port that all guests' sshd listens at, on their fixed and floating addresses.
    pub(crate) fn ssh_port(&self) -> u16 {
        self.state().ssh_port
    }

    /// The environment by which `OS_*` clients find our project with user and password.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            text("OS_AUTH_URL", &self.auth_url()),
            text("OS_USERNAME", keystone::USER),
            text("OS_PASSWORD", keystone::PASSWORD),
            text("OS_PROJECT_NAME", keystone::PROJECT),
            text("OS_USER_DOMAIN_NAME", "Default"),
            text("OS_PROJECT_DOMAIN_NAME", "Default"),
            text("OS_REGION_NAME", keystone::REGION),
            text("OS_IDENTITY_API_VERSION", "3"),
        ]
    }

    /// An application credential of our user: its id and its secret.
    pub(crate) fn application_credential(&self) -> (String, String) {
        self.state().seed_application_credential()
    }

    /// Lets the cloud's time go on by so much, at once.
    pub(crate) fn advance(&self, by: Duration) {
        self.inner.clock.advance(by);
    }

    /// From now on another process asks, which knows nothing of what the one before was told or saw.
    pub(crate) fn another_client(&self) {
        let mut state = self.state();
        state.not_before.clear();
        state.looks.clear();
    }

    /// Orders trouble for requests to come.
    pub(crate) fn fault(&self, fault: Fault) {
        self.state().faults.add(fault);
    }

    /// Lets trouble happen by chance, or no more.
    pub(crate) fn storm(&self, storm: Option<Storm>) {
        self.state().faults.storm(storm);
    }

    /// Every trouble that happened to a request so far.
    pub(crate) fn struck(&self) -> Vec<String> {
        self.state().faults.struck.clone()
    }

    /// What became of servers and images by chance so far.
    pub(crate) fn handed(&self) -> Vec<String> {
        self.state().faults.handed.clone()
    }

    /// What becomes of the next server that is made and has no fate yet.
    pub(crate) fn next_server(&self, fate: ServerFate) {
        self.state().faults.server_fates.push_back(fate);
    }

    /// What becomes of the next image that is made, by upload or from a server.
    pub(crate) fn next_image(&self, fate: ImageFate) {
        self.state().faults.image_fates.push_back(fate);
    }

    /// Revokes every token that was given out: the next call of each is a 401.
    pub(crate) fn revoke_tokens(&self) {
        let mut state = self.state();
        let now = state.now;
        state.tokens.values_mut().for_each(|token| token.revoked = token.revoked.or(Some(now)));
    }

    /// Sets what our project may have.
    pub(crate) fn quota(&self, quota: Quota) {
        self.state().quota = quota;
    }

    /// Every rule that the client broke, in order.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many requests of a method there were whose path, without service's version, begins like this.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.starts_with(path)).count()
    }

    /// Waits until a request has come that fits; looks at those that came before, too.
    pub(crate) async fn reached(&self, what: impl Fn(&Seen) -> bool) {
        let mut requests = self.inner.requests.subscribe();
        let found = async {
            loop {
                requests.borrow_and_update();
                if self.seen().iter().any(&what) {
                    return;
                }
                requests.changed().await.expect("the cloud runs");
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), found).await;
        assert!(found.is_ok(), "no such request came in a minute; those that came: {:#?}", self.seen());
    }

    /// What is there and was made by the client: `server ID NAME`, `image …`, `port …`, `floating ip …`, sorted.
    pub(crate) fn ours(&self) -> Vec<String> {
        self.state().made_by(state::Origin::Client).into_keys().collect()
    }

    /// Everything that belongs to others, as its services show it, to be compared later.
    pub(crate) fn strangers(&self) -> BTreeMap<String, Value> {
        self.state().made_by(state::Origin::Stranger)
    }

    /// A server of ours as Nova shows it, by its name.
    pub(crate) fn server(&self, name: &str) -> Option<Value> {
        let state = self.state();
        let server = state.servers.values().find(|server| server.name == name)?;
        Some(nova_lists::shown(&state, server, nova::LATEST))
    }

    /// An image as Glance shows it, by its id.
    pub(crate) fn image(&self, id: &str) -> Option<Value> {
        let state = self.state();
        state.images.get(id).map(|image| glance::shown(image, state.now_base))
    }

    /// The text of a file on the disk that an image holds, if it is there.
    pub(crate) fn image_file(&self, id: &str, path: &str) -> Option<String> {
        let data = self.state().images.get(id)?.data.clone()?;
        glance_data::file_of(&data, path)
    }

    /// The id of a network that is there: `private`, `office`, or `provider`, which is external.
    pub(crate) fn network(&self, name: &str) -> String {
        let network = strangers::networks().iter().find(|network| network.name == name);
        network.expect("it is there").id.to_owned()
    }

    /// The id of the image that everybody boots from.
    pub(crate) fn base_image(&self) -> String {
        strangers::BASE_IMAGE.to_owned()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.state().end_guests();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Opens a listener for each service, and seeds the cloud.
async fn open(settings: Settings) -> Arc<Inner> {
    let mut listeners = Vec::new();
    for service in http::Service::ALL {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        listeners.push((service, listener));
    }
    let url = |service| {
        let (_, listener) = listeners.iter().find(|(of, _)| *of == service).expect("each has one");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    let endpoints = Endpoints::new(url);
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let runtime = tokio::runtime::Handle::current();
    let clock = FakeClock::start(settings.scale);
    let mut state = State::new(settings, endpoints, directory.path().to_owned(), clock.base());
    strangers::seed(&mut state);
    let (requests, _) = watch::channel(0);
    let inner = Arc::new(Inner { clock, state: Mutex::new(state), requests, runtime, _directory: directory });
    for (service, listener) in listeners {
        tokio::spawn(http::serve(inner.clone(), service, listener));
    }
    inner
}
