//! Models.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::idempotency::Keep;
use super::{
    ItemFilter, Page, PageRequest, Scope, StagedBlob, Store, StoreError, from_json, from_word,
    to_i64, to_json, to_u64,
};
use crate::spec::item::ItemChange;
use crate::spec::model::{LayerInfo, ModelFormat, ModelSummary};

/// A stored model.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub id: String,
    pub project: String,
    pub name: String,
    pub format: ModelFormat,
    /// Hex SHA-256 of the file.
    pub digest: String,
    pub size_bytes: u64,
    pub created_at: String,
    /// The model that a job made this one from.
    pub parent_id: Option<String>,
    /// The job that made it.
    pub job_id: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub summary: ModelSummary,
}

/// A model on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct NewModel {
    pub id: String,
    pub name: String,
    pub format: ModelFormat,
    pub file: StagedBlob,
    pub parent_id: Option<String>,
    pub job_id: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub summary: ModelSummary,
}

/// What came of a request to delete something that jobs may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    NotFound,
    /// An unfinished job needs it.
    InUse,
}

struct ModelRow {
    id: String,
    project: String,
    name: String,
    format: String,
    digest: String,
    size_bytes: i64,
    created_at: String,
    parent_id: Option<String>,
    job_id: Option<String>,
    tags: String,
    summary: String,
}

impl ModelRow {
    fn into_model(self) -> Result<Model, StoreError> {
        Ok(Model {
            format: from_word(&self.format, "format", &self.id)?,
            tags: from_json(&self.tags, "tags", &self.id)?,
            summary: from_json(&self.summary, "summary", &self.id)?,
            project: self.project,
            name: self.name,
            digest: self.digest,
            size_bytes: to_u64(self.size_bytes),
            created_at: self.created_at,
            parent_id: self.parent_id,
            job_id: self.job_id,
            id: self.id,
        })
    }
}

/// Whether a job that has not ended needs this: as its model or a further one, as its data, or as an earlier search.
pub(super) async fn is_needed(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<bool, StoreError> {
    let needed = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT 1 FROM job_inputs JOIN jobs ON jobs.id = job_inputs.job_id
               WHERE job_inputs.input_id = ?1 AND jobs.status IN ('queued', 'running', 'canceling')
           ) as "needed!: i64""#,
        id
    )
    .fetch_one(connection)
    .await?;
    Ok(needed > 0)
}

impl Store {
    /// Takes a model in; its file is moved to the blobs.
    pub async fn create_model(
        &self,
        project: &str,
        new: &NewModel,
        keep: Option<Keep<'_, Model>>,
    ) -> Result<Model, StoreError> {
        self.check_quota(project, new.file.size_bytes).await?;
        let commit = async {
            let mut transaction = self.begin().await?;
            insert_model(&mut transaction, project, new).await?;
            let model = select_model(&mut transaction, &new.id)
                .await?
                .ok_or(sqlx::Error::RowNotFound)?;
            if let Some(keep) = keep {
                keep.insert(&mut transaction, &model).await?;
            }
            transaction.commit().await?;
            Ok(model)
        };
        self.with_files(&[&new.file], commit).await
    }

    pub async fn model(&self, scope: &Scope, id: &str) -> Result<Option<Model>, StoreError> {
        let mut connection = self.reader.acquire().await?;
        let model = select_model(&mut connection, id).await?;
        Ok(model.filter(|model| scope.sees(&model.project)))
    }

    /// The newest model of a project with these tags that no job made.
    pub async fn uploaded_model(
        &self,
        project: &str,
        tags: &BTreeMap<String, String>,
    ) -> Result<Option<String>, StoreError> {
        let tags = to_json(tags);
        let found = sqlx::query_scalar!(
            r#"SELECT id as "id!: String" FROM models
               WHERE project = ?1 AND job_id IS NULL AND parent_id IS NULL AND tags = ?2 ORDER BY id DESC LIMIT 1"#,
            project,
            tags
        );
        Ok(found.fetch_optional(&self.reader).await?)
    }

