//! Data sets.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::idempotency::Keep;
use super::models::{Deletion, is_needed};
use super::{
    ItemFilter, Page, PageRequest, Scope, StagedBlob, Store, StoreError, from_json, to_i64,
    to_json, to_u64,
};
use crate::spec::child::{DatasetInput, InputFile};
use crate::spec::dataset::DatasetSummary;
use crate::spec::item::ItemChange;

/// One file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetFile {
    /// As the uploader named it.
    pub name: String,
    /// Hex SHA-256.
    pub digest: String,
    pub size_bytes: u64,
}

/// A stored data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pub id: String,
    pub project: String,
    pub name: String,
    /// Hex SHA-256 of the only file, or over the sorted lines `name digest` of several.
    pub digest: String,
    pub size_bytes: u64,
    pub created_at: String,
    pub tags: BTreeMap<String, String>,
    pub summary: DatasetSummary,
    pub files: Vec<DatasetFile>,
}

/// A data set on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDataset {
    pub id: String,
    pub name: String,
    pub digest: String,
    pub files: Vec<(String, StagedBlob)>,
    pub tags: BTreeMap<String, String>,
    pub summary: DatasetSummary,
}

impl NewDataset {
    /// Of all its files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.size_bytes).sum()
    }
}

struct DatasetRow {
    id: String,
    project: String,
    name: String,
    digest: String,
    size_bytes: i64,
    created_at: String,
    tags: String,
    summary: String,
}

impl Store {
    /// Takes a data set in; its files are moved to the blobs.
    pub async fn create_dataset(
        &self,
        project: &str,
        new: &NewDataset,
        keep: Option<Keep<'_, Dataset>>,
    ) -> Result<Dataset, StoreError> {
        self.check_quota(project, new.size_bytes()).await?;
        let files: Vec<&StagedBlob> = new.files.iter().map(|(_, file)| file).collect();
        let commit = async {
            let mut transaction = self.begin().await?;
            insert_dataset(&mut transaction, project, new).await?;
            let dataset = select_dataset(&mut transaction, &new.id)
                .await?
                .ok_or(sqlx::Error::RowNotFound)?;
            if let Some(keep) = keep {
                keep.insert(&mut transaction, &dataset).await?;
            }
            transaction.commit().await?;
            Ok(dataset)
        };
        self.with_files(&files, commit).await
    }

    pub async fn dataset(&self, scope: &Scope, id: &str) -> Result<Option<Dataset>, StoreError> {
        let mut connection = self.reader.acquire().await?;
        let dataset = select_dataset(&mut connection, id).await?;
        Ok(dataset.filter(|dataset| scope.sees(&dataset.project)))
    }

    /// Data sets, the newest first.
    pub async fn datasets(
        &self,
        scope: &Scope,
        filter: &ItemFilter,
        page: &PageRequest,
    ) -> Result<Page<Dataset>, StoreError> {
        let asked = i64::from(page.limit) + 1;
        let project = scope.project();
        let mut connection = self.reader.acquire().await?;
        let ids = sqlx::query_scalar!(
            r#"SELECT id as "id!: String" FROM datasets
               WHERE (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR project = ?2)
                 AND (?3 IS NULL OR name = ?3) AND (?4 IS NULL OR digest = ?4)
               ORDER BY id DESC LIMIT ?5"#,
            page.after,
            project,
            filter.name,
            filter.digest,
            asked
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut datasets = Vec::with_capacity(ids.len());
        for id in ids {
            datasets.extend(select_dataset(&mut connection, &id).await?);
        }
        Ok(Page::cut(datasets, page.limit, |dataset| {
            dataset.id.clone()
        }))
    }

    /// Gives a data set another name or other tags; `None` where there is no such data set.
    pub async fn change_dataset(
        &self,
        scope: &Scope,
        id: &str,
        change: &ItemChange,
    ) -> Result<Option<Dataset>, StoreError> {
        let mut transaction = self.begin().await?;
        let found = select_dataset(&mut transaction, id).await?;
        let Some(dataset) = found.filter(|dataset| scope.sees(&dataset.project)) else {
            return Ok(None);
        };
        let (name, tags) = change.applied(dataset.name, dataset.tags);
        let stored = to_json(&tags);
        sqlx::query!(
            "UPDATE datasets SET name = ?2, tags = ?3 WHERE id = ?1",
            id,
            name,
            stored
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(Dataset {
            name,
            tags,
            ..dataset
        }))
    }

    /// Removes a data set, and those of its files that nothing else has.
    pub async fn delete_dataset(&self, scope: &Scope, id: &str) -> Result<Deletion, StoreError> {
        let mut transaction = self.begin().await?;
        let found = select_dataset(&mut transaction, id).await?;
        let Some(dataset) = found.filter(|dataset| scope.sees(&dataset.project)) else {
            return Ok(Deletion::NotFound);
        };
        if is_needed(&mut transaction, id).await? {
            return Ok(Deletion::InUse);
        }
        sqlx::query!("DELETE FROM datasets WHERE id = ?1", id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let digests: Vec<String> = dataset.files.into_iter().map(|file| file.digest).collect();
        self.remove_unreferenced(&digests).await?;
        Ok(Deletion::Deleted)
    }

    /// A data set as a job reads it.
    pub fn dataset_input(&self, dataset: &Dataset) -> DatasetInput {
        DatasetInput {
            files: dataset
                .files
                .iter()
                .map(|file| InputFile {
                    name: file.name.clone(),
                    path: self.blobs.path(&file.digest),
                })
                .collect(),
            summary: dataset.summary.clone(),
        }
    }
}

async fn insert_dataset(
    connection: &mut SqliteConnection,
    project: &str,
    new: &NewDataset,
) -> Result<(), StoreError> {
    let size_bytes = to_i64(new.size_bytes());
    let summary = to_json(&new.summary);
    let tags = to_json(&new.tags);
    sqlx::query!(
        "INSERT INTO datasets (id, name, digest, size_bytes, summary, tags, project)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        new.id,
        new.name,
        new.digest,
        size_bytes,
        summary,
        tags,
        project
    )
    .execute(&mut *connection)
    .await?;
    for (position, (name, file)) in (0_i64..).zip(&new.files) {
        let file_bytes = to_i64(file.size_bytes);
        sqlx::query!(
            "INSERT INTO dataset_files (dataset_id, position, name, digest, size_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            new.id,
            position,
            name,
            file.digest,
            file_bytes
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

pub(super) async fn select_dataset(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<Dataset>, StoreError> {
    let found = sqlx::query_as!(
        DatasetRow,
        r#"SELECT id as "id!: String", project as "project!: String", name as "name!: String",
                  digest as "digest!: String", size_bytes as "size_bytes!: i64", created_at as "created_at!: String",
                  tags as "tags!: String", summary as "summary!: String"
           FROM datasets WHERE id = ?1"#,
        id
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = found else {
        return Ok(None);
    };
    let files = sqlx::query!(
        r#"SELECT name as "name!: String", digest as "digest!: String",
                  size_bytes as "size_bytes!: i64"
           FROM dataset_files WHERE dataset_id = ?1 ORDER BY position"#,
        id
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|file| DatasetFile {
        name: file.name,
        digest: file.digest,
        size_bytes: to_u64(file.size_bytes),
    })
    .collect();
    Ok(Some(Dataset {
        tags: from_json(&row.tags, "tags", &row.id)?,
        summary: from_json(&row.summary, "summary", &row.id)?,
        project: row.project,
        name: row.name,
        digest: row.digest,
        size_bytes: to_u64(row.size_bytes),
        created_at: row.created_at,
        id: row.id,
        files,
    }))
}
