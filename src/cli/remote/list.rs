//! `sinter ls`: what a service has.

use crate::client::tell;
use clap::{Args, ValueEnum};
use comfy_table::{Cell, Table, presets};
use serde_json::{Value, json};

use super::{Outcome, ServiceFlags, named, pretty, say};
use crate::client::Client;
use crate::spec::result::grouped;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Resource {
    Jobs,
    Models,
    Datasets,
}

impl Resource {
    fn route(self) -> &'static str {
        match self {
            Self::Jobs => "/v1/jobs",
            Self::Models => "/v1/models",
            Self::Datasets => "/v1/datasets",
        }
    }

    /// What a table shows, and where that is in JSON.
    fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Jobs => &[
                ("id", "/id"),
                ("kind", "/kind"),
                ("name", "/name"),
                ("status", "/status"),
                ("progress", "/progress/fraction"),
                ("created", "/created_at"),
            ],
            Self::Models => &[
                ("id", "/id"),
                ("name", "/name"),
                ("format", "/format"),
                ("bytes", "/size_bytes"),
                ("parameters", "/summary/parameters"),
                ("nonzero parameters", "/summary/nonzero_parameters"),
                ("MACs", "/summary/macs"),
                ("created", "/created_at"),
            ],
            Self::Datasets => &[
                ("id", "/id"),
                ("name", "/name"),
                ("format", "/format"),
                ("bytes", "/size_bytes"),
                ("train", "/splits/train"),
                ("test", TEST_EXAMPLES),
                ("created", "/created_at"),
            ],
        }
    }
}

/// Flags of `sinter ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// What to list
    #[arg(value_enum, default_value = "jobs")]
    what: Resource,
    /// Those of this name only
    #[arg(long)]
    name: Option<String>,
    /// Jobs on this model only: an id or a name
    #[arg(long)]
    model: Option<String>,
    /// Jobs with this data set only: an id or a name
    #[arg(long)]
    dataset: Option<String>,
    /// Jobs of this status only
    #[arg(long)]
    status: Option<String>,
    /// Jobs of this kind only
    #[arg(long)]
    kind: Option<String>,
    /// Jobs with this tag only: KEY or KEY:VALUE
    #[arg(long)]
    tag: Option<String>,
    /// Rows, at most
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: ServiceFlags,
}

/// Lists what the service has, the newest first.
pub fn list(flags: &ListFlags) -> Outcome {
    let client = flags.service.client()?;
    let of_jobs = [
        ("status", flags.status.clone()),
        ("kind", flags.kind.clone()),
        ("tag", flags.tag.clone()),
        ("model", id_of(&client, "models", flags.model.as_deref())?),
        (
            "dataset",
            id_of(&client, "datasets", flags.dataset.as_deref())?,
        ),
    ];
    let given = of_jobs.iter().find(|(_, value)| value.is_some());
    if let (Some((name, _)), true) = (given, flags.what != Resource::Jobs) {
        return Err(format!("--{name} is for jobs").into());
    }
    let by_name = ("name", flags.name.clone());
    let filters = of_jobs
        .iter()
        .chain(std::iter::once(&by_name))
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
        .collect::<Vec<_>>();
    let mut rows = client.rows(flags.what.route(), &filters, flags.limit + 1);
    let shown: Vec<Value> = rows.by_ref().take(flags.limit).collect::<Result<_, _>>()?;
    if flags.json {
        return say(&pretty(&json!(shown)));
    }
    let mut lines = Table::new();
    lines.load_style(presets::NOTHING);
    let columns = flags.what.columns();
    lines.set_header(columns.iter().map(|(header, _)| Cell::new(header)));
    for row in &shown {
        lines.add_row(columns.iter().map(|(_, place)| cell(row, place)));
    }
    say(&format!("{}\n", lines.trim_fmt()))?;
    if let (Some(Ok(_)), 1..) = (rows.next(), flags.limit) {
        tell!(
            "there are more; --limit {} shows twice as many",
            2 * flags.limit
        );
    }
    Ok(())
}

/// The id of what is named, where something is.
fn id_of(client: &Client, resource: &str, wanted: Option<&str>) -> Outcome<Option<String>> {
    let id = wanted.map(|wanted| named(client, resource, wanted));
    Ok(id.transpose()?.map(|id| id.to_string()))
}

/// Where a data set has the number of its own test examples; without them each job sets some aside.
const TEST_EXAMPLES: &str = "/splits/test";

fn cell(row: &Value, place: &str) -> String {
    match row.pointer(place) {
        Some(Value::Number(none)) if place == TEST_EXAMPLES && none.as_u64() == Some(0) => {
            "drawn".to_owned()
        }
        value => text(value),
    }
}

/// A value as a cell shows it. The only fractions are those of progress.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match (number.is_f64(), number.as_f64()) {
            (true, Some(fraction)) => format!("{:.0} %", fraction * 100.0),
            _ => match number.as_u64() {
                Some(whole) => grouped(whole),
                None => number.to_string(),
            },
        },
        Some(other) => other.to_string(),
    }
}
