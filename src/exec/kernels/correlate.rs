//! Products of a matrix with windows of planes, in registers: what all of a convolution's passes are
//! made of.
//!
//! The columns of an im2col matrix are not laid out. Each of its rows (a channel and a tap of the
//! kernel) is a plane of the padded image seen from another place, so an offset a row says where to
//! read; a tile of neighbouring positions is a stretch behind that place. The tile stays in registers
//! while the rows go by (the micro-kernel of Goto and van de Geijn, "Anatomy of High-Performance
//! Matrix Multiplication", 2008, with packing left out for one side).

use super::arch::Arch;
use super::copy;
use pulp::{Simd, bytemuck};

/// Positions that are computed together: from `source` in the padded planes on.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    source: usize,
    /// Where the results go: some of [`Tiles::runs`].
    runs: std::ops::Range<usize>,
}

/// Neighbouring results.
#[derive(Debug, Clone)]
struct Run {
    /// Place in the tile.
    from: usize,
    /// Place in the result's plane.
    to: usize,
    len: usize,
}

/// Rows of positions that lie `pitch` apart in the padded planes.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub source: usize,
    pub pitch: usize,
    pub count: usize,
    pub width: usize,
    /// Where the first row's first result goes.
    pub to: usize,
    /// Distance of the results of neighbouring rows.
    pub to_pitch: usize,
}

impl Rows {
    /// Positions from the first to the last, with those between the rows.
    pub fn span(&self) -> usize {
        match self.count * self.width {
            0 => 0,
            _ => (self.count - 1) * self.pitch + self.width,
        }
    }
}

/// How all positions of a plane are cut into tiles of one width.
#[derive(Debug, Clone)]
pub(super) struct Tiles {
    tiles: Vec<Tile>,
    runs: Vec<Run>,
    /// Distance of neighbouring results.
    step: usize,
}

impl Tiles {
    /// The fewest tiles of `width` positions: each within one row, or across rows where what lies
    /// between them costs less than what tiles would jut out.
    pub fn cut(all: &[Rows], width: usize, step: usize) -> Self {
        let mut made = Self {
            tiles: Vec::new(),
            runs: Vec::new(),
            step,
        };
        for rows in all.iter().filter(|rows| rows.count * rows.width > 0) {
            let span = rows.span();
            let apart = rows.count * rows.width.div_ceil(width);
            if apart <= span.div_ceil(width) {
                for row in 0..rows.count {
                    for start in (0..rows.width).step_by(width) {
                        let first = made.runs.len();
                        made.runs.push(Run {
                            from: 0,
                            to: rows.to + row * rows.to_pitch + start * step,
                            len: width.min(rows.width - start),
                        });
                        made.tiles.push(Tile {
                            source: rows.source + row * rows.pitch + start,
                            runs: first..made.runs.len(),
                        });
                    }
                }
                continue;
            }
            for start in (0..span).step_by(width) {
                let first = made.runs.len();
                for row in start / rows.pitch..rows.count {
                    let begin = (row * rows.pitch).max(start);
                    let end = (row * rows.pitch + rows.width).min(start + width);
                    if row * rows.pitch >= start + width {
                        break;
                    }
                    if begin < end {
                        let inside = begin - row * rows.pitch;
                        made.runs.push(Run {
                            from: begin - start,
                            to: rows.to + row * rows.to_pitch + inside * step,
                            len: end - begin,
                        });
                    }
                }
                if first < made.runs.len() {
                    made.tiles.push(Tile {
                        source: rows.source + start,
                        runs: first..made.runs.len(),
                    });
                }
            }
        }
        made
    }

    pub fn count(&self) -> usize {
        self.tiles.len()
    }

    /// How far behind the last position a tile may read.
    pub const SLACK: usize = 64;
}

/// Rows of the result, and vectors of positions, that are kept in registers at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub rows: usize,
    pub vectors: usize,
}

