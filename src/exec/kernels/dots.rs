//! Scalar products of planes: gradients by the weights of convolutions with few channels.

use pulp::Simd;

/// Scalar products of planes: for each row and each place of a window the sum, over all positions, of
/// the row's plane times the padded plane seen from there.
pub(super) struct Dots<'a> {
    /// `[images, rows, length]`, zero where there is no position; `length` is a multiple of the lanes
    /// of a vector.
    pub rows: &'a [f32],
    pub length: usize,
    /// `[images, image]`
    pub planes: &'a [f32],
    pub image: usize,
    pub offsets: &'a [usize],
    /// `[rows, offsets]`; the sums are added.
    pub out: &'a mut [f32],
}

impl Dots<'_> {
    /// Rows that are computed at once, at the most.
    pub const ROWS: usize = 4;

    /// Time for one vector of positions, in the half cycles of [`super::correlate::Block::cost`]; measured to be
    /// several times that of products in registers.
    pub fn cost(rows: usize, places: usize) -> usize {
        rows * places * SLOWER
    }
}

/// What a scalar product costs beside a product that stays in registers.
const SLOWER: usize = 3;

impl pulp::WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (
            self.out.len() == self.offsets.len(),
            S::REGISTER_COUNT >= 32,
        ) {
            (true, _) => self.run::<S, 1, 9>(simd),
            (false, false) => self.run::<S, 2, 6>(simd),
            (false, true) => self.run::<S, { Dots::ROWS }, 6>(simd),
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const PLACES: usize>(self, simd: S) {
        let inner = self.offsets.len();
        let count = self.out.len() / inner;
        let images = self.planes.len() / self.image;
        let length = self.length;
        let steps = length / S::F32_LANES;
        for (block, out) in self.out.chunks_mut(ROWS * inner).enumerate() {
            // A block that juts out computes its last row again.
            let rows: [usize; ROWS] =
                std::array::from_fn(|row| (block * ROWS + row).min(count - 1) * length);
            for (part, offsets) in self.offsets.chunks(PLACES).enumerate() {
                let places: [usize; PLACES] =
                    std::array::from_fn(|place| offsets[place.min(offsets.len() - 1)]);
                let mut sums = [[simd.splat_f32s(0.0); PLACES]; ROWS];
                for image in 0..images {
                    let left = &self.rows[image * count * length..][..count * length];
                    let right = &self.planes[image * self.image..][..self.image];
                    let left = rows.map(|at| &S::as_simd_f32s(&left[at..at + length]).0[..steps]);
                    let right =
                        places.map(|at| &S::as_simd_f32s(&right[at..at + length]).0[..steps]);
                    for step in 0..steps {
                        let left: [S::f32s; ROWS] = std::array::from_fn(|row| left[row][step]);
                        for place in 0..PLACES {
                            let right = right[place][step];
                            for row in 0..ROWS {
                                sums[row][place] =
                                    simd.mul_add_f32s(left[row], right, sums[row][place]);
                            }
                        }
                    }
                }
                for (row, out) in out.chunks_mut(inner).enumerate() {
                    let out = &mut out[part * PLACES..][..offsets.len()];
                    for (place, out) in out.iter_mut().enumerate() {
                        *out += simd.reduce_sum_f32s(sums[row][place]);
                    }
                }
            }
        }
    }
}
