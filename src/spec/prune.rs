//! Parameters of `prune`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::distill::{LossTerm, loss_faults};
use super::evaluate::MetricName;
use super::problem::Faults;
use super::train::TrainParams;

/// What is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Single weights become zero; the graph keeps its shape.
    Weight,
    /// `n` of every `m` neighbouring weights stay.
    NM,
    /// Neurons and filters leave the graph.
    Channel,
    /// Attention heads leave the graph.
    Head,
    /// Residual blocks leave the graph.
    Block,
}

/// How importance is told; the smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    Magnitude,
    Gradient,
    Taylor,
    Fisher,
    Hessian,
    Entropy,
    Activation,
    Sparsegpt,
    BnScale,
    Lamp,
    Fpgm,
    Random,
}

/// What is compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One ranking over the whole model.
    Global,
    /// A ranking for each layer (each group of coupled layers), the same share of each.
    Layer,
    /// A ranking for each set of layers (groups) of the same structure, the same share of each set.
    Isomorphic,
}

/// How the importances that a channel has in several tensors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    #[default]
    Mean,
    Sum,
    Max,
    /// The Euclidean norm.
    L2,
}

/// The examples that criteria and the reconstruction look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrationOptions {
    /// Of the train split, at most; 1 to 65536.
    pub examples: u32,
}

impl Default for CalibrationOptions {
    fn default() -> Self {
        Self { examples: 256 }
    }
}

/// What follows a cut before any training; needs a data set, and is left out without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Recovery {
    /// Measures the statistics of batch normalisation anew, where nothing is reconstructed.
    pub recalibrate: bool,
    /// Changes the kernels behind a cut so that their results are those of the original as nearly as
    /// can be (least squares on unlabelled examples); `channel` only.
    pub reconstruct: bool,
    /// Changes only the offsets behind a cut, so that the means of the results are those of the original,
    /// where nothing is reconstructed; `channel` only.
    pub correct_bias: bool,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            recalibrate: true,
            reconstruct: true,
            correct_bias: false,
        }
    }
}

/// What the pruned model must reach; at least one. All that are given hold at the end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// Share of the prunable weights that become zero, above 0 and below 1; `weight` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// Share of the prunable channels (heads, blocks) that are removed, above 0 and below 1; not
    /// `weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_sparsity: Option<f64>,
    /// Parameters after ÷ before, at most; not `weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ratio: Option<f64>,
    /// MACs after ÷ before, at most; not `weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs_ratio: Option<f64>,
    /// Bytes of the file after ÷ before, at most; with `weight` only where `storage` is `sparse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_ratio: Option<f64>,
    /// Median time of a run after ÷ before, at most, measured on the job's device; not `weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ratio: Option<f64>,
    /// The smallest model whose accuracy on the validation split, recovered and fine-tuned, is below
    /// the original's by no more than this, found by bisection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_accuracy_drop: Option<f64>,
    /// The same for any metric of the task, such as `r2` of values or `perplexity` of a language model; instead of
    /// `max_accuracy_drop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_worsening: Option<Worsening>,
}

/// How much worse a metric may become.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Worsening {
    pub metric: MetricName,
    /// In the metric's own unit, above 0: how much lower one may become of which more is better, how much higher another.
    pub by: f64,
}

impl Target {
    /// The targets that are given, by name.
    pub fn given(&self) -> Vec<(&'static str, f64)> {
        [
            ("sparsity", self.sparsity),
            ("channel_sparsity", self.channel_sparsity),
            ("parameters_ratio", self.parameters_ratio),
            ("macs_ratio", self.macs_ratio),
            ("size_ratio", self.size_ratio),
            ("latency_ratio", self.latency_ratio),
            (MAX_ACCURACY_DROP, self.max_accuracy_drop),
            (MAX_WORSENING, self.max_worsening.map(|allowed| allowed.by)),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
        .collect()
    }

    /// How much worse which metric may become, and the name of the target that says so.
    pub fn allowed(&self) -> Option<(&'static str, Worsening)> {
        let of_accuracy = |by| Worsening {
            metric: MetricName::Accuracy,
            by,
        };
        let drop = self.max_accuracy_drop.map(of_accuracy);
        let named = |name| move |allowed| (name, allowed);
        drop.map(named(MAX_ACCURACY_DROP))
            .or(self.max_worsening.map(named(MAX_WORSENING)))
    }

    /// The targets that the graph itself meets or does not.
    pub fn of_graph(&self) -> Self {
        Self {
            max_accuracy_drop: None,
            max_worsening: None,
            ..self.clone()
        }
    }
}

/// How the share removed grows from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    Linear,
    /// Most at first, least at the end (Zhu and Gupta, "To prune, or not to prune", 2017, eq. 1).
    #[default]
    Cubic,
    /// The same share of what is left at each step.
    Exponential,
}