impl Block {
    /// What there is for a number of registers; [`Correlation`] knows them all. Sums, one row's factor
    /// and a tile's values must leave one register free: a sum that is kept in memory halves the speed.
    pub fn all(registers: usize) -> &'static [Block] {
        const fn block(rows: usize, vectors: usize) -> Block {
            Block { rows, vectors }
        }
        const FEW: &[Block] = &[
            block(6, 2),
            block(4, 2),
            block(12, 1),
            block(8, 1),
            block(1, 8),
        ];
        const MANY: &[Block] = &[
            block(12, 2),
            block(8, 3),
            block(24, 1),
            block(16, 1),
            block(1, 8),
        ];
        if registers >= 32 { MANY } else { FEW }
    }

    /// The block that computes `rows` rows in the least time, and the tiles for it.
    pub fn best(arch: Arch, rows: usize, positions: &[Rows], step: usize) -> (Self, Tiles) {
        let (registers, _) = arch.dispatch(Registers);
        let fits = |block: &&Block| (block.rows == 1) == (rows == 1);
        let mut best: Option<(usize, Block, Tiles)> = None;
        for &block in Block::all(registers).iter().filter(fits) {
            let tiles = Tiles::cut(positions, block.width(arch), step);
            let cost = tiles.count() * rows.div_ceil(block.rows) * block.cost();
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, block, tiles));
            }
        }
        let (_, block, tiles) = best.expect("there are blocks for every number of rows");
        (block, tiles)
    }

    /// Elements of the packed factors of `rows` rows over `inner` rows of the im2col matrix.
    pub fn packed_len(self, rows: usize, inner: usize) -> usize {
        rows.next_multiple_of(self.rows) * inner
    }

    /// Writes the factors of `rows` rows, `[blocks, rows of the im2col matrix, rows of a block]`:
    /// `factors[row · row_stride + places[k]]` for the k-th row of the im2col matrix.
    #[inline(always)]
    pub fn pack(
        self,
        factors: &[f32],
        rows: usize,
        row_stride: usize,
        places: &[usize],
        out: &mut [f32],
    ) {
        let parts = out.chunks_exact_mut((places.len() * self.rows).max(1));
        for (index, part) in parts.enumerate() {
            let first = index * self.rows;
            let count = self.rows.min(rows - first);
            if count < self.rows {
                part.fill(0.0);
            }
            if row_stride == 1 {
                let targets = part.chunks_exact_mut(self.rows);
                for (target, &place) in targets.zip(places) {
                    copy(&mut target[..count], &factors[first + place..]);
                }
                continue;
            }
            let own = &factors[first * row_stride..];
            let neighbours = places
                .first()
                .zip(places.last())
                .is_some_and(|(first, last)| last - first + 1 == places.len());
            match (neighbours && count == self.rows, self.rows) {
                (true, 4) => interleave::<4>(&own[places[0]..], row_stride, part),
                (true, 6) => interleave::<6>(&own[places[0]..], row_stride, part),
                (true, 8) => interleave::<8>(&own[places[0]..], row_stride, part),
                (true, 12) => interleave::<12>(&own[places[0]..], row_stride, part),
                (true, 16) => interleave::<16>(&own[places[0]..], row_stride, part),
                (true, 24) => interleave::<24>(&own[places[0]..], row_stride, part),
                _ => {
                    for inside in 0..count {
                        let own = &own[inside * row_stride..];
                        let targets = part[inside..].iter_mut().step_by(self.rows);
                        for (target, &place) in targets.zip(places) {
                            *target = own[place];
                        }
                    }
                }
            }
        }
    }

    /// Positions of a tile.
    pub fn width(self, arch: Arch) -> usize {
        let (_, lanes) = arch.dispatch(Registers);
        self.vectors * lanes
    }

    /// Time for one row of the im2col matrix and one tile, in half cycles: a processor multiplies and
    /// loads two vectors a cycle, and what is read at odd places takes longer.
    pub fn cost(self) -> usize {
        let products = self.rows * self.vectors;
        let loads = self.rows + self.vectors + self.vectors / 2;
        products.max(loads).max(8)
    }
}

/// `out[k, row] = rows[row · stride + k]`
#[inline(always)]
pub(super) fn interleave<const ROWS: usize>(rows: &[f32], stride: usize, out: &mut [f32]) {
    const SIDE: usize = 8;
    let (out, _) = out.as_chunks_mut::<ROWS>();
    let count = out.len();
    // Loops and no closures: those of an array's `map` are calls to code for the oldest processor.
    let (squares, rest) = out.as_chunks_mut::<SIDE>();
    for row in 0..ROWS {
        let (pieces, last) = rows[row * stride..][..count].as_chunks::<SIDE>();
        for (square, piece) in squares.iter_mut().zip(pieces) {
            for place in 0..SIDE {
                square[place][row] = piece[place];
            }
        }
        for (out, value) in rest.iter_mut().zip(last) {
            out[row] = *value;
        }
    }
}

