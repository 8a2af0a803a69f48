//! `sinter cancel`, `rename` and `rm`: what becomes of what a service has.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Outcome, ServiceFlags, named, say};

/// Flags of `sinter cancel`.
#[derive(Debug, Clone, Args)]
pub struct CancelFlags {
    /// Ids or names of jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    #[command(flatten)]
    service: ServiceFlags,
}

/// What a service keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kept {
    Job,
    Model,
    Dataset,
}

impl Kept {
    fn resource(self) -> &'static str {
        match self {
            Self::Job => "jobs",
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// Flags of `sinter rename`.
#[derive(Debug, Clone, Args)]
pub struct RenameFlags {
    /// What it is: a model or a dataset; jobs keep their names
    #[arg(value_enum)]
    what: Kept,
    /// Id, or the name that it has
    #[arg(value_name = "ITEM")]
    item: String,
    /// The name that it gets
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    service: ServiceFlags,
}

/// Flags of `sinter rm`.
#[derive(Debug, Clone, Args)]
pub struct RemoveFlags {
    /// What they are
    #[arg(value_enum)]
    what: Kept,
    /// Ids, or names that nothing else has
    #[arg(required = true, value_name = "ITEM")]
    items: Vec<String>,
    #[command(flatten)]
    service: ServiceFlags,
}

/// Stops jobs.
pub fn cancel(flags: &CancelFlags) -> Outcome {
    let client = flags.service.client()?;
    for job in &flags.jobs {
        let id = named(&client, "jobs", job)?;
        client.act("POST", &format!("/v1/jobs/{id}/cancel"), None)?;
        say(&format!("{id}\n"))?;
    }
    Ok(())
}

/// Gives a model or a data set another name.
pub fn rename(flags: &RenameFlags) -> Outcome {
    if flags.what == Kept::Job {
        return Err("a job keeps the name that it was submitted with".into());
    }
    let client = flags.service.client()?;
    let resource = flags.what.resource();
    let id = named(&client, resource, &flags.item)?;
    let change = json!({"name": flags.name});
    client.act("PATCH", &format!("/v1/{resource}/{id}"), Some(&change))?;
    say(&format!("{id}\n"))
}

/// Deletes jobs, models or data sets.
pub fn remove(flags: &RemoveFlags) -> Outcome {
    let client = flags.service.client()?;
    let resource = flags.what.resource();
    // All are looked up before the first is gone.
    let mut ids = Vec::with_capacity(flags.items.len());
    for item in &flags.items {
        let is_name = item.parse::<uuid::Uuid>().is_err();
        if is_name && let Some((_, true)) = client.find_by_name(resource, item)? {
            return Err(format!("several are called `{item}`: say which by its id").into());
        }
        ids.push(named(&client, resource, item)?);
    }
    for id in ids {
        client.act("DELETE", &format!("/v1/{resource}/{id}"), None)?;
        say(&format!("{id}\n"))?;
    }
    Ok(())
}
