//! The catalogue of images.

use rusqlite::{Params, Row, Transaction};

use super::Store;
use super::error::{Fault, StoreError};
use super::shape::{Col, Json};
use crate::domain::build::Moment;
use crate::domain::bundle::BundleKey;
use crate::domain::id::{DiskId, DriverName, ImageId};
use crate::domain::image::{Image, ImageCopy, ImageState, Lineage};

/// An image and what the store knows of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// The image.
    pub image: Image,
    /// The bundle and branch it was made for.
    pub key: BundleKey,
    /// When it was made.
    pub made: Moment,
    /// Whether it serves any bundle.
    pub served: bool,
}

const SELECT: &str = "
SELECT image.id, image.name, image.state, image.sha256, image.size, image.min_disk, image.properties, image.base,
  image.commit_id, image.path, image.build, image.disk, image.pinned, image.made, bundle.repository, bundle.branch,
  bundle.path, EXISTS (SELECT 1 FROM served WHERE served.image = image.id)
FROM image JOIN build ON build.number = image.build JOIN bundle ON bundle.id = build.bundle";

impl Store {
    /// All images, newest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.db().read("list images", |tx| query(tx, "ORDER BY image.made DESC, image.id", [])).await
    }

    /// The ids of all images, newest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn image_ids(&self) -> Result<Vec<ImageId>, StoreError> {
        let work = |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached("SELECT id FROM image ORDER BY made DESC, id")?;
            let ids = statement.query_map([], |row| row.get(0).map(|Col(id)| id))?;
            Ok(ids.collect::<rusqlite::Result<_>>()?)
        };
        self.db().read("list images", work).await
    }

    /// Some images, in the order asked for; those that are not there are left out.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn images_of(&self, ids: Vec<ImageId>) -> Result<Vec<ImageRecord>, StoreError> {
        let work = move |tx: &Transaction<'_>| {
            let mut found = Vec::with_capacity(ids.len());
            for id in &ids {
                found.extend(query(tx, "WHERE image.id = ?1", [Col(id)])?);
            }
            Ok(found)
        };
        self.db().read("read images", work).await
    }

    /// The image with an id, or the only one whose id begins so.
    ///
    /// # Errors
    /// [`StoreError::Ambiguous`] when several begin so.
    pub async fn image(&self, id_or_prefix: &str) -> Result<Option<ImageRecord>, StoreError> {
        let given = id_or_prefix.to_owned();
        self.db().read("look for an image", move |tx| find(tx, &given)).await
    }

    /// The images with a name, newest first.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn images_named(&self, name: &str) -> Result<Vec<ImageRecord>, StoreError> {
        let name = name.to_owned();
        let work =
            move |tx: &Transaction<'_>| query(tx, "WHERE image.name = ?1 ORDER BY image.made DESC, image.id", [name]);
        self.db().read("look for images by name", work).await
    }

    /// Retention leaves the image alone from now on.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn pin(&self, image: &ImageId) -> Result<(), StoreError> {
        let image = image.clone();
        self.db().write("pin an image", move |tx| set_pinned(tx, &image, 1)).await
    }

    /// Retention may take the image again.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn unpin(&self, image: &ImageId) -> Result<(), StoreError> {
        let image = image.clone();
        self.db().write("unpin an image", move |tx| set_pinned(tx, &image, 0)).await
    }

    /// Puts an image into another state.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn set_image_state(&self, image: &ImageId, state: ImageState) -> Result<(), StoreError> {
        let image = image.clone();
        self.db().write("change an image's state", move |tx| set_state(tx, &image, state)).await
    }

    /// Forgets an image, its copies and the kept results that are this image. Its disks are the driver's to remove
    /// afterwards.
    ///
    /// # Errors
    /// [`StoreError::Refused`] while it is served or pinned.
    pub async fn remove_image(&self, image: &ImageId) -> Result<(), StoreError> {
        let image = image.clone();
        self.db().write_then("remove an image", move |tx| remove(tx, &image), self.moved()).await
    }
}

fn find(tx: &Transaction<'_>, given: &str) -> Result<Option<ImageRecord>, Fault> {
    if let Some(exact) = query(tx, "WHERE image.id = ?1", [given])?.pop() {
        return Ok(Some(exact));
    }
    if given.is_empty() {
        return Ok(None);
    }
    let mut matches =
        query(tx, "WHERE substr(image.id, 1, length(?1)) = ?1 ORDER BY image.made DESC LIMIT 5", [given])?;
    if matches.len() > 1 {
        let matches = matches.iter().map(|record| record.image.id.to_string()).collect();
        return Err(StoreError::Ambiguous { given: given.to_owned(), matches }.into());
    }
    Ok(matches.pop())
}

