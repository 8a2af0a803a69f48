//! Products of a matrix with windows of planes, in registers: what all of a convolution's passes are
//! made of.
//!
//! The columns of an im2col matrix are not laid out. Each of its rows (a channel and a tap of the
//! kernel) is a plane of the padded image seen from another place, so an offset a row says where to
//! read; a tile of neighbouring positions is a stretch behind that place. The tile stays in registers
//! while the rows go by (the micro-kernel of Goto and van de Geijn, "Anatomy of High-Performance
//! Matrix Multiplication", 2008, with packing left out for one side).

use super::arch::Arch;
use super::tiles::{Rows, Run, Tile, Tiles};
use super::turn::turn;
use super::{copy, copy_from_each, with_scratch};
use pulp::{Simd, bytemuck};

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
        let fits = |block: &&Block| (block.rows == 1) == (rows == 1);
        let mut best: Option<(usize, Block, Tiles)> = None;
        for &block in Block::all(arch.registers()).iter().filter(fits) {
            let width = block.width(arch);
            let mut ways = vec![Tiles::cut(positions, width, step)];
            let lines: usize = positions.iter().map(|rows| rows.count).sum();
            if rows > 1 && lines > 1 {
                ways.push(Tiles::close(positions, width, step));
            }
            for tiles in ways {
                let cost = tiles.cost(rows, block);
                if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                    best = Some((cost, block, tiles));
                }
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
        let neighbours = places
            .first()
            .zip(places.last())
            .is_some_and(|(first, last)| last - first + 1 == places.len());
        let parts = out.chunks_exact_mut((places.len() * self.rows).max(1));
        for (index, part) in parts.enumerate() {
            let first = index * self.rows;
            let count = self.rows.min(rows - first);
            if count < self.rows {
                part.fill(0.0);
            }
            let own = &factors[first * row_stride..];
            let each = places.iter().copied();
            match (row_stride, count == self.rows, self.rows) {
                (1, true, 4) => copy_from_each::<4>(own, each, part),
                (1, true, 6) => copy_from_each::<6>(own, each, part),
                (1, true, 8) => copy_from_each::<8>(own, each, part),
                (1, true, 12) => copy_from_each::<12>(own, each, part),
                (1, true, 16) => copy_from_each::<16>(own, each, part),
                (1, true, 24) => copy_from_each::<24>(own, each, part),
                _ if neighbours => {
                    let size = [count, places.len()];
                    turn(&own[places[0]..], row_stride, size, part, self.rows);
                }
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
        self.vectors * arch.lanes()
    }

    /// Time for one row of the im2col matrix and one tile, in half cycles: a processor multiplies and
    /// loads two vectors a cycle, and what is read at odd places takes longer.
    pub fn cost(self) -> usize {
        let products = self.rows * self.vectors;
        let loads = self.rows + self.vectors + self.vectors / 2;
        products.max(loads).max(8)
    }
}

/// What products are added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// A number for each row.
    Rows(&'a [f32]),
    /// A number for each position.
    Positions(&'a [f32]),
    /// What the results hold.
    Held,
}

impl<'a> Start<'a> {
    /// A bias, where there is one.
    pub fn of(bias: Option<&'a [f32]>, kind: impl Fn(&'a [f32]) -> Self) -> Self {
        bias.map_or(Self::Zero, kind)
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
    pub start: Start<'a>,
    /// What the results are brought into, at the end.
    pub clip: Option<[f32; 2]>,
    pub first: usize,
    /// `[rows, plane]`
    pub out: &'a mut [f32],
    pub plane: usize,
}

impl Correlation<'_> {
    /// Computes it on this thread.
    pub fn run(self, arch: Arch) {
        let room = INNER.min(self.offsets.len()) * self.block.width(arch) + Tiles::SLACK;
        with_scratch(room, |gathered| {
            arch.dispatch(Gathering {
                correlation: self,
                gathered,
            });
        });
    }
}

/// A product with room for what is copied together of a tile.
struct Gathering<'a, 'b> {
    correlation: Correlation<'a>,
    gathered: &'b mut [f32],
}

impl pulp::WithSimd for Gathering<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (all, gathered) = (self.correlation, self.gathered);
        match (all.block.rows, all.block.vectors) {
            (6, 2) => all.tiles::<S, 6, 2>(simd, gathered),
            (12, 1) => all.tiles::<S, 12, 1>(simd, gathered),
            (8, 1) => all.tiles::<S, 8, 1>(simd, gathered),
            (4, 2) => all.tiles::<S, 4, 2>(simd, gathered),
            (1, 8) => all.tiles::<S, 1, 8>(simd, gathered),
            (12, 2) => all.tiles::<S, 12, 2>(simd, gathered),
            (8, 3) => all.tiles::<S, 8, 3>(simd, gathered),
            (24, 1) => all.tiles::<S, 24, 1>(simd, gathered),
            (16, 1) => all.tiles::<S, 16, 1>(simd, gathered),
            other => unreachable!("no block has the form {other:?}"),
        }
    }
}