/// Where surviving weights go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be \"initial\" or a number of epochs")]
pub enum Rewind {
    /// The weights of the model that was given (Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR
    /// 2019).
    Initial(Initial),
    /// The weights after that many epochs of the dense training (Frankle et al., "Linear Mode Connectivity and
    /// the Lottery Ticket Hypothesis", ICML 2020).
    Epoch(u32),
}

/// The word `initial`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    Initial,
}

/// In how many cuts the target is reached; fine-tuning stands between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneSchedule {
    /// How many cuts.
    pub steps: u32,
    pub curve: Curve,
    /// `"initial"` or an epoch: the dense model is trained first, as `finetune` says; after each cut, what is
    /// left goes back to the weights it had then, and is trained for all of the epochs. When `null`, the
    /// weights stay, and each cut's training begins anew with the schedule of the learning rate (Renda et
    /// al., "Comparing Rewinding and Fine-tuning", ICLR 2020, learning-rate rewinding).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewind: Option<Rewind>,
    /// Lets the zeros of `weight` move while what is left is trained; they stay where they are when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rigl: Option<Rigl>,
}

/// Weights that grow back for others that go (Evci et al., "Rigging the Lottery", ICML 2020).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rigl {
    /// Share of a tensor's weights that move at first; it falls to 0 with a cosine.
    pub fraction: f64,
    /// Steps of training from one move to the next.
    pub every: u32,
    /// Share of the steps after which none move any more.
    pub until: f64,
}

impl Default for Rigl {
    fn default() -> Self {
        Self {
            fraction: 0.3,
            every: 100,
            until: 0.75,
        }
    }
}

/// Training with a penalty on scales (Liu et al., "Network Slimming", ICCV 2017).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Slimming {
    /// How long that training is.
    pub epochs: u32,
    /// What the sum of the scales' sizes is multiplied by in the loss.
    #[serde(default = "default_strength")]
    pub strength: f64,
}

fn default_strength() -> f64 {
    1e-4
}

/// How zeros are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// Like any other number.
    #[default]
    Dense,
    /// As `sparse_initializer`s, which hold what is not zero and where, for tensors that this makes smaller.
    Sparse,
}

impl Default for PruneSchedule {
    fn default() -> Self {
        Self {
            steps: 1,
            curve: Curve::Cubic,
            rewind: None,
            rigl: None,
        }
    }
}

/// Parameters of a `prune` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PruneParams {
    pub granularity: Granularity,
    pub criterion: Criterion,
    /// 1 for the sum of absolute values, 2 for the Euclidean norm; `magnitude` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<u8>,
    /// Over the tensors that a channel (head) has a part in; `channel` and `head` only.
    pub reduction: Reduction,
    pub scope: Scope,
    /// Not with `n_m`, whose sparsity is `1 − n ÷ m`.
    pub target: Target,
    pub calibration: CalibrationOptions,
    pub recovery: Recovery,
    pub schedule: PruneSchedule,
    /// Training after each cut, the epochs shared out over the steps; none when `null` or of 0 epochs.
    #[serde(deserialize_with = "none_of_no_epochs")]
    pub finetune: Option<TrainParams>,
    /// Node names to leave alone, with `*` and `?`.
    pub exclude: Vec<String>,
    /// By pattern of node names: output channels (indices) of those nodes that stay; `channel` and `head` only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, Vec<usize>>,
    /// How the zeros of `weight` and `n_m` are written into the file.
    pub storage: Storage,
    /// Whether the report has, for each group of channels (heads, the blocks, each kernel by its weights),
    /// the metrics of the validation split with a quarter, half, three and nine tenths of it gone and nothing else.
    pub sensitivity: bool,
    /// Kept channel counts are multiples of this, where the layer has that many. When `null`, the
    /// largest of 16, 8, 4, 2 and 1 that lands near the target: runtimes compute channels in
    /// blocks as wide as the processor's vectors, and a count between two blocks can be slower
    /// than the unpruned layer.
    pub round_to: Option<u32>,
    /// A training before the first cut that makes scales of batch normalisation small, as `finetune` says but
    /// for its length; `bn_scale` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slimming: Option<Slimming>,
    /// Losses by which the model as it was before the first cut teaches what is left in each
    /// fine-tuning, as `distill` has them; the labels alone teach when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distill: Vec<LossTerm>,
    /// Largest share that any one layer (group) loses; of the granularity `block` the share of all blocks, rounded up.
    pub max_layer_sparsity: f64,
    /// Weights that stay of each `m`; `n_m` only, 2 when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Neighbours along the input axis that are looked at together; `n_m` only, 4 when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m: Option<u32>,
}

