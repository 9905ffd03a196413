//! The driver of an OpenStack cloud: machines are servers of Nova, disks are images of Glance.
//!
//! ```text
//!   mod (Driver) ─► boot ─► servers ─► nova ──┐
//!        │           └► machine (seal) ──► images ─► glance ──┤► client ─► session (token, catalogue)
//!        └► base, publish ───────────────────┘      neutron ──┤      └ pace, error
//!                                                      heat ──┘
//! ```
//!
//! Nothing here trusts a name: what is ours carries our marks (`marks`), and what does not is never touched. No thread and
//! no task of its own waits for a server or an image: those who wait share their looks (`looks`).

mod base;
mod boot;
mod bytes;
mod client;
mod console;
mod credentials;
mod error;
mod flavors;
mod gates;
mod glance;
mod heat;
mod images;
mod looks;
mod machine;
mod marks;
mod neutron;
mod nova;
mod pace;
mod publish;
mod servers;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;
use tokio::sync::OnceCell;

pub use self::credentials::{Credentials, CredentialsFault, Interface};
pub use self::error::Service;
pub use self::pace::Pace;

use self::base::Maker;
use self::client::Client;
use self::glance::GlanceImage;
use self::looks::Looks;
use self::marks::Marks;
use self::nova::{Microversion, Server};
use crate::domain::id::{BuildNo, DiskId, DriverName};
use crate::domain::image::{ImageCopy, ImageState};
use crate::domain::stack::{StackTemplate, Verdict};
use crate::engine::ports::{
    Base, BaseSource, DiskUse, Driver, ImageOrder, Lines, Machine, MachineOrder, Orphan, PortError, PublishedCopy, Wait,
};
use crate::machine::making::Making;
use crate::machine::qemu::disks::{trouble, write_whole};
use crate::machine::qemu::{Qemu, QemuSettings};

/// How long a question that nobody waits for with a deadline may take.
const QUESTION: Duration = Duration::from_secs(30);
/// How long a guest may take to shut down before Nova is asked to end it. Where Nova is told by the hypervisor it knows at
/// once; elsewhere it looks for itself, and that takes minutes.
const SHUTDOWN: Duration = Duration::from_secs(120);

/// Who sees a published image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// The project.
    #[default]
    Private,
    /// Those that it is shared with.
    Shared,
    /// Everybody who knows its id.
    Community,
    /// Everybody.
    Public,
}

impl Visibility {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Private, Self::Shared, Self::Community, Self::Public];

    /// Glance's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Community => "community",
            Self::Public => "public",
        }
    }
}

/// What the configuration says of the driver.
#[derive(Clone)]
pub struct OpenStackSettings {
    /// Its name in the configuration.
    pub name: DriverName,
    /// Who the factory is to the cloud.
    pub credentials: Credentials,
    /// The certificates of the authorities that sign the cloud's, as text; besides those that the host trusts.
    pub authorities: Option<Vec<u8>>,
    /// The networks that machines are in, by id or name; the first is where they are reached.
    pub networks: Vec<String>,
    /// The network of floating addresses, where machines are to be reached by such.
    pub floating_network: Option<String>,
    /// Security groups by name; none: the project's default.
    pub security_groups: Vec<String>,
    /// The flavor, by id or name; none: the smallest that holds what is ordered.
    pub flavor: Option<String>,
    /// Where in the cloud machines are made.
    pub availability_zone: Option<String>,
    /// Whether machines get what they are told by a disk, too.
    pub config_drive: bool,
    /// Who sees what is published.
    pub visibility: Visibility,
    /// How patient the driver is.
    pub pace: Pace,
    /// The port that guests answer SSH at.
    pub ssh_port: u16,
    /// The driver's own directory on this host: keys of machines, and what base images are made with.
    pub directory: PathBuf,
    /// How base images are made on this host before they are uploaded; its directory is set by the driver.
    pub maker: QemuSettings,
}

