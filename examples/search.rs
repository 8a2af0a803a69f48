//! Searches over standard input and output, so that a table or a function can stand in for training.
//!
//! Each search begins with a line of JSON, `{"space": {…}, "strategy": {…}, "trials": 150, "seed": 0}`, whose `space` is what `hyperparameters` is in a job. Each point that is asked for is a
//! line `{"point": {…}, "share": 1.0}`, to be answered by a line with the list of its values, which are made
//! small, or `null` for one that failed. After the last trial, or where there is nothing left to ask, there is
//! a line `null`.

use std::io::{BufRead, Write};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sinter::search::strategy::{Judged, Search};
use sinter::spec::hyperparameters::Hyperparameters;
use sinter::spec::strategy::StrategyParams;

#[derive(Deserialize)]
struct Begin {
    space: Hyperparameters,
    strategy: StrategyParams,
    /// Points that begin a training.
    trials: usize,
    seed: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut lines = std::io::stdin().lock().lines();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Some(line) = lines.next() {
        let begin: Begin = serde_json::from_str(&line?)?;
        let space = begin.space.space();
        let strategy = begin.strategy.build(begin.trials, u32::MAX);
        let mut search = Search::new(&space, strategy, &|_| true, begin.seed);
        let order = begin.space.order();
        while let Some(ask) = search.ask() {
            // A point that goes on is none that begins.
            if search.points() >= begin.trials && !search.knows(&ask.point) {
                break;
            }
            let named: Map<String, Value> = order
                .iter()
                .zip(&ask.point.0)
                .filter_map(|(name, x)| {
                    Some(((*name).to_owned(), begin.space.0[*name].value((*x)?)))
                })
                .collect();
            writeln!(out, "{}", json!({"point": named, "share": ask.share}))?;
            out.flush()?;
            let answer = lines.next().ok_or("an answer is missing")??;
            let values: Option<Vec<f64>> = serde_json::from_str(&answer)?;
            search.tell(Judged {
                point: ask.point,
                share: ask.share,
                values,
            });
        }
        writeln!(out, "null")?;
        out.flush()?;
    }
    Ok(())
}
