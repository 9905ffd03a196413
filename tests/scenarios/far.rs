//! A second driver, far away: it makes nothing, and gets copies of images.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Mutex;

use async_trait::async_trait;
use factoryd::domain::id::{BuildNo, Digest, DiskId, DriverName};
use factoryd::domain::image::{ImageCopy, ImageState};
use factoryd::engine::ports::{
    Base, BaseSource, DiskUse, Driver, ImageOrder, Lines, Machine, MachineOrder, PortError, PublishedCopy, Wait,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::factory::Factory;

/// Its name in the configuration.
const NAME: &str = "far";

/// What is far away: disks with their bytes, and what of them is shown.
pub(crate) struct Far {
    name: DriverName,
    disks: Mutex<BTreeMap<DiskId, (Vec<u8>, ImageState)>>,
    refuses: Mutex<bool>,
}

impl Default for Far {
    fn default() -> Self {
        Self { name: DriverName::from(NAME), disks: Mutex::default(), refuses: Mutex::default() }
    }
}

fn never<T>() -> Result<T, PortError> {
    panic!("nothing is built far away")
}

#[async_trait]
impl Driver for Far {
    fn name(&self) -> &DriverName {
        &self.name
    }

    async fn settings(&self) -> Result<Vec<(String, String)>, PortError> {
        never()
    }

    async fn health(&self) -> Result<String, PortError> {
        Ok("far".to_owned())
    }

    async fn base(&self, _: &BaseSource, _: &Lines, _: &Wait) -> Result<Base, PortError> {
        never()
    }

    async fn boot(&self, _: &MachineOrder, _: &Lines, _: &Wait) -> Result<Box<dyn Machine>, PortError> {
        never()
    }

    async fn publish(
        &self,
        _: &DiskId,
        _: &DiskId,
        _: &ImageOrder,
        _: &Lines,
        _: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        never()
    }

    async fn take(
        &self,
        from: &dyn Driver,
        disk: &DiskId,
        keep: &DiskId,
        order: &ImageOrder,
        _: &Lines,
        _: &Wait,
    ) -> Result<PublishedCopy, PortError> {
        if *self.refuses.lock().expect("no panic") {
            return Err(PortError::unavailable("the far store is full"));
        }
        let mut bytes = Vec::new();
        from.read(disk).await?.read_to_end(&mut bytes).await.expect("read");
        let (sha256, size) = (Digest::of(&bytes), bytes.len() as u64);
        let before = self.disks.lock().expect("no panic").insert(keep.clone(), (bytes, ImageState::Published));
        assert!(before.is_none(), "{keep} is there already");
        let copy = ImageCopy {
            driver: self.name.clone(),
            region: "away".to_owned(),
            id: format!("far-{}", order.image),
            disk: keep.clone(),
        };
        Ok(PublishedCopy { copy, sha256, size, virtual_size: size })
    }

    async fn amend(&self, _: &ImageCopy, _: &ImageOrder) -> Result<(), PortError> {
        Ok(())
    }

    async fn show(&self, copy: &ImageCopy, state: ImageState) -> Result<(), PortError> {
        self.disks.lock().expect("no panic").get_mut(&copy.disk).expect("it is there").1 = state;
        Ok(())
    }

    async fn has(&self, disk: &DiskId) -> Result<bool, PortError> {
        Ok(self.disks.lock().expect("no panic").contains_key(disk))
    }

    async fn disks(&self) -> Result<Vec<(DiskId, u64)>, PortError> {
        let disks = self.disks.lock().expect("no panic");
        Ok(disks.iter().map(|(disk, (bytes, _))| (disk.clone(), bytes.len() as u64)).collect())
    }

    async fn read(&self, disk: &DiskId) -> Result<Box<dyn AsyncRead + Send + Unpin>, PortError> {
        let bytes = self.disks.lock().expect("no panic")[disk].0.clone();
        Ok(Box::new(Cursor::new(bytes)))
    }

    async fn disk_use(&self) -> Result<Option<DiskUse>, PortError> {
        Ok(None)
    }

    async fn remove(&self, disk: &DiskId) -> Result<(), PortError> {
        self.disks.lock().expect("no panic").remove(disk);
        Ok(())
    }

    async fn tidy(&self) -> Result<(usize, u64), PortError> {
        Ok((0, 0))
    }

    async fn release(&self, _: BuildNo) -> Result<usize, PortError> {
        Ok(0)
    }

    async fn tagged(&self) -> Result<Vec<BuildNo>, PortError> {
        Ok(Vec::new())
    }
}

impl Far {
    fn states(&self) -> Vec<ImageState> {
        self.disks.lock().expect("no panic").values().map(|(_, state)| *state).collect()
    }
}

fn factory() -> Factory {
    let mut factory = Factory::new();
    factory.policy.copies = vec![DriverName::from(NAME)];
    factory.policy.keep = 1;
    factory.policy.keep_for = Some(std::time::Duration::from_secs(86_400));
    factory.restart();
    factory
}

#[test]
fn an_image_is_copied_named_in_outputs_and_goes_far_away_as_it_goes_here() {
    let mut factory = factory();
    factory.deliver(&[]);
    let image = factory.image(&factory.served_id("images/web")).image;
    let drivers: Vec<&str> = image.copies.iter().map(|copy| copy.driver.as_str()).collect();
    assert_eq!(drivers, ["fake", NAME], "{image:?}");
    let far = image.copies.iter().find(|copy| copy.driver.as_str() == NAME).expect("a copy");
    let rendered = factory.artifact(1, "images/target/web/output/stack.yml");
    assert!(rendered.contains(&far.id), "{rendered}");
    for round in 0..2 {
        factory.deliver(&[("images/web/files/motd", &format!("Round {round}.\n"))]);
    }
    assert_eq!(factory.collect().deprecated.len(), 2);
    let shown = factory.far.states();
    assert_eq!(shown.iter().filter(|state| **state == ImageState::Deprecated).count(), 2, "{shown:?}");
    factory.world.days_pass(2);
    factory.collect();
    assert_eq!(factory.far.states(), [ImageState::Published], "the served one");
}

#[test]
fn what_can_not_be_copied_is_not_published_and_left_nowhere() {
    let mut factory = factory();
    *factory.far.refuses.lock().expect("no panic") = true;
    factory.deliver(&[]);
    let failure = factory.failure(1);
    assert_eq!(failure.message, "the far store is full");
    assert_eq!(factory.images().len(), 0);
    *factory.far.refuses.lock().expect("no panic") = false;
    let again = factory.retry(1);
    factory.settle();
    assert!(factory.ended(again).starts_with("passed:"), "{}", factory.ended(again));
    assert_eq!(factory.far.states().len(), 1);
}
