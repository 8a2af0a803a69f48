//! Live progress of jobs.

use std::thread;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use uuid::Uuid;

use super::{Client, ClientError, JobView};

/// How often the service is asked, in the first seconds of a job and later.
const POLL_EVERY: Duration = Duration::from_millis(200);
const LATER_EVERY: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(20);

/// How long to wait for the first answer of all: a service that is not there at the beginning is no service.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// How long the service may give no answer: a restart, or a network that is away for a while, does not end a job.
const SILENCE: Duration = Duration::from_secs(120);

/// Thousandths of a job, the bars' unit.
const WHOLE: u64 = 1000;

/// Polls the jobs until all have ended, and shows a bar for each; without a terminal, a line on standard error whenever a
/// job reaches another phase. `check` may know why there is no answer, and that there will be none.
pub fn follow<E: From<ClientError>>(
    client: &Client,
    jobs: &[(String, Uuid)],
    check: impl Fn() -> Result<(), E>,
) -> Result<Vec<(String, JobView)>, E> {
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:24} [{bar:28}] {percent:>3} % {msg}")
        .expect("the template is valid")
        .progress_chars("=> ");
    let mut rows: Vec<Row> = jobs
        .iter()
        .map(|(name, _)| Row {
            bar: bars.add(
                ProgressBar::new(WHOLE)
                    .with_style(style.clone())
                    .with_prefix(name.clone()),
            ),
            said: String::new(),
            last: None,
        })
        .collect();
    let plain = bars.is_hidden();
    let began = Instant::now();
    let mut heard = None;
    loop {
        let mut busy = false;
        for ((name, id), row) in jobs.iter().zip(&mut rows) {
            if row.last.as_ref().is_some_and(JobView::ended) {
                continue;
            }
            match client.job(*id) {
                Ok(job) => {
                    heard = Some(Instant::now());
                    row.show(name, job, plain);
                }
                Err(error) => {
                    check()?;
                    let over = match heard {
                        None => began.elapsed() > FIRST_ANSWER,
                        Some(heard) => heard.elapsed() > SILENCE,
                    };
                    if !error.is_passing() || over {
                        return Err(error.into());
                    }
                    row.say(name, "no answer, asking again", plain);
                    busy = true;
                }
            }
        }
        if let Some(ended) = all_ended(jobs, &rows) {
            return Ok(ended);
        }
        let late = busy || began.elapsed() > LATER;
        let every = if late { LATER_EVERY } else { POLL_EVERY };
        // Of many jobs each is asked for less often.
        thread::sleep(every * u32::try_from(jobs.len().div_ceil(5)).unwrap_or(1));
    }
}

struct Row {
    bar: ProgressBar,
    /// The last line printed without a terminal.
    said: String,
    last: Option<JobView>,
}

impl Row {
    fn show(&mut self, name: &str, job: JobView, plain: bool) {
        let fraction = job.progress.as_ref().map_or(0.0, |p| p.fraction);
        self.bar
            .set_position((fraction.clamp(0.0, 1.0) * WHOLE as f64) as u64);
        if job.succeeded() {
            self.bar.set_position(WHOLE);
            self.bar.finish_with_message("succeeded");
        } else if job.ended() {
            self.bar.abandon_with_message(job.status.clone());
        } else {
            self.bar.set_message(message(&job));
        }
        if plain {
            self.say(name, &tenths(&job), plain);
        }
        self.last = Some(job);
    }

    /// On the bar, or without a terminal as a line if it is another one than before.
    fn say(&mut self, name: &str, text: &str, plain: bool) {
        if !plain {
            self.bar.set_message(text.to_owned());
        } else if self.said != text {
            tell!("{name}: {text}");
            text.clone_into(&mut self.said);
        }
    }
}

fn all_ended(jobs: &[(String, Uuid)], rows: &[Row]) -> Option<Vec<(String, JobView)>> {
    jobs.iter()
        .zip(rows)
        .map(|((name, _), row)| {
            let job = row.last.as_ref().filter(|job| job.ended())?;
            Some((name.clone(), job.clone()))
        })
        .collect()
}

/// What a job is at, without numbers.
fn stage(job: &JobView) -> String {
    match &job.progress {
        Some(progress) if job.status == "running" && !progress.phase.is_empty() => {
            format!("running, {}", progress.phase)
        }
        _ => job.status.clone(),
    }
}

/// What a job is at, and how many tenths of it are over: a line now and then where there is no bar.
fn tenths(job: &JobView) -> String {
    let tenths = job
        .progress
        .as_ref()
        .map_or(0.0, |p| (10.0 * p.fraction).floor());
    match job.status == "running" && tenths > 0.0 {
        true => format!("{}, {:.0} %", stage(job), 10.0 * tenths),
        false => stage(job),
    }
}

/// What a job is at, with numbers.
fn message(job: &JobView) -> String {
    if job.status == "queued" {
        return match job.queue_position {
            Some(position) => format!("queued, place {position}"),
            None => "queued".to_owned(),
        };
    }
    let mut text = stage(job);
    let Some(progress) = &job.progress else {
        return text;
    };
    if let (Some(epoch), Some(epochs)) = (progress.epoch, progress.epochs) {
        text.push_str(&format!(", epoch {epoch} of {epochs}"));
    }
    if let Some(eta) = progress.eta_seconds {
        text.push_str(&format!(", {eta:.0} s left"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(extra: serde_json::Value) -> JobView {
        let mut value = json!({"id": Uuid::nil()});
        let fields = extra.as_object().unwrap().clone();
        value.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_running_job_tells_its_phase_epoch_and_time_left() {
        let running = job(json!({"status": "running", "progress": {"fraction": 0.4,
            "phase": "finetune", "step": 1, "steps": 2, "epoch": 2, "epochs": 5,
            "eta_seconds": 12.4}}));
        assert_eq!(
            message(&running),
            "running, finetune, epoch 2 of 5, 12 s left"
        );
    }

    #[test]
    fn a_queued_job_tells_its_place() {
        let queued = job(json!({"status": "queued", "queue_position": 3}));
        assert_eq!(message(&queued), "queued, place 3");
    }
}