/// Number of vector registers, and elements of each.
struct Registers;

impl pulp::WithSimd for Registers {
    type Output = (usize, usize);

    fn with_simd<S: Simd>(self, _: S) -> (usize, usize) {
        (S::REGISTER_COUNT, S::F32_LANES)
    }
}

/// One product: rows from `first` (a multiple of the block's rows) on, as many as fill `out`.
pub(super) struct Correlation<'a> {
    /// As [`Block::pack`] writes them.
    pub factors: &'a [f32],
    pub block: Block,
    /// By row of the im2col matrix, added to a tile's place.
    pub offsets: &'a [usize],
    pub tiles: &'a Tiles,
    pub planes: &'a [f32],
    /// Whether the planes are laid out tile by tile.
    pub panels: bool,
    /// A number for each row.
    pub bias: Option<&'a [f32]>,
    /// A number for each position.
    pub along: Option<&'a [f32]>,
    /// What the results are brought into, at the end.
    pub clip: Option<[f32; 2]>,
    pub first: usize,
    /// `[rows, plane]`
    pub out: &'a mut [f32],
    pub plane: usize,
}

impl pulp::WithSimd for Correlation<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.block.rows, self.block.vectors) {
            (6, 2) => self.run::<S, 6, 2>(simd),
            (12, 1) => self.run::<S, 12, 1>(simd),
            (8, 1) => self.run::<S, 8, 1>(simd),
            (4, 2) => self.run::<S, 4, 2>(simd),
            (1, 8) => self.run::<S, 1, 8>(simd),
            (12, 2) => self.run::<S, 12, 2>(simd),
            (8, 3) => self.run::<S, 8, 3>(simd),
            (24, 1) => self.run::<S, 24, 1>(simd),
            (16, 1) => self.run::<S, 16, 1>(simd),
            other => unreachable!("no block has the form {other:?}"),
        }
    }
}

/// Rows of the im2col matrix whose factors, and a tile of which, stay in the first-level cache.
const INNER: usize = 384;

/// Factors, at the most, that stay in a second-level cache of 512 KiB beside what else passes through it.
const FACTORS: usize = 64 << 10;

/// Blocks of rows from which on it is worth it to copy a tile's part of the planes together first.
const GATHERED: usize = 3;

