//! What a search may change.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::search::architecture::activations;
use crate::spec::hyperparameters::Hyperparameters;
use crate::spec::problem::Faults;

/// What an edge of a cell does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum CellOperation {
    /// Nothing comes through.
    #[serde(rename = "none")]
    None,
    #[serde(rename = "skip_connect")]
    SkipConnect,
    /// ReLU, convolution, batch normalisation.
    #[serde(rename = "conv_1x1")]
    Conv1x1,
    #[serde(rename = "conv_3x3")]
    Conv3x3,
    #[serde(rename = "avg_pool_3x3")]
    AvgPool3x3,
}

impl CellOperation {
    /// Those of NAS-Bench-201.
    const ALL: [Self; 5] = [
        Self::None,
        Self::SkipConnect,
        Self::Conv1x1,
        Self::Conv3x3,
        Self::AvgPool3x3,
    ];

    /// The word that JSON has.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SkipConnect => "skip_connect",
            Self::Conv1x1 => "conv_1x1",
            Self::Conv3x3 => "conv_3x3",
            Self::AvgPool3x3 => "avg_pool_3x3",
        }
    }
}

/// What stands around the cells, and which edges they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum CellTemplate {
    /// Four values, six edges between them; stages of equal cells with residual blocks between.
    #[default]
    #[serde(rename = "nas_bench_201")]
    NasBench201,
}

/// Networks of one repeated cell, with fresh weights, in the place of all that the model computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CellSpace {
    pub template: CellTemplate,
    /// What an edge can do.
    pub operations: Vec<CellOperation>,
    /// Of the first stage; each later one has twice as many.
    pub channels: u32,
    /// In each stage.
    pub cells: u32,
    /// Each but the first begins with half of the resolution.
    pub stages: u32,
}

impl Default for CellSpace {
    fn default() -> Self {
        Self {
            template: CellTemplate::default(),
            operations: CellOperation::ALL.to_vec(),
            channels: 16,
            cells: 5,
            stages: 3,
        }
    }
}

impl CellSpace {
    /// Every fault, with pointers relative to this object.
    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (name, value, most) in [
            ("/channels", self.channels, 1024),
            ("/cells", self.cells, 64),
            ("/stages", self.stages, 6),
        ] {
            let detail = format!("must be from 1 to {most}");
            faults.require_value((1..=most).contains(&value), name, detail);
        }
        for (index, operation) in self.operations.iter().enumerate() {
            let twice = self.operations[..index].contains(operation);
            faults.require_value(!twice, &format!("/operations/{index}"), "is there twice");
        }
        faults.require(
            self.operations
                .iter()
                .any(|operation| *operation != CellOperation::None),
            "/operations",
            "needs one that lets something through",
        );
        faults
    }
}

/// What can change. Architectures are made of the job's model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpace {
    /// Shares of the channels (neurons, heads) of each group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub width: Vec<f64>,
    /// Whether residual blocks may go.
    pub depth: bool,
    /// In inverted bottlenecks (a depthwise convolution between two of single points): channels inside by channels
    /// that come in, in place of `width`; the model's own and less.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expand: Vec<f64>,
    /// Numbers of groups of convolutions that have none; kernels between groups go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// Shares of the height and width of images that the model looks at; a Resize at its beginning sees to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolution: Vec<f64>,
    /// Sizes of square kernels of convolutions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<u32>,
    /// Operators that take the place of an activation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub activation: Vec<String>,
    /// Networks of cells that take what the model takes and give what it gives, for those who start from nothing;
    /// stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<CellSpace>,
    /// Node names to leave alone, with `*` and `?`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    pub hyperparameters: Hyperparameters,
}

impl SearchSpace {
    /// The names of those that have a single value.
    pub fn single_valued(&self) -> Vec<&'static str> {
        let all = [
            ("width", self.width.len()),
            ("expand", self.expand.len()),
            ("groups", self.groups.len()),
            ("resolution", self.resolution.len()),
            ("kernel", self.kernel.len()),
            ("activation", self.activation.len()),
        ];
        let single = all.into_iter().filter(|(_, count)| *count == 1);
        single.map(|(name, _)| name).collect()
    }

    /// Ways in which the model may differ, by the names of their fields; dimensions are called `NAME`, or `NAME:PLACE`.
    pub fn ways(&self) -> Vec<&'static str> {
        let given = [
            ("width", !self.width.is_empty()),
            ("depth", self.depth),
            ("expand", !self.expand.is_empty()),
            ("groups", !self.groups.is_empty()),
            ("resolution", !self.resolution.is_empty()),
            ("kernel", !self.kernel.is_empty()),
            ("activation", !self.activation.is_empty()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        given.map(|(name, _)| name).collect()
    }

    /// Whether models can differ in it.
    pub(super) fn opens_models(&self) -> bool {
        self.cell.is_some() || self.changes_the_model()
    }

    fn changes_the_model(&self) -> bool {
        !self.ways().is_empty()
    }

    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (name, values, most) in [
            ("width", &self.width, 1),
            ("expand", &self.expand, 64),
            ("resolution", &self.resolution, 1),
        ] {
            for (index, value) in values.iter().enumerate() {
                faults.require_value(
                    *value > 0.0 && *value <= f64::from(most),
                    &format!("/{name}/{index}"),
                    format!("must be above 0 and at most {most}"),
                );
            }
        }
        for (name, values, most) in [
            ("groups", &self.groups, 65_536),
            ("kernel", &self.kernel, 31),
        ] {
            for (index, value) in values.iter().enumerate() {
                faults.require_value(
                    (1..=most).contains(value),
                    &format!("/{name}/{index}"),
                    format!("must be from 1 to {most}"),
                );
            }
        }
        let known: Vec<&str> = activations().collect();
        for (index, operator) in self.activation.iter().enumerate() {
            faults.require_value(
                known.contains(&operator.as_str()),
                &format!("/activation/{index}"),
                format!("must be one of {}", known.join(", ")),
            );
        }
        for (name, count) in [
            ("/width", self.width.len()),
            ("/expand", self.expand.len()),
            ("/groups", self.groups.len()),
            ("/resolution", self.resolution.len()),
            ("/kernel", self.kernel.len()),
            ("/activation", self.activation.len()),
        ] {
            faults.require_value(count <= 32, name, "must have at most 32 values");
        }
        if !faults.found.is_empty() {
            return faults;
        }
        let twice = |values: &[String], at: usize| values[..at].contains(&values[at]);
        for at in (0..self.activation.len()).filter(|&at| twice(&self.activation, at)) {
            faults.require_value(false, &format!("/activation/{at}"), "is there twice");
        }
        for (index, pattern) in self.exclude.iter().enumerate() {
            if let Err(error) = globset::Glob::new(pattern) {
                faults.require_value(false, &format!("/exclude/{index}"), error.to_string());
            }
        }
        if let Some(cell) = &self.cell {
            faults.extend_under("/cell", cell.faults());
            faults.require(
                !self.changes_the_model() && self.exclude.is_empty(),
                "/cell",
                "takes the place of the model, of which nothing is left to change: leave out the cell, or width, depth, \
                 expand, groups, resolution, kernel, activation and exclude",
            );
        }
        faults.extend_under("/hyperparameters", self.hyperparameters.faults());
        faults
    }
}
