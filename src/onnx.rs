//! ONNX files: the protobuf messages, reading them with care, and writing them back.

pub mod proto;
mod read;
mod sparse;
mod tensor;

pub use read::{ReadError, decode_model, embed_external_data, read_model};
pub use tensor::{Tensor, TensorError, Values, dtype_name};