/// Rows of the im2col matrix whose factors, and a tile of which, stay in the first-level cache.
const INNER: usize = 192;

/// Factors, at the most, that stay in a second-level cache of 512 KiB beside what else passes through it.
const FACTORS: usize = 64 << 10;

/// Blocks of rows from which on it is worth it to copy a tile's part of the planes together first.
const GATHERED: usize = 3;

impl Correlation<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(
        mut self,
        simd: S,
        gathered: &mut [f32],
    ) {
        let blocks = self.out.len().div_ceil(ROWS * self.plane);
        let (tiles, offsets, planes) = (self.tiles, self.offsets, self.planes);
        let width = VECTORS * S::F32_LANES;
        let all_gathered = !self.panels && blocks >= GATHERED;
        let gathers = |tile: &Tile| all_gathered || tile.is_apart();
        // A tile's part of the planes stays in the first-level cache while all blocks go by, and the factors
        // that all tiles need in the second.
        let parts: Vec<(usize, &[usize])> = offsets.chunks(INNER).enumerate().collect();
        let at_once = match self.factors.len() > FACTORS {
            true => 1,
            false => parts.len().max(1),
        };
        // Sums from one part to the next, as they lie in registers: of one tile, or of all where others come between.
        let (held_by_tile, held_tiles) = match (parts.len(), at_once) {
            (0 | 1, _) => (0, 1),
            (_, 1) => (blocks * ROWS * width, tiles.count()),
            _ => (blocks * ROWS * width, 1),
        };
        let mut held = vec![0f32; held_tiles * held_by_tile];
        for parts in parts.chunks(at_once) {
            for (index, (tile, runs)) in tiles.iter().enumerate() {
                let held = &mut held[index % held_tiles * held_by_tile..][..held_by_tile];
                for &(part, offsets) in parts {
                    let read = if self.panels {
                        let start = tile.source + part * INNER * width;
                        Read::Panel(&planes[start..][..offsets.len() * width])
                    } else if gathers(tile) {
                        tile.gather(runs, planes, offsets, width, gathered);
                        Read::Panel(&gathered[..offsets.len() * width])
                    } else {
                        Read::Planes(&planes[tile.source..], offsets)
                    };
                    for block in 0..blocks {
                        let (held, _) = S::as_mut_simd_f32s(held);
                        let (held, _) = held.as_chunks_mut::<VECTORS>();
                        let held = held.get_mut(block * ROWS..(block + 1) * ROWS);
                        let held = held.unwrap_or_default();
                        self.tile::<S, ROWS, VECTORS>(simd, block, part, runs, &read, held);
                    }
                }
            }
        }
    }

    /// What some rows of the im2col matrix, `part · INNER` and the next ones, give to a tile of a
    /// block; `held` has the sums of the parts before, and takes them for those that follow.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        block: usize,
        part: usize,
        runs: &[Run],
        read: &Read,
        held: &mut [[S::f32s; VECTORS]],
    ) {
        let inner = self.offsets.len();
        let count = read.count(VECTORS * S::F32_LANES);
        let first = self.first + block * ROWS;
        let end = self.out.len().min((block + 1) * ROWS * self.plane);
        let out = &mut self.out[block * ROWS * self.plane..end];
        let step = self.tiles.step;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        match self.start {
            _ if part > 0 => sums.copy_from_slice(held),
            Start::Zero => {}
            Start::Rows(bias) => {
                for (sums, bias) in sums.iter_mut().zip(&bias[first..]) {
                    *sums = [simd.splat_f32s(*bias); VECTORS];
                }
            }
            Start::Positions(along) => {
                for sums in sums.iter_mut().take(out.len() / self.plane) {
                    fetch(bytemuck::cast_slice_mut(sums), runs, along, step);
                }
            }
            Start::Held => {
                for (sums, plane) in sums.iter_mut().zip(out.chunks_exact(self.plane)) {
                    fetch(bytemuck::cast_slice_mut(sums), runs, plane, step);
                }
            }
        }
        let width = VECTORS * S::F32_LANES;
        let place = first * inner + part * INNER * ROWS;
        let (factors, _) = self.factors[place..][..count * ROWS].as_chunks::<ROWS>();
        let mut sums = match *read {
            Read::Panel(panel) => {
                let (vectors, _) = S::as_simd_f32s(panel);
                let (rows, _) = vectors.as_chunks();
                products(simd, sums, factors, rows.iter())
            }
            Read::Planes(planes, offsets) => {
                let rows = offsets.iter().map(|&offset| {
                    let (vectors, _) = S::as_simd_f32s(&planes[offset..offset + width]);
                    vectors.first_chunk().expect("a tile is so wide")
                });
                products(simd, sums, factors, rows)
            }
        };
        if part * INNER + count < inner {
            held.copy_from_slice(&sums);
            return;
        }
        if let Some([low, high]) = self.clip {
            let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
            for sum in sums.iter_mut().flatten() {
                *sum = simd.min_f32s(high, simd.max_f32s(low, *sum));
            }
        }
        for (sums, plane) in sums.iter().zip(out.chunks_exact_mut(self.plane)) {
            let lanes: &[f32] = bytemuck::cast_slice(sums);
            for run in runs {
                if step == 1 && run.len == width {
                    // As vectors, since copying floats would be a call.
                    let (target, _) = S::as_mut_simd_f32s(&mut plane[run.to..run.to + width]);
                    *target.first_chunk_mut().expect("as many vectors") = *sums;
                    continue;
                }
                let source = &lanes[run.from..run.from + run.len];
                if step == 1 {
                    copy(&mut plane[run.to..run.to + run.len], source);
                } else {
                    let target = plane[run.to..].iter_mut().step_by(step);
                    target.zip(source).for_each(|(t, s)| *t = *s);
                }
            }
        }
    }
}

/// Reads what the results of a tile are added to.
#[inline(always)]
fn fetch(sums: &mut [f32], runs: &[Run], plane: &[f32], step: usize) {
    for run in runs {
        let target = &mut sums[run.from..run.from + run.len];
        match step {
            1 => copy(target, &plane[run.to..]),
            _ => {
                let source = plane[run.to..].iter().step_by(step);
                target.iter_mut().zip(source).for_each(|(t, s)| *t = *s);
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
///
/// Values are used where they lie. Of a local array of them the compiler keeps a copy on the stack, and where that crosses lines of
/// the cache each step waits for what it has just written.
#[inline(always)]
fn products<'a, S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    mut sums: [[S::f32s; VECTORS]; ROWS],
    factors: &[[f32; ROWS]],
    values: impl Iterator<Item = &'a [S::f32s; VECTORS]>,
) -> [[S::f32s; VECTORS]; ROWS]
where
    S::f32s: 'a,
{
    for (factors, values) in factors.iter().zip(values) {
        for row in 0..ROWS {
            let factor = simd.splat_f32s(factors[row]);
            for vector in 0..VECTORS {
                sums[row][vector] = simd.mul_add_f32s(factor, values[vector], sums[row][vector]);
            }
        }
    }
    sums
}