impl std::fmt::Debug for OpenStackSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenStackSettings({}, {})", self.name, self.credentials.auth_url)
    }
}

/// The OpenStack driver.
#[derive(Debug)]
pub struct OpenStack(Arc<Cloud>);

/// What the driver and its machines share.
#[derive(Debug)]
pub(super) struct Cloud {
    settings: OpenStackSettings,
    client: Client,
    marks: Marks,
    maker: Maker,
    making: Making,
    directory: PathBuf,
    version: OnceCell<Microversion>,
    server_looks: Looks<Server>,
    image_looks: Looks<GlanceImage>,
    /// Networks that were looked up: their ids by what they were called.
    networks: Mutex<HashMap<String, String>>,
    /// Why builds wait for the cloud.
    waiting: Mutex<BTreeMap<BuildNo, String>>,
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenStack {
    /// Opens the driver's directory. The cloud is asked nothing yet. Blocks.
    ///
    /// # Errors
    /// When the directory can't be used, or the authorities' certificates can't be read.
    pub fn new(settings: OpenStackSettings) -> Result<Self, PortError> {
        let directory = settings.directory.clone();
        for below in [directory.clone(), directory.join("machines"), directory.join("sums")] {
            std::fs::create_dir_all(&below).map_err(|error| trouble("made", &below, &error))?;
        }
        let factory = factory_id(&directory)?;
        let maker = Qemu::new(QemuSettings { state_dir: directory.join("host"), ..settings.maker.clone() })?;
        let client = Client::new(settings.credentials.clone(), settings.authorities.as_deref(), settings.pace)
            .map_err(|why| PortError::refused(why).help("look at `ca` of the driver, or at cacert of its cloud"))?;
        Ok(Self(Arc::new(Cloud {
            client,
            marks: Marks::new(factory),
            maker: Arc::new(maker),
            making: Making::default(),
            directory,
            version: OnceCell::new(),
            server_looks: Looks::new(settings.pace.look),
            image_looks: Looks::new(settings.pace.look),
            networks: Mutex::default(),
            waiting: Mutex::default(),
            settings,
        })))
    }

    /// By which the factory knows its own in the cloud.
    pub fn factory(&self) -> &str {
        self.0.marks.factory()
    }
}

/// The factory's id, made once: another factory in the same project has another, and neither touches the other's.
fn factory_id(directory: &Path) -> Result<String, PortError> {
    let file = directory.join("factory-id");
    let known = std::fs::read_to_string(&file).ok().map(|text| text.trim().to_owned());
    if let Some(known) = known.filter(|known| uuid::Uuid::parse_str(known).is_ok()) {
        return Ok(known);
    }
    let id = uuid::Uuid::new_v4().to_string();
    write_whole(&file, format!("{id}\n").as_bytes())?;
    Ok(id)
}

impl Cloud {
    fn machines(&self) -> PathBuf {
        self.directory.join("machines")
    }

    fn of_build(&self, build: BuildNo) -> PathBuf {
        self.machines().join(build.0.to_string())
    }

    /// Notes why a build waits, or that it does no more.
    fn waits(&self, build: BuildNo, why: Option<String>) {
        let mut waiting = unpoisoned(&self.waiting);
        match why {
            Some(why) => waiting.insert(build, why),
            None => waiting.remove(&build),
        };
    }

    async fn described(&self) -> Result<String, PortError> {
        let nova = self.nova().await?;
        // A token that Nova still takes may be refused by Glance: both are asked.
        self.client.images(&[("limit", "1"), ("name", "factoryd-none")]).await?;
        let region = self.client.region();
        let within = if region.is_empty() { String::new() } else { format!(", region {region}") };
        let waiting = unpoisoned(&self.waiting).len();
        let wait = if waiting == 0 { String::new() } else { format!(", {waiting} waiting for room") };
        Ok(format!("OpenStack at {}{within}, compute {}{wait}", self.client.auth_url(), nova.version.newest))
    }
}

#[async_trait]
impl Driver for OpenStack {
    fn name(&self) -> &DriverName {
        &self.0.settings.name
    }

