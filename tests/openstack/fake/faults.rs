//! Trouble, ordered by a test: for requests that fit, for servers and images yet to be made.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::http::{Request, Service};

/// Trouble for requests that fit.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    service: Service,
    method: &'static str,
    /// How the path begins, without the service's version.
    path: &'static str,
    /// How the path ends.
    end: &'static str,
    /// How many that fit pass unharmed before it strikes.
    skip: usize,
    /// How many it strikes.
    times: usize,
    effect: Effect,
}

impl Fault {
    /// For the next request that fits. `path` is without the service's version and begins a request's; `*` in it is
    /// followed by its end: `/servers/*/action`.
    pub(crate) fn on(service: Service, method: &'static str, path: &'static str, effect: Effect) -> Self {
        let (path, end) = path.split_once('*').unwrap_or((path, ""));
        Self { service, method, path, end, skip: 0, times: 1, effect }
    }

    /// Lets so many that fit pass first, those counted that another fault strikes.
    pub(crate) fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// Strikes so many, one after the other.
    pub(crate) fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    fn fits(&self, request: &Request) -> bool {
        self.service == request.service
            && self.method == request.method
            && request.path.starts_with(self.path)
            && request.path.ends_with(self.end)
    }
}

/// What becomes of a request that is struck.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// The service refuses it in its own shape; nothing is done.
    Refuse { status: u16, retry_after: Option<u64> },
    /// What was asked is done, and the answer says that it was not.
    DoneButRefuse { status: u16 },
    /// The token is revoked, and this is the first to hear of it.
    Unauthorized,
    /// The connection ends before anything was done.
    LoseRequest,
    /// What was asked is done, and the connection ends without an answer.
    LoseReply,
    /// Something between answers: a page that no service would send.
    Proxy { status: u16 },
    /// Something between sends the client to another host.
    Redirect { status: u16 },
    /// The connection ends after so many bytes of an upload; the image is left as it was then.
    CutUpload { after: usize },
    /// The connection ends after so many bytes of a download.
    CutDownload { after: usize },
    /// It waits until the test lets it through.
    Hold(Gate),
    /// What was asked is done, and the answer waits until the test lets it through.
    HoldReply(Gate),
}

/// Holds requests until a test opens it.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until a request stands at it.
    pub(crate) async fn arrived(&self) {
        let one = tokio::time::timeout(Duration::from_secs(60), self.arrived.acquire()).await;
        one.expect("a request came within a minute").expect("it is not closed").forget();
    }

    /// Lets all through, now and later.
    pub(crate) fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub(super) async fn pass(&self) {
        self.arrived.add_permits(1);
        let _passed = self.open.acquire().await;
    }
}

/// What becomes of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerFate {
    /// It becomes ACTIVE, and its guest answers.
    Well,
    /// It goes to ERROR with this fault: `No valid host was found.` is the cloud's capacity.
    Error { code: u16, message: String },
    /// It stays in BUILD for ever.
    StuckInBuild,
    /// It becomes ACTIVE, and nothing ever answers at port 22.
    Mute,
    /// Its deletion takes so long.
    SlowDelete(Duration),
    /// For so long after it was made it is answered 404.
    LateToAppear(Duration),
    /// Nova forgets what task it is at: SHUTOFF comes never, since the hypervisor is not heard.
    NeverOff,
}

/// What becomes of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageFate {
    /// It becomes active.
    Well,
    /// It stays in `saving` for ever.
    StuckSaving,
    /// It stays in `queued` for ever, and the server is done with it.
    StuckQueued,
    /// It goes to `error`, or is gone: Nova deletes a snapshot that failed.
    Killed,
    /// It becomes active with other bytes than were sent.
    Corrupted,
    /// For so long after it was made it is answered 404.
    LateToAppear(Duration),
}

/// A request that a fault has struck.
#[derive(Debug)]
pub(crate) struct Struck {
    pub(crate) effect: Effect,
}

