//! Short orders that are not jobs: reading an upload, describing layers, planning.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::child::{ChildError, ChildProgram};
use super::turns::Turns;
use crate::spec::child::{Message, Order};
use crate::spec::problem::Problem;

/// How often a child's memory is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How many inspections run at the same time.
const AT_ONCE: usize = 2;

/// Why an inspection has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InspectionError {
    /// The child says what is wrong with what it was given.
    #[error(transparent)]
    Refused(Box<Problem>),
    #[error("{explanation}")]
    Died {
        explanation: String,
        last_log_lines: Vec<String>,
    },
    #[error("it took longer than the limit of {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error("the child process answered another question than it was asked")]
    WrongAnswer,
}

/// Runs inspections, each in a child process of its own.
#[derive(Debug, Clone)]
pub struct Inspector {
    program: ChildProgram,
    time_limit: Duration,
    turns: Turns,
}

impl Inspector {
    pub fn new(program: ChildProgram, time_limit: Duration) -> Self {
        Self {
            program,
            time_limit,
            turns: Turns::new(AT_ONCE),
        }
    }

    /// The closing message of a child with this order; never [`Message::Failed`]. Projects take turns.
    pub async fn inspect(&self, project: &str, order: &Order) -> Result<Message, InspectionError> {
        let _turn = self.turns.take(project).await;
        tokio::time::timeout(self.time_limit, self.run(order))
            .await
            .map_err(|_| InspectionError::TimedOut(self.time_limit))?
    }

    async fn run(&self, order: &Order) -> Result<Message, InspectionError> {
        let mut child = self.program.start(order).await?;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = child.next_message() => message?,
                _ = look.tick() => match child.excess() {
                    None => continue,
                    Some(problem) => {
                        child.kill().await;
                        return Err(InspectionError::Refused(Box::new(problem)));
                    }
                },
            };
            match message {
                Some(Message::Failed { problem }) => {
                    return Err(InspectionError::Refused(Box::new(problem)));
                }
                Some(message) if message.is_closing() => return Ok(message),
                Some(_) => {}
                None => {
                    let end = child.ended().await;
                    return Err(InspectionError::Died {
                        explanation: end.explanation(),
                        last_log_lines: end.last_log_lines,
                    });
                }
            }
        }
    }
}
