//! `sinter cancel`, `retry`, `rename` and `rm`: what becomes of what a service has.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Outcome, ServiceFlags, named, say};
use crate::client::{Client, id_of};

/// Flags of `sinter cancel` and `sinter retry`.
#[derive(Debug, Clone, Args)]
pub struct JobsFlags {
    /// Ids or names of jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    #[command(flatten)]
    service: ServiceFlags,
}

/// What a service keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kept {
    #[value(alias = "jobs")]
    Job,
    #[value(alias = "models")]
    Model,
    #[value(alias = "datasets")]
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
pub fn cancel(flags: &JobsFlags) -> Outcome {
    each(flags, "cancel")
}

/// Queues failed or canceled jobs again.
pub fn retry(flags: &JobsFlags) -> Outcome {
    each(flags, "retry")
}

/// One with which it can't be done does not keep it from the others.
fn each(flags: &JobsFlags, action: &str) -> Outcome {
    let client = flags.service.client()?;
    let mut faults = Vec::new();
    for job in &flags.jobs {
        let done = named(&client, "jobs", job).and_then(|id| {
            client.act("POST", &format!("/v1/jobs/{id}/{action}"), None)?;
            say(&format!("{id}\n"))
        });
        faults.extend(done.err().map(|error| format!("{job}: {error}")));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}

/// The id of a thing that is named so that it can be no other.
fn only(client: &Client, resource: &str, item: &str) -> Outcome<Uuid> {
    if item.parse::<Uuid>().is_err() {
        let route = format!("/v1/{resource}");
        let filters = [("name", item)];
        let found = client.rows(&route, &filters, 10).take(10);
        let found: Vec<Value> = found.collect::<Result<_, _>>()?;
        if found.len() > 1 {
            let ids: Vec<String> = found
                .iter()
                .filter_map(id_of)
                .map(|id| id.to_string())
                .collect();
            let ids = ids.join(", ");
            return Err(format!("several are called `{item}`: say which by its id, {ids}").into());
        }
    }
    named(client, resource, item)
}

/// Gives a model or a data set another name.
pub fn rename(flags: &RenameFlags) -> Outcome {
    if flags.what == Kept::Job {
        return Err("a job keeps the name that it was submitted with".into());
    }
    let client = flags.service.client()?;
    let resource = flags.what.resource();
    let id = only(&client, resource, &flags.item)?;
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
        let id = only(&client, resource, item)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    for id in ids {
        client.act("DELETE", &format!("/v1/{resource}/{id}"), None)?;
        say(&format!("{id}\n"))?;
    }
    Ok(())
}
