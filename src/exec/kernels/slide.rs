//! One row of factors times windows of planes: a depthwise convolution's passes.
//!
//! With one row to multiply there is nothing to reuse of what a tile reads, so the time goes to getting the
//! results where they belong. They are computed in one stretch over all rows of a plane, with what lies
//! between the rows in the padded planes, in whole vectors; the rows are copied out of it afterwards.

use pulp::Simd;

use super::copy;
use super::tiles::Rows;

/// `out[i] = bias + Σ factors[k] · planes[i + offsets[k]]`, brought into `clip`.
pub(super) struct Slide<'a> {
    pub factors: &'a [f32],
    /// By factor, added to a position's place in the planes.
    pub offsets: &'a [usize],
    /// The positions of the results.
    pub rows: &'a [Rows],
    /// Distance of neighbouring results.
    pub step: usize,
    pub planes: &'a [f32],
    pub bias: f32,
    pub clip: Option<[f32; 2]>,
    /// Room for [`Slide::stretch`] elements, which hold anything.
    pub stretch: &'a mut [f32],
    /// One plane of results.
    pub out: &'a mut [f32],
}

impl Slide<'_> {
    /// Elements that the results of the longest of `rows` are computed in, whole vectors of any processor.
    pub fn stretch(rows: &[Rows]) -> usize {
        let longest = rows.iter().map(Rows::span).max();
        longest.unwrap_or(0).next_multiple_of(16)
    }

    /// Vectors of results from the position `at` on.
    #[inline(always)]
    fn sums<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        at: usize,
        out: &mut [S::f32s; VECTORS],
    ) {
        let planes = &self.planes[at..];
        let mut sums = [simd.splat_f32s(self.bias); VECTORS];
        for (factor, &offset) in self.factors.iter().zip(self.offsets) {
            let factor = simd.splat_f32s(*factor);
            let (read, _) = S::as_simd_f32s(&planes[offset..offset + VECTORS * S::F32_LANES]);
            for vector in 0..VECTORS {
                sums[vector] = simd.mul_add_f32s(factor, read[vector], sums[vector]);
            }
        }
        if let Some([low, high]) = self.clip {
            let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
            for sum in &mut sums {
                *sum = simd.min_f32s(high, simd.max_f32s(low, *sum));
            }
        }
        *out = sums;
    }
}

impl pulp::WithSimd for Slide<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let stretch = std::mem::take(&mut self.stretch);
        for rows in self.rows {
            let span = rows.span();
            let whole = &mut stretch[..span.next_multiple_of(S::F32_LANES)];
            let (vectors, _) = S::as_mut_simd_f32s(whole);
            let mut at = rows.source;
            let (eights, rest) = vectors.as_chunks_mut::<8>();
            for vectors in eights {
                self.sums::<S, 8>(simd, at, vectors);
                at += 8 * S::F32_LANES;
            }
            let (fours, rest) = rest.as_chunks_mut::<4>();
            for vectors in fours {
                self.sums::<S, 4>(simd, at, vectors);
                at += 4 * S::F32_LANES;
            }
            for vector in rest.as_chunks_mut::<1>().0 {
                self.sums::<S, 1>(simd, at, vector);
                at += S::F32_LANES;
            }
            for (row, made) in stretch[..span].chunks(rows.pitch).enumerate() {
                let out = &mut self.out[rows.to + row * rows.to_pitch..];
                match self.step {
                    1 => copy(&mut out[..rows.width], made),
                    step => {
                        let targets = out.iter_mut().step_by(step).take(rows.width);
                        targets.zip(made).for_each(|(t, s)| *t = *s);
                    }
                }
            }
        }
    }
}
