//! A graph made runnable on Burn.
//!
//! Shapes and shape arithmetic are settled when a [`Program`] is compiled for one set of input
//! shapes; what is left runs as a list of steps over rank-free device values, with gradients where
//! the device records them. One code path serves every device.

mod definition;
mod device;
pub(crate) mod kernels;
pub mod operand;
mod ops;
mod parameters;
mod program;
pub mod value;

pub use definition::defines;
pub use device::{Device, DeviceError, list_devices};
pub use kernels::work_on_this_thread;
pub use operand::Operand;
pub(crate) use ops::pick::pick;
pub use parameters::{Parameters, upload};
pub use program::{ExecError, Mode, Outcome, Output, Program, Reach, Statistics};
pub use value::Value;
