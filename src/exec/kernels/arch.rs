//! The widest vectors of the processor at hand.

use pulp::{Simd, WithSimd};

/// Found when the program runs: AVX-512, AVX2 with FMA, or what `pulp` knows for other processors. (Its
/// own `Arch` looks for AVX2 only with a feature that would build Burn's matrix products anew.)
#[derive(Debug, Clone, Copy)]
pub(super) enum Arch {
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    Other(pulp::Arch),
}

impl Arch {
    pub fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V4::try_new() {
                return Self::V4(simd);
            }
            if let Some(simd) = pulp::x86::V3::try_new() {
                return Self::V3(simd);
            }
        }
        Self::Other(pulp::Arch::new())
    }

    /// Elements of a vector.
    pub fn lanes(self) -> usize {
        self.dispatch(Vectors).1
    }

    /// Number of vector registers.
    pub fn registers(self) -> usize {
        self.dispatch(Vectors).0
    }

    /// Runs a closure, to be marked `#[inline(always)]`, compiled for these vectors. (Through its
    /// `FnOnce` it would be a call to code for the oldest processor.)
    #[inline(always)]
    pub fn run<R>(self, work: impl FnMut() -> R) -> R {
        self.dispatch(Closure(work))
    }

    /// Runs `work` compiled for these vectors.
    #[inline(always)]
    pub fn dispatch<W: WithSimd>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::V4(simd) => Simd::vectorize(simd, work),
            #[cfg(target_arch = "x86_64")]
            Self::V3(simd) => Simd::vectorize(simd, work),
            Self::Other(arch) => arch.dispatch(work),
        }
    }
}

struct Closure<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Closure<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}

/// Number of vector registers, and elements of each.
struct Vectors;

impl WithSimd for Vectors {
    type Output = (usize, usize);

    fn with_simd<S: Simd>(self, _: S) -> (usize, usize) {
        (S::REGISTER_COUNT, S::F32_LANES)
    }
}
