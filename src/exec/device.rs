//! Which compute devices there are, and how a job gets the one it asks for.

use burn::backend::DispatchDevice;
use burn::tensor::{Device as BurnDevice, DeviceKind};
use cubecl_environment::config::RuntimeConfig as _;

use crate::spec::child::DeviceInfo;

/// A device that a job runs on.
#[derive(Clone)]
pub struct Device {
    /// As the request and the result name it.
    pub name: String,
    plain: BurnDevice,
    recording: BurnDevice,
}

/// Why a device can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("there is no device `{0}`; GET /v1/devices lists those that there are")]
    Unknown(String),
    #[error("the device `{name}` can't be started: {reason}")]
    Start { name: String, reason: String },
}

impl Device {
    /// The device called `name`; `auto` takes a real graphics adapter before the processor.
    pub fn open(name: &str) -> Result<Self, DeviceError> {
        if name == "auto" {
            let found = adapters(real()).find(|adapter| adapter.info.auto);
            return match found {
                Some(adapter) => Ok(Self::new(adapter.info.name, adapter.device)),
                None => Ok(Self::cpu()),
            };
        }
        if name == "cpu" {
            return Ok(Self::cpu());
        }
        match adapters(all()).find(|adapter| adapter.info.name == name) {
            Some(adapter) => Ok(Self::new(adapter.info.name, adapter.device)),
            None => Err(DeviceError::Unknown(name.to_owned())),
        }
    }

    /// The processor.
    pub fn cpu() -> Self {
        Self::new("cpu".to_owned(), BurnDevice::flex())
    }

    fn new(name: String, device: BurnDevice) -> Self {
        Self {
            name,
            recording: device.clone().autodiff(),
            plain: device,
        }
    }

    /// For values without gradients.
    pub fn plain(&self) -> &DispatchDevice {
        self.plain.as_dispatch()
    }

    /// For values whose gradients are wanted.
    pub fn recording(&self) -> &DispatchDevice {
        self.recording.as_dispatch()
    }

    /// Waits until everything asked of the device is done.
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.plain.sync().map_err(|error| DeviceError::Start {
            name: self.name.clone(),
            reason: error.to_string(),
        })
    }
}

struct Adapter {
    info: DeviceInfo,
    device: BurnDevice,
}

/// Keeps Burn from fusing kernels of graphics adapters. Burn 0.22.1 computes wrong gradients where it
/// fuses the steps before a convolution with the convolution's own gradient, whose axes lie in
/// another order (the cases `lp_pool_dilated` of `tests/operators.rs` on `wgpu`).
fn run_kernels_alone() {
    let settings = serde_json::json!({"fusion": {"beam_search": {"max_explorations": 0}}});
    if let Ok(config) = serde_json::from_value::<burn::BurnConfig>(settings) {
        // What has been set before stays.
        let _ = burn::BurnConfig::try_set(config);
    }
}

/// Kinds of adapters that are no software.
fn real() -> impl Iterator<Item = DeviceKind> {
    (0..4)
        .map(DeviceKind::DiscreteGpu)
        .chain((0..2).map(DeviceKind::IntegratedGpu))
        .chain((0..2).map(DeviceKind::VirtualGpu))
}

/// Kinds of adapters in the order of real before software.
fn all() -> impl Iterator<Item = DeviceKind> {
    real().chain([DeviceKind::Cpu])
}

/// Graphics adapters of these kinds, one after the other: each is started to see that it works, and has threads from then on that
/// look for work several thousand times a second.
fn adapters(kinds: impl Iterator<Item = DeviceKind>) -> impl Iterator<Item = Adapter> {
    run_kernels_alone();
    let named = |(index, mut found): (usize, Adapter)| {
        if index > 0 {
            found.info.name = format!("wgpu:{index}");
        }
        found
    };
    kinds.filter_map(started).enumerate().map(named)
}

/// The adapter of a kind, if there is one that works, as the first of all.
fn started(kind: DeviceKind) -> Option<Adapter> {
    // Asking for an adapter that does not exist may panic inside the driver's loader.
    let started = std::panic::catch_unwind(|| {
        BurnDevice::wgpu_options()
            .device_kind(kind)
            .init_with_setup()
    });
    let (device, setup) = started.ok()?.ok()?;
    let about = setup.adapter.get_info();
    let kind = match format!("{:?}", about.device_type).as_str() {
        "DiscreteGpu" => "discrete_gpu",
        "IntegratedGpu" => "integrated_gpu",
        "VirtualGpu" => "virtual_gpu",
        "Cpu" => "cpu",
        _ => "other",
    };
    Some(Adapter {
        info: DeviceInfo {
            name: "wgpu".to_owned(),
            adapter: about.name.clone(),
            kind: kind.to_owned(),
            backend: format!("{:?}", about.backend).to_lowercase(),
            auto: matches!(kind, "discrete_gpu" | "integrated_gpu" | "virtual_gpu"),
        },
        device,
    })
}

/// Every device that jobs can ask for, the processor first.
pub fn list_devices() -> Vec<DeviceInfo> {
    let processor = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let mut devices = vec![DeviceInfo {
        name: "cpu".to_owned(),
        adapter: processor,
        kind: "cpu".to_owned(),
        backend: "flex".to_owned(),
        auto: true,
    }];
    devices.extend(adapters(all()).map(|adapter| adapter.info));
    devices
}