impl Correlation<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(mut self, simd: S) {
        let blocks = self.out.len().div_ceil(ROWS * self.plane);
        let (tiles, offsets, planes) = (self.tiles, self.offsets, self.planes);
        let width = VECTORS * S::F32_LANES;
        let gathers = !self.panels && blocks >= GATHERED;
        let mut gathered = vec![
            0f32;
            if gathers {
                INNER.min(offsets.len()) * width
            } else {
                0
            }
        ];
        // A tile's part of the planes stays in the first-level cache while all blocks go by, and the factors
        // that all tiles need in the second.
        let parts: Vec<(usize, &[usize])> = offsets.chunks(INNER).enumerate().collect();
        let at_once = match self.factors.len() > FACTORS {
            true => 1,
            false => parts.len().max(1),
        };
        for parts in parts.chunks(at_once) {
            for tile in &tiles.tiles {
                for &(part, offsets) in parts {
                    let read = if self.panels {
                        let start = tile.source + part * INNER * width;
                        Read::Panel(&planes[start..][..offsets.len() * width])
                    } else if gathers {
                        for (row, &offset) in gathered.chunks_exact_mut(width).zip(offsets) {
                            row.copy_from_slice(&planes[tile.source + offset..][..width]);
                        }
                        Read::Panel(&gathered[..offsets.len() * width])
                    } else {
                        Read::Planes(&planes[tile.source..], offsets)
                    };
                    for block in 0..blocks {
                        self.tile::<S, ROWS, VECTORS>(simd, block, part, tile, &read);
                    }
                }
            }
        }
    }

    /// What some rows of the im2col matrix, `part · INNER` and the next ones, give to a tile of a
    /// block.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        block: usize,
        part: usize,
        tile: &Tile,
        read: &Read,
    ) {
        let inner = self.offsets.len();
        let count = read.count(VECTORS * S::F32_LANES);
        let first = self.first + block * ROWS;
        let end = self.out.len().min((block + 1) * ROWS * self.plane);
        let out = &mut self.out[block * ROWS * self.plane..end];
        let runs = &self.tiles.runs[tile.runs.clone()];
        let step = self.tiles.step;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        if let (0, None) = (part, self.along) {
            if let Some(bias) = self.bias {
                let own = &bias[first..];
                for (sums, bias) in sums.iter_mut().zip(own) {
                    *sums = [simd.splat_f32s(*bias); VECTORS];
                }
            }
        } else {
            for (sums, plane) in sums.iter_mut().zip(out.chunks_exact(self.plane)) {
                let plane = match self.along {
                    Some(along) if part == 0 => along,
                    _ => plane,
                };
                let lanes: &mut [f32] = bytemuck::cast_slice_mut(sums);
                for run in runs {
                    let target = &mut lanes[run.from..run.from + run.len];
                    let source = plane[run.to..].iter().step_by(step);
                    target.iter_mut().zip(source).for_each(|(t, s)| *t = *s);
                }
            }
        }
        let width = VECTORS * S::F32_LANES;
        let place = first * inner + part * INNER * ROWS;
        let (factors, _) = self.factors[place..][..count * ROWS].as_chunks::<ROWS>();
        let mut sums = match *read {
            Read::Panel(panel) => products(simd, sums, factors, panel.chunks_exact(width)),
            Read::Planes(planes, offsets) => {
                let rows = offsets
                    .iter()
                    .map(|&offset| &planes[offset..offset + width]);
                products(simd, sums, factors, rows)
            }
        };
        if let (true, Some([low, high])) = (part * INNER + count == inner, self.clip) {
            let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
            for sum in sums.iter_mut().flatten() {
                *sum = simd.min_f32s(high, simd.max_f32s(low, *sum));
            }
        }
        for (sums, plane) in sums.iter().zip(out.chunks_exact_mut(self.plane)) {
            let lanes: &[f32] = bytemuck::cast_slice(sums);
            for run in runs {
                let source = &lanes[run.from..run.from + run.len];
                if run.len == width && step == 1 {
                    plane[run.to..run.to + width].copy_from_slice(&lanes[..width]);
                } else if step == 1 {
                    copy(&mut plane[run.to..run.to + run.len], source);
                } else {
                    let target = plane[run.to..].iter_mut().step_by(step);
                    target.zip(source).for_each(|(t, s)| *t = *s);
                }
            }
        }
    }
}

/// Where the rows of the im2col matrix are read for one tile.
enum Read<'a> {
    /// One behind the other.
    Panel(&'a [f32]),
    /// Each behind its offset.
    Planes(&'a [f32], &'a [usize]),
}

impl Read<'_> {
    /// Number of rows.
    #[inline(always)]
    fn count(&self, width: usize) -> usize {
        match self {
            Self::Panel(panel) => panel.len() / width,
            Self::Planes(_, offsets) => offsets.len(),
        }
    }
}

/// `sums[row] += Σ factors[k, row] · values[k]`
#[inline(always)]
fn products<'a, S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    mut sums: [[S::f32s; VECTORS]; ROWS],
    factors: &[[f32; ROWS]],
    values: impl Iterator<Item = &'a [f32]>,
) -> [[S::f32s; VECTORS]; ROWS] {
    for (factors, values) in factors.iter().zip(values) {
        let (read, _) = S::as_simd_f32s(values);
        let mut values = [simd.splat_f32s(0.0); VECTORS];
        values.copy_from_slice(&read[..VECTORS]);
        for row in 0..ROWS {
            let factor = simd.splat_f32s(factors[row]);
            for vector in 0..VECTORS {
                sums[row][vector] = simd.mul_add_f32s(factor, values[vector], sums[row][vector]);
            }
        }
    }
    sums
}

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
            (false, true) => self.run::<S, 4, 6>(simd),
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