    async fn settings(&self) -> Result<Vec<(String, String)>, PortError> {
        let cloud = &self.0;
        let asked = async { Ok(cloud.nova().await?.version.newest.clone()) };
        let compute = Cloud::own_wait(QUESTION).run("asking the cloud", asked).await?;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Ok(vec![
            pair("cloud", cloud.client.auth_url()),
            pair("compute", &compute),
            pair("flavor", cloud.settings.flavor.as_deref().unwrap_or("the smallest that fits")),
            pair("region", cloud.client.region()),
        ])
    }

    async fn health(&self) -> Result<String, PortError> {
        Cloud::own_wait(QUESTION).run("asking the cloud", self.0.described()).await
    }

    async fn base(&self, source: &BaseSource, lines: &Lines, wait: &Wait) -> Result<Base, PortError> {
        self.0.make_base(source, lines, wait).await
    }

    async fn boot(&self, order: &MachineOrder, lines: &Lines, wait: &Wait) -> Result<Box<dyn Machine>, PortError> {
        Ok(Box::new(self.0.boot_machine(order, lines, wait).await?))
    }

    async fn publish(
        &self,
        disk: &DiskId,
        keep: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        self.0.publish_disk(disk, keep, order, lines, wait).await
    }

    async fn take(
        &self,
        from: &dyn Driver,
        disk: &DiskId,
        keep: &DiskId,
        order: &ImageOrder,
        lines: &Lines,
        wait: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        self.0.take_copy((from, disk), keep, order, lines, wait).await
    }

    async fn amend(&self, copy: &ImageCopy, order: &ImageOrder) -> Result<(), PortError> {
        self.0.amend_copy(copy, order).await
    }

    async fn show(&self, copy: &ImageCopy, state: ImageState) -> Result<(), PortError> {
        self.0.show_state(copy, state).await
    }

    async fn validate(&self, template: &StackTemplate, wait: &Wait) -> Verdict {
        self.0.validated(template, wait).await
    }

    async fn has(&self, disk: &DiskId) -> Result<bool, PortError> {
        let images = self.0.images_of(disk).await?;
        Ok(images.first().is_some_and(|image| image.is_active() && image.size.is_some_and(|size| size > 0)))
    }

    async fn disks(&self) -> Result<Vec<(DiskId, u64)>, PortError> {
        let mut all = Vec::new();
        for image in self.0.our_images().await? {
            // The bytes of an image that is two disks are there once.
            let sizes = std::iter::once(image.size.unwrap_or(0)).chain(std::iter::repeat(0));
            all.extend(Marks::disks(&image).into_iter().zip(sizes));
        }
        all.sort();
        Ok(all)
    }

    async fn read(&self, disk: &DiskId) -> Result<Box<dyn AsyncRead + Send + Unpin>, PortError> {
        let image = self.0.image_of(disk).await?;
        Ok(Box::new(bytes::Reader::new(self.0.client.image_bytes(&image.id, None).await?)))
    }

    async fn disk_use(&self) -> Result<Option<DiskUse>, PortError> {
        Ok(None)
    }

    async fn remove(&self, disk: &DiskId) -> Result<(), PortError> {
        self.0.remove_disk(disk).await?;
        self.0.maker.drop_base(disk).await
    }

    async fn tidy(&self) -> Result<(usize, u64), PortError> {
        self.0.tidy_all().await
    }

    async fn release(&self, build: BuildNo) -> Result<usize, PortError> {
        self.0.release_build(build).await
    }

    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError> {
        self.0.tagged_builds().await
    }

    async fn outside(&self) -> Result<Vec<Orphan>, PortError> {
        Ok(self.0.of_builds().await?.into_iter().map(|(_, orphan)| orphan).collect())
    }

    fn waiting(&self, build: BuildNo) -> Option<String> {
        unpoisoned(&self.0.waiting).get(&build).cloned()
    }
}

#[cfg(test)]
mod tests;