/// Names of the targets that are held against a metric of the validation split.
pub const MAX_ACCURACY_DROP: &str = "max_accuracy_drop";
pub const MAX_WORSENING: &str = "max_worsening";

/// Models that are made for one of these, at most.
pub const MOST_TRIALS: u32 = 12;

/// A training of no epochs is none; one of which more is said is a mistake, and found to be one.
fn none_of_no_epochs<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<TrainParams>, D::Error> {
    let given = Option::<TrainParams>::deserialize(deserializer)?;
    let none = TrainParams {
        epochs: 0,
        ..TrainParams::default()
    };
    Ok(given.filter(|train| *train != none))
}

/// The word that JSON has for a value of an enum.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

impl Default for PruneParams {
    fn default() -> Self {
        Self {
            granularity: Granularity::Channel,
            criterion: Criterion::Magnitude,
            norm: None,
            reduction: Reduction::default(),
            scope: Scope::Global,
            target: Target::default(),
            calibration: CalibrationOptions::default(),
            recovery: Recovery::default(),
            schedule: PruneSchedule::default(),
            finetune: None,
            exclude: Vec::new(),
            keep: BTreeMap::new(),
            storage: Storage::default(),
            sensitivity: false,
            round_to: None,
            slimming: None,
            distill: Vec::new(),
            max_layer_sparsity: 0.95,
            n: None,
            m: None,
        }
    }
}

impl Granularity {
    /// Whether channels leave the graph, alone or as heads.
    pub fn has_channels(self) -> bool {
        matches!(self, Self::Channel | Self::Head)
    }

    /// Whether weights become zero and the graph keeps its shape.
    pub fn has_zeros(self) -> bool {
        matches!(self, Self::Weight | Self::NM)
    }
}

impl Criterion {
    /// Whether examples are needed.
    pub fn needs_data(self) -> bool {
        matches!(self, Self::Entropy | Self::Activation | Self::Sparsegpt) || self.needs_gradients()
    }

    /// Whether gradients of a loss are needed.
    pub fn needs_gradients(self) -> bool {
        matches!(
            self,
            Self::Gradient | Self::Taylor | Self::Fisher | Self::Hessian
        )
    }

    /// Whether it tells single weights from each other.
    fn ranks_weights(self) -> bool {
        !matches!(self, Self::Entropy | Self::BnScale | Self::Fpgm)
    }

    /// Whether it tells whole blocks from each other.
    fn ranks_blocks(self) -> bool {
        self.ranks_weights() && !matches!(self, Self::Lamp | Self::Sparsegpt)
    }
}

impl PruneParams {
    /// Whether the job can't run without a data set.
    pub fn needs_data(&self) -> bool {
        self.finetune.is_some()
            || self.criterion.needs_data()
            || self.sensitivity
            || self.target.allowed().is_some()
    }

    /// How often the epochs of `finetune` are trained, at most.
    pub fn trainings(&self) -> u64 {
        let trials = match self.target.allowed() {
            Some(_) => u64::from(MOST_TRIALS),
            None => 1,
        };
        match self.schedule.rewind {
            Some(_) => 1 + trials * u64::from(self.schedule.steps),
            None => trials,
        }
    }