/// All trouble that is ordered and did not happen yet.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    waiting: Vec<Fault>,
    pub(crate) server_fates: VecDeque<ServerFate>,
    pub(crate) image_fates: VecDeque<ImageFate>,
    cuts: Vec<usize>,
    storm: Option<Storm>,
    /// What became of servers and images by chance.
    pub(crate) handed: Vec<String>,
    /// What struck, for the test to read: `Nova POST /servers Refuse …`.
    pub(crate) struck: Vec<String>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.waiting.push(fault);
    }

    /// Lets trouble happen by chance from now on, or no more.
    pub(crate) fn storm(&mut self, storm: Option<Storm>) {
        self.storm = storm;
    }

    /// The first fault that fits and is due.
    pub(crate) fn strike(&mut self, request: &Request) -> Option<Struck> {
        let mut found = None;
        for (at, fault) in self.waiting.iter_mut().enumerate().filter(|(_, fault)| fault.fits(request)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if found.is_none() {
                fault.times -= 1;
                found = Some((at, fault.effect.clone()));
            }
        }
        let effect = match found {
            Some((at, effect)) => {
                if self.waiting[at].times == 0 {
                    self.waiting.remove(at);
                }
                effect
            }
            None => self.storm.as_mut()?.strike(request)?,
        };
        self.struck.push(format!("{:?} {} {} {effect:?}", request.service, request.method, request.path));
        if let Effect::CutDownload { after } = effect {
            self.cuts.push(after);
        }
        Some(Struck { effect })
    }

    /// After how many bytes this download is to end.
    pub(crate) fn cut_download(&mut self, request: &Request) -> Option<usize> {
        if request.method == "GET" && request.path.ends_with("/file") { self.cuts.pop() } else { None }
    }

    pub(crate) fn server_fate(&mut self) -> ServerFate {
        if let Some(ordered) = self.server_fates.pop_front() {
            return ordered;
        }
        let fate = self.storm.as_mut().map_or(ServerFate::Well, Storm::server);
        if fate != ServerFate::Well {
            self.handed.push(format!("{fate:?}"));
        }
        fate
    }

    pub(crate) fn image_fate(&mut self) -> ImageFate {
        if let Some(ordered) = self.image_fates.pop_front() {
            return ordered;
        }
        let fate = self.storm.as_mut().map_or(ImageFate::Well, Storm::image);
        if fate != ImageFate::Well {
            self.handed.push(format!("{fate:?}"));
        }
        fate
    }
}

/// Trouble by chance, the same for the same seed and the same requests.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    seed: u64,
    /// One request of so many that change something is struck; those that look, a tenth as often.
    pub(crate) requests: u64,
    /// One server, and one image, of so many.
    pub(crate) fates: u64,
}

impl Storm {
    pub(crate) fn new(seed: u64, requests: u64, fates: u64) -> Self {
        Self { seed: seed | 1, requests, fates }
    }

    /// A number below this one (xorshift64).
    fn below(&mut self, limit: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % limit
    }

    fn strike(&mut self, request: &Request) -> Option<Effect> {
        let looks = if request.method == "GET" { 10 } else { 1 };
        if request.service == Service::Keystone || self.below(self.requests * looks) != 0 {
            return None;
        }
        Some(match self.below(9) {
            0 => Effect::Refuse { status: 429, retry_after: Some(1) },
            1 => Effect::Refuse { status: 503, retry_after: None },
            2 => Effect::Refuse { status: 413, retry_after: Some(1) },
            3 => Effect::DoneButRefuse { status: 500 },
            4 => Effect::Unauthorized,
            5 => Effect::LoseRequest,
            6 => Effect::Proxy { status: 502 },
            7 => Effect::Proxy { status: 404 },
            _ => Effect::LoseReply,
        })
    }

    fn server(&mut self) -> ServerFate {
        if self.below(self.fates) != 0 {
            return ServerFate::Well;
        }
        match self.below(4) {
            0 => ServerFate::Error { code: 500, message: "No valid host was found. ".to_owned() },
            1 => ServerFate::SlowDelete(Duration::from_secs(60)),
            2 => ServerFate::LateToAppear(Duration::from_secs(1)),
            _ => ServerFate::Error { code: 500, message: "Build of instance aborted: no luck".to_owned() },
        }
    }

    fn image(&mut self) -> ImageFate {
        if self.below(self.fates) != 0 {
            return ImageFate::Well;
        }
        match self.below(3) {
            0 => ImageFate::Killed,
            1 => ImageFate::LateToAppear(Duration::from_secs(1)),
            _ => ImageFate::StuckSaving,
        }
    }
}
