//! The one place where the engine's errors become problems that a user sees.

use crate::data::DataError;
use crate::exec::{DeviceError, ExecError};
use crate::graph::{InferError, LoadError};
use crate::host::OUT_OF_RANGE;
use crate::onnx::ReadError;
use crate::prune::PruneError;
use crate::spec::Problem;
use crate::train::TrainError;

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let code = match &error {
            ReadError::Io(_) => return Self::new(500, "storage_failed", error.to_string()),
            ReadError::MissingExternalFile { .. } => "external_data_missing",
            ReadError::ExternalFileOutside { .. } => "external_data_outside",
            ReadError::TooLarge => "model_too_large",
            _ => "invalid_model",
        };
        Self::new(422, code, error.to_string())
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        let code = match &error {
            LoadError::UnknownOperator { .. } | LoadError::UnknownDomain { .. } => {
                "unknown_operator"
            }
            _ => "invalid_model",
        };
        Self::new(422, code, error.to_string())
    }
}

impl From<InferError> for Problem {
    fn from(error: InferError) -> Self {
        let code = match &error {
            InferError::Unsupported { .. } => "unsupported_operator",
            _ => "invalid_model",
        };
        Self::new(422, code, error.to_string())
    }
}

impl From<ExecError> for Problem {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Infer(error) => error.into(),
            ExecError::Node { ref reason, .. } if reason.contains(OUT_OF_RANGE) => Self::new(
                422,
                "index_out_of_range",
                format!(
                    "{error}: texts with more tokens than the model has places for (data.preprocess.max_length), or tokens \
                     beyond its vocabulary, do that"
                ),
            ),
            other => Self::new(422, "unsupported_operator", other.to_string()),
        }
    }
}

impl From<DataError> for Problem {
    fn from(error: DataError) -> Self {
        let code = match &error {
            DataError::Io(_) => return Self::new(500, "storage_failed", error.to_string()),
            DataError::NotSupported { .. } => "not_supported",
            _ => "invalid_dataset",
        };
        Self::new(422, code, error.to_string())
    }
}

impl From<DeviceError> for Problem {
    fn from(error: DeviceError) -> Self {
        Self::new(422, "device_unavailable", error.to_string())
    }
}

impl From<PruneError> for Problem {
    fn from(error: PruneError) -> Self {
        let code = match error {
            PruneError::Infer(error) => return error.into(),
            PruneError::Exec(error) => return error.into(),
            PruneError::Cut(_) | PruneError::Indivisible { .. } => "cut_failed",
            PruneError::NeedsData(_) => "dataset_missing",
            PruneError::Unreachable { .. } | PruneError::TooBad { .. } => "target_unreachable",
            PruneError::NoCells(_) | PruneError::TooManyWeights => "unsupported",
            PruneError::NothingPrunable(_) => "nothing_prunable",
            PruneError::UnmatchedExclusion(_)
            | PruneError::UnmatchedKeep(_)
            | PruneError::KeptOutside { .. } => "invalid_request",
        };
        Self::new(422, code, error.to_string())
    }
}

/// `what` (a training, a search) can't be done without examples.
pub(super) fn no_data(what: &str) -> Problem {
    Problem::new(422, "dataset_missing", format!("{what} needs a data set"))
}

/// Everything but the wish to stop, which is no problem.
pub(super) fn of_training(error: TrainError) -> Problem {
    match error {
        TrainError::Compile(error) => error.into(),
        other => Problem::new(422, "training_diverged", other.to_string()),
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::new(500, "storage_failed", error.to_string())
    }
}