fn remove(tx: &Transaction<'_>, image: &ImageId) -> Result<(), Fault> {
    let Some(record) = query(tx, "WHERE image.id = ?1", [image.as_str()])?.pop() else { return Ok(()) };
    let why = match (record.served, record.image.pinned) {
        (true, _) => "it is served",
        (_, true) => "it is pinned",
        (false, false) => {
            tx.execute("DELETE FROM result WHERE image = ?1", [Col(image)])?;
            tx.execute("DELETE FROM image WHERE id = ?1", [Col(image)])?;
            return Ok(());
        }
    };
    Err(StoreError::refused(format!("removing the image {image}"), why).into())
}

pub(super) fn insert_image(tx: &Transaction<'_>, image: &Image, made: Moment) -> Result<(), Fault> {
    tx.prepare_cached(
        "INSERT INTO image (id, name, state, sha256, size, min_disk, properties, base, commit_id, path, build, disk,
           pinned, made)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(rusqlite::params![
        Col(&image.id),
        image.name,
        Col(&image.state),
        Col(&image.sha256),
        Col(image.size),
        Col(image.min_disk),
        Json(&image.properties),
        Col(&image.lineage.base),
        Col(&image.lineage.commit),
        Col(&image.lineage.bundle),
        Col(image.lineage.build),
        Col(&image.lineage.disk),
        image.pinned,
        made.0,
    ])?;
    let mut statement =
        tx.prepare_cached("INSERT INTO image_copy (image, driver, region, id, disk) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for copy in &image.copies {
        statement.execute((Col(&image.id), Col(&copy.driver), &copy.region, &copy.id, Col(&copy.disk)))?;
    }
    Ok(())
}

pub(super) fn set_state(tx: &Transaction<'_>, image: &ImageId, state: ImageState) -> Result<(), Fault> {
    let changed = tx.prepare_cached("UPDATE image SET state = ?2 WHERE id = ?1")?.execute((Col(image), Col(&state)))?;
    found(changed, image)
}

pub(super) fn amend_image(
    tx: &Transaction<'_>,
    image: &ImageId,
    name: &str,
    properties: &[(String, String)],
    min_disk: u64,
) -> Result<(), Fault> {
    let changed = tx
        .prepare_cached("UPDATE image SET name = ?2, properties = ?3, min_disk = ?4 WHERE id = ?1")?
        .execute((Col(image), name, Json(&properties), Col(min_disk)))?;
    found(changed, image)
}

fn set_pinned(tx: &Transaction<'_>, image: &ImageId, pinned: i64) -> Result<(), Fault> {
    let changed = tx.prepare_cached("UPDATE image SET pinned = ?2 WHERE id = ?1")?.execute((Col(image), pinned))?;
    found(changed, image)
}

fn found(changed: usize, image: &ImageId) -> Result<(), Fault> {
    if changed == 0 {
        return Err(StoreError::no_such(format!("image {image}")).into());
    }
    Ok(())
}

/// The disks of a driver that images' copies live in.
pub(super) fn copies_of(tx: &Transaction<'_>, driver: &DriverName) -> Result<Vec<DiskId>, Fault> {
    let mut statement = tx.prepare_cached("SELECT disk FROM image_copy WHERE driver = ?1")?;
    let rows = statement.query_map([Col(driver)], |row| row.get::<_, Col<DiskId>>(0).map(|disk| disk.0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn query(tx: &Transaction<'_>, which: &str, params: impl Params) -> Result<Vec<ImageRecord>, Fault> {
    let mut statement = tx.prepare_cached(&format!("{SELECT} {which}"))?;
    let mut records = statement.query_map(params, record)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut copies =
        tx.prepare_cached("SELECT driver, region, id, disk FROM image_copy WHERE image = ?1 ORDER BY driver, region")?;
    for record in &mut records {
        let rows = copies.query_map([Col(&record.image.id)], copy)?;
        record.image.copies = rows.collect::<rusqlite::Result<_>>()?;
    }
    Ok(records)
}

fn copy(row: &Row<'_>) -> rusqlite::Result<ImageCopy> {
    let (Col(driver), Col(disk)) = (row.get(0)?, row.get(3)?);
    Ok(ImageCopy { driver, region: row.get(1)?, id: row.get(2)?, disk })
}

fn record(row: &Row<'_>) -> rusqlite::Result<ImageRecord> {
    let (Col(id), Col(state), Col(sha256)) = (row.get(0)?, row.get(2)?, row.get(3)?);
    let (Col(size), Col(min_disk), Json(properties)) = (row.get(4)?, row.get(5)?, row.get(6)?);
    let (Col(base), Col(commit), Col(bundle)) = (row.get(7)?, row.get(8)?, row.get(9)?);
    let (Col(build), Col(disk)) = (row.get(10)?, row.get(11)?);
    let (Col(repository), Col(branch), Col(path)) = (row.get(14)?, row.get(15)?, row.get(16)?);
    let image = Image {
        id,
        name: row.get(1)?,
        state,
        sha256,
        size,
        min_disk,
        properties,
        lineage: Lineage { base, commit, bundle, build, disk },
        pinned: row.get(12)?,
        copies: Vec::new(),
    };
    let key = BundleKey { repository, branch, path };
    Ok(ImageRecord { image, key, made: Moment(row.get(13)?), served: row.get(17)? })
}