    /// Models, the newest first.
    pub async fn models(
        &self,
        scope: &Scope,
        filter: &ItemFilter,
        page: &PageRequest,
    ) -> Result<Page<Model>, StoreError> {
        let asked = i64::from(page.limit) + 1;
        let project = scope.project();
        let rows = sqlx::query_as!(
            ModelRow,
            r#"SELECT id as "id!: String", project as "project!: String", name as "name!: String",
                      format as "format!: String",
                      digest as "digest!: String", size_bytes as "size_bytes!: i64",
                      created_at as "created_at!: String", parent_id as "parent_id?: String",
                      job_id as "job_id?: String", tags as "tags!: String",
                      summary as "summary!: String"
               FROM models WHERE (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR project = ?2)
                 AND (?3 IS NULL OR name = ?3) AND (?4 IS NULL OR digest = ?4)
               ORDER BY id DESC LIMIT ?5"#,
            page.after,
            project,
            filter.name,
            filter.digest,
            asked
        )
        .fetch_all(&self.reader)
        .await?;
        let models = rows
            .into_iter()
            .map(ModelRow::into_model)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(models, page.limit, |model| model.id.clone()))
    }

    /// Gives a model another name or other tags; `None` where there is no such model.
    pub async fn change_model(
        &self,
        scope: &Scope,
        id: &str,
        change: &ItemChange,
    ) -> Result<Option<Model>, StoreError> {
        let mut transaction = self.begin().await?;
        let found = select_model(&mut transaction, id).await?;
        let Some(model) = found.filter(|model| scope.sees(&model.project)) else {
            return Ok(None);
        };
        let (name, tags) = change.applied(model.name, model.tags);
        let stored = to_json(&tags);
        sqlx::query!(
            "UPDATE models SET name = ?2, tags = ?3 WHERE id = ?1",
            id,
            name,
            stored
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(Model {
            name,
            tags,
            ..model
        }))
    }

    /// Removes a model, and its file if nothing else has the same bytes.
    pub async fn delete_model(&self, scope: &Scope, id: &str) -> Result<Deletion, StoreError> {
        let mut transaction = self.begin().await?;
        let found = select_model(&mut transaction, id).await?;
        let Some(model) = found.filter(|model| scope.sees(&model.project)) else {
            return Ok(Deletion::NotFound);
        };
        if is_needed(&mut transaction, id).await? {
            return Ok(Deletion::InUse);
        }
        sqlx::query!("DELETE FROM models WHERE id = ?1", id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.remove_unreferenced(&[model.digest]).await?;
        Ok(Deletion::Deleted)
    }

    /// The layers of a model, if they were asked for before.
    pub async fn kept_layers(&self, id: &str) -> Result<Option<Vec<LayerInfo>>, StoreError> {
        let layers = sqlx::query_scalar!(
            r#"SELECT layers as "layers?: String" FROM models WHERE id = ?1"#,
            id
        )
        .fetch_optional(&self.reader)
        .await?;
        layers
            .flatten()
            .map(|layers| from_json(&layers, "layers", id))
            .transpose()
    }

    /// Keeps the layers of a model, which never change.
    pub async fn keep_layers(&self, id: &str, layers: &[LayerInfo]) -> Result<(), StoreError> {
        let layers = to_json(&layers);
        sqlx::query!("UPDATE models SET layers = ?2 WHERE id = ?1", id, layers)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

pub(super) async fn insert_model(
    connection: &mut SqliteConnection,
    project: &str,
    new: &NewModel,
) -> Result<(), StoreError> {
    let format = new.format.as_str();
    let size_bytes = to_i64(new.file.size_bytes);
    let summary = to_json(&new.summary);
    let tags = to_json(&new.tags);
    sqlx::query!(
        "INSERT INTO models
             (id, name, format, digest, size_bytes, summary, tags, parent_id, job_id, project)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        new.id,
        new.name,
        format,
        new.file.digest,
        size_bytes,
        summary,
        tags,
        new.parent_id,
        new.job_id,
        project
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn select_model(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<Model>, StoreError> {
    sqlx::query_as!(
        ModelRow,
        r#"SELECT id as "id!: String", project as "project!: String", name as "name!: String",
                  format as "format!: String", digest as "digest!: String", size_bytes as "size_bytes!: i64",
                  created_at as "created_at!: String", parent_id as "parent_id?: String",
                  job_id as "job_id?: String", tags as "tags!: String",
                  summary as "summary!: String"
           FROM models WHERE id = ?1"#,
        id
    )
    .fetch_optional(connection)
    .await?
    .map(ModelRow::into_model)
    .transpose()
}
