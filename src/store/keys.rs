//! Keys of the API: made once, shown once, kept as a keyed digest.

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{Store, StoreError, from_word};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at the project's models, data sets and jobs, and download them.
    Read,
    /// Also upload, queue, cancel and delete.
    Submit,
    /// The same in every project.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
        }
    }
}

/// A stored key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    /// How the key begins, which tells it from others in lists and logs.
    pub prefix: String,
    pub name: String,
    pub role: Role,
    pub project: String,
    pub created_at: String,
    pub expires_at: Option<String>,
    pub revoked_at: Option<String>,
}

/// The file of the secret in a data folder.
const SECRET: &str = "key-secret";

/// The secret of a data folder that digests of keys are made with (BLAKE3, keyed): whoever reads the database alone
/// can't try keys against it.
pub struct Pepper([u8; 32]);

impl fmt::Debug for Pepper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pepper")
    }
}

impl Pepper {
    /// Reads the secret of a data folder; makes it if there is none yet.
    pub(super) fn load(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(SECRET);
        let mut found = std::fs::read(&path);
        if let Err(error) = &found
            && error.kind() == std::io::ErrorKind::NotFound
        {
            write_secret(&path, &random()).map_err(StoreError::file("write", &path))?;
            // Another process may have made it at the same time; what is there counts.
            found = std::fs::read(&path);
        }
        let bytes = found.map_err(StoreError::file("read", &path))?;
        let whole = bytes.try_into().map_err(|_| {
            let text = "it must have 32 bytes; restore it from a backup";
            StoreError::file("use", &path)(std::io::Error::other(text))
        })?;
        Ok(Self(whole))
    }

    /// Copies the secret of a data folder, if it has one.
    pub(super) fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
        let (source, target) = (from.join(SECRET), to.join(SECRET));
        match std::fs::read(&source) {
            Ok(bytes) => write_secret(&target, &bytes).map_err(StoreError::file("write", &target)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::file("read", &source)(error)),
        }
    }

    fn digest(&self, key: &str) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, key.as_bytes()).as_bytes()
    }
}

/// Writes a file that only its owner reads, if it is not there yet; nobody sees a part of it.
fn write_secret(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    }
}

fn random() -> [u8; 32] {
    rand::random()
}

struct KeyRow {
    id: String,
    prefix: String,
    digest: String,
    name: String,
    role: String,
    project: String,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl KeyRow {
    fn into_key(self) -> Result<Key, StoreError> {
        Ok(Key {
            role: from_word(&self.role, "role", &self.id)?,
            id: self.id,
            prefix: self.prefix,
            name: self.name,
            project: self.project,
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        })
    }
}

/// Selects [`KeyRow`]s; what comes after `FROM keys` and its arguments follow.
macro_rules! select_keys {
    ($rest:tt $(, $argument:expr)*) => {
        sqlx::query_as!(
            KeyRow,
            r#"SELECT id as "id!: String", prefix as "prefix!: String", digest as "digest!: String",
                      name as "name!: String", role as "role!: String", project as "project!: String",
                      created_at as "created_at!: String", expires_at as "expires_at?: String",
                      revoked_at as "revoked_at?: String"
               FROM keys "# + $rest
            $(, $argument)*
        )
    };
}

/// What a key looks like: `sinter_`, eight characters that name it, and the secret.
const KEY_PREFIX: &str = "sinter_";

/// Characters of a key that are shown.
const SHOWN: usize = KEY_PREFIX.len() + 8;

/// Makes a key; the text is the only copy of its secret.
pub(super) async fn create_key(
    connection: &mut SqliteConnection,
    pepper: &Pepper,
    name: &str,
    role: Role,
    project: &str,
    days: Option<u32>,
) -> Result<(Key, String), StoreError> {
    let text = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random()));
    let id = Uuid::now_v7().to_string();
    let prefix = &text[..SHOWN];
    let digest = hex::encode(pepper.digest(&text));
    let role_word = role.as_str();
    let later = days.map(|days| format!("+{days} days"));
    sqlx::query!(
        "INSERT INTO keys (id, prefix, digest, name, role, project, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6,
                 CASE WHEN ?7 IS NULL THEN NULL ELSE strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?7) END)",
        id,
        prefix,
        digest,
        name,
        role_word,
        project,
        later
    )
    .execute(&mut *connection)
    .await?;
    let row = select_keys!("WHERE id = ?1", id)
        .fetch_one(connection)
        .await?;
    Ok((row.into_key()?, text))
}

/// All keys, the newest first.
pub(super) async fn list_keys(connection: &mut SqliteConnection) -> Result<Vec<Key>, StoreError> {
    let rows = select_keys!("ORDER BY id DESC")
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(KeyRow::into_key).collect()
}

/// Revokes the keys with this id or prefix that are not revoked yet; tells how many.
pub(super) async fn revoke_keys(
    connection: &mut SqliteConnection,
    id_or_prefix: &str,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "UPDATE keys SET revoked_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         WHERE (id = ?1 OR prefix = ?1) AND revoked_at IS NULL",
        id_or_prefix
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

impl Store {
    /// Whether anyone ever made a key, so that the server asks for one.
    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        let keys = sqlx::query_scalar!(r#"SELECT COUNT(*) as "keys!: i64" FROM keys"#);
        Ok(keys.fetch_one(&self.reader).await? > 0)
    }

    /// Whether a key, by its prefix, was neither revoked nor has expired since it was taken.
    pub async fn key_stands(&self, prefix: &str) -> Result<bool, StoreError> {
        Ok(self.standing_key(prefix).await?.is_some())
    }

    async fn standing_key(&self, prefix: &str) -> Result<Option<KeyRow>, StoreError> {
        let found = select_keys!(
            "WHERE prefix = ?1 AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
            prefix
        );
        Ok(found.fetch_optional(&self.reader).await?)
    }

    /// The key that this text is, unless it was revoked or has expired. How long it takes does not tell how much of the
    /// text is right.
    pub async fn key(&self, text: &str) -> Result<Option<Key>, StoreError> {
        let given = self.pepper.digest(text);
        let prefix = text.get(..SHOWN).unwrap_or_default();
        let found = self.standing_key(prefix).await?;
        let Some(row) = found else {
            return Ok(None);
        };
        let known = hex::decode(&row.digest).unwrap_or_default();
        if bool::from(known.ct_eq(&given)) {
            row.into_key().map(Some)
        } else {
            Ok(None)
        }
    }
}