    /// `n` and `m`.
    pub fn n_of_m(&self) -> (u32, u32) {
        (self.n.unwrap_or(2), self.m.unwrap_or(4))
    }

    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        let of_channels = self.granularity.has_channels();
        let criterion = word(&self.criterion);
        let granularity = word(&self.granularity);
        faults.require(
            match self.granularity {
                Granularity::Weight | Granularity::NM => self.criterion.ranks_weights(),
                Granularity::Block => self.criterion.ranks_blocks(),
                Granularity::Channel | Granularity::Head => true,
            },
            "/criterion",
            format!("`{criterion}` does not rank what the granularity `{granularity}` removes: ask for `channel`"),
        );
        faults.require(
            self.granularity.has_zeros() || self.criterion != Criterion::Sparsegpt,
            "/criterion",
            "`sparsegpt` applies to the granularities `weight` and `n_m` only",
        );
        faults.require(
            of_channels || self.reduction == Reduction::default(),
            "/reduction",
            "applies to the granularities `channel` and `head` only",
        );
        faults.require(
            of_channels || self.keep.is_empty(),
            "/keep",
            "applies to the granularities `channel` and `head` only",
        );
        faults.require(
            self.granularity != Granularity::Block || self.scope == Scope::Global,
            "/scope",
            "must be `global` with the granularity `block`: a block is compared with the others",
        );
        faults.require(
            self.granularity.has_zeros() || self.storage == Storage::Dense,
            "/storage",
            "applies to the granularities `weight` and `n_m`, which leave zeros",
        );
        faults.require_value(
            (1..=65_536).contains(&self.calibration.examples),
            "/calibration/examples",
            "must be from 1 to 65536",
        );
        if !self.distill.is_empty() {
            faults.require(
                self.finetune.is_some(),
                "/distill",
                "teaches in fine-tuning; say how long with `finetune`",
            );
            faults.require(
                self.finetune
                    .as_ref()
                    .is_none_or(|train| train.loss.is_none()),
                "/finetune/loss",
                "follows from `distill` here; remove it",
            );
            faults.extend_under("/distill", loss_faults(&self.distill));
        }
        if let Some(norm) = self.norm {
            faults.require_value(matches!(norm, 1 | 2), "/norm", "must be 1 or 2");
            faults.require(
                self.criterion == Criterion::Magnitude,
                "/norm",
                "applies to the criterion `magnitude` only",
            );
        }
        for (name, value) in [("/n", self.n), ("/m", self.m)] {
            faults.require(
                value.is_none() || self.granularity == Granularity::NM,
                name,
                "applies to the granularity `n_m` only",
            );
        }
        let (n, m) = self.n_of_m();
        faults.require_value((2..=32).contains(&m), "/m", "must be from 2 to 32");
        faults.require((1..m).contains(&n), "/n", "must be from 1 to below m");
        faults.require(
            self.granularity != Granularity::NM || self.schedule.steps == 1,
            "/schedule/steps",
            "must be 1 with the granularity `n_m`",
        );
        self.target_faults(&mut faults);
        faults.require_value(
            (1..=1000).contains(&self.schedule.steps),
            "/schedule/steps",
            "must be from 1 to 1000",
        );
        match (self.schedule.rewind, &self.finetune) {
            (Some(_), None) => faults.require(
                false,
                "/schedule/rewind",
                "needs `finetune`, which says how the dense model and what is left of it are trained",
            ),
            (Some(Rewind::Epoch(epoch)), Some(finetune)) => faults.require(
                (1..finetune.epochs).contains(&epoch),
                "/schedule/rewind",
                "must be `initial`, or an epoch from 1 to below finetune.epochs",
            ),
            _ => {}
        }
        if let Some(slimming) = &self.slimming {
            faults.require(
                self.criterion == Criterion::BnScale && self.schedule.rewind.is_none(),
                "/slimming",
                "applies to the criterion `bn_scale` without rewinding only",
            );
            faults.require(
                self.finetune.is_some(),
                "/slimming",
                "needs `finetune`, which says how it trains",
            );
            faults.require_value(
                (1..=100_000).contains(&slimming.epochs),
                "/slimming/epochs",
                "must be from 1 to 100000",
            );
            faults.require_value(
                slimming.strength > 0.0 && slimming.strength.is_finite(),
                "/slimming/strength",
                "must be above 0",
            );
        }
        if let Some(rigl) = &self.schedule.rigl {
            faults.require(
                self.granularity == Granularity::Weight,
                "/schedule/rigl",
                "applies to the granularity `weight` only",
            );
            faults.require(
                self.finetune.is_some(),
                "/schedule/rigl",
                "needs `finetune`, in which the zeros move",
            );
            faults.require_value(
                rigl.fraction > 0.0 && rigl.fraction <= 1.0,
                "/schedule/rigl/fraction",
                "must be above 0 and at most 1",
            );
            faults.require_value(
                rigl.every >= 1,
                "/schedule/rigl/every",
                "must be at least 1",
            );
            faults.require_value(
                rigl.until > 0.0 && rigl.until <= 1.0,
                "/schedule/rigl/until",
                "must be above 0 and at most 1",
            );
        }
        if let Some(finetune) = &self.finetune {
            faults.extend_under("/finetune", finetune.faults());
            faults.require(
                self.schedule.rewind.is_some() || finetune.epochs >= self.schedule.steps,
                "/finetune/epochs",
                "must be at least schedule.steps, so that each cut is followed by an epoch",
            );
            faults.require(
                finetune.weights == super::train::StartWeights::Keep,
                "/finetune/weights",
                "fine-tuning starts from the pruned weights; only `keep` applies",
            );
        }
        for pattern in self.keep.keys() {
            if let Err(error) = globset::Glob::new(pattern) {
                let pointer = pattern.replace('~', "~0").replace('/', "~1");
                faults.require_value(false, &format!("/keep/{pointer}"), error.to_string());
            }
        }
        for (index, pattern) in self.exclude.iter().enumerate() {
            if let Err(error) = globset::Glob::new(pattern) {
                faults.require_value(false, &format!("/exclude/{index}"), error.to_string());
            }
        }
        if let Some(round_to) = self.round_to {
            faults.require_value(
                (1..=1024).contains(&round_to),
                "/round_to",
                "must be from 1 to 1024",
            );
            faults.require(
                self.granularity == Granularity::Channel,
                "/round_to",
                "applies to the granularity `channel` only",
            );
        }
        faults.require_value(
            self.max_layer_sparsity > 0.0 && self.max_layer_sparsity <= 1.0,
            "/max_layer_sparsity",
            "must be above 0 and at most 1",
        );
        faults
    }

    fn target_faults(&self, faults: &mut Faults) {
        let given = self.target.given();
        if self.granularity == Granularity::NM {
            faults.require(
                given.is_empty(),
                "/target",
                "does not apply to the granularity `n_m`, whose sparsity is 1 − n ÷ m",
            );
            return;
        }
        faults.require(
            !given.is_empty(),
            "/target",
            "needs one of sparsity, channel_sparsity, parameters_ratio, macs_ratio, size_ratio, \
             latency_ratio, max_accuracy_drop, max_worsening",
        );
        faults.require(
            self.target.max_accuracy_drop.is_none() || self.target.max_worsening.is_none(),
            "/target/max_worsening",
            "is instead of max_accuracy_drop, which is a worsening of the accuracy; leave out one of them",
        );
        for (name, value) in given {
            let pointer = format!("/target/{name}");
            match name {
                MAX_WORSENING => faults.require_value(
                    value > 0.0 && value.is_finite(),
                    &format!("{pointer}/by"),
                    "must be above 0",
                ),
                _ => faults.require_value(
                    value > 0.0 && value < 1.0,
                    &pointer,
                    "must be above 0 and below 1: it is a share, as 0.5 for a half",
                ),
            }
            let of_weights = self.granularity == Granularity::Weight;
            match name {
                "sparsity" => faults.require(
                    of_weights,
                    &pointer,
                    "applies to the granularity `weight`; for what leaves the graph ask for \
                     channel_sparsity, parameters_ratio, macs_ratio, size_ratio or latency_ratio",
                ),
                "size_ratio" => faults.require(
                    !of_weights || self.storage == Storage::Sparse,
                    &pointer,
                    "zeros take the room of other numbers: ask for storage `sparse` as well",
                ),
                MAX_ACCURACY_DROP | MAX_WORSENING => {}
                _ => faults.require(
                    !of_weights,
                    &pointer,
                    "does not apply to the granularity `weight`; single weights leave the graph's \
                     shape as it is: ask for sparsity",
                ),
            }
        }
    }
}
