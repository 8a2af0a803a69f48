//! How the positions of planes are cut into tiles.

use super::copy;
use super::correlate::Block;

/// Positions that are computed together.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    /// Where the first one is in the padded planes.
    pub source: usize,
    /// Some of [`Tiles::runs`].
    pub runs: std::ops::Range<usize>,
    /// Elements by which each run is copied together, where they do not lie one behind the other; else 0.
    piece: usize,
}

/// Positions that lie one behind the other, and so do their results.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Place in the padded planes.
    source: usize,
    /// Place in the tile.
    pub from: usize,
    /// Place in the result's plane.
    pub to: usize,
    pub len: usize,
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
    /// Neighbouring positions whose results are neighbours.
    pub fn one(source: usize, width: usize, to: usize) -> Self {
        Self {
            source,
            pitch: width,
            count: 1,
            width,
            to,
            to_pitch: width,
        }
    }

    /// The same positions, in one row where nothing lies between them nor, at `step`, between their results.
    pub fn joined(self, step: usize) -> Self {
        match (self.pitch, self.to_pitch) == (self.width, self.width * step) {
            true => Self::one(self.source, self.count * self.width, self.to),
            false => self,
        }
    }

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
    pub step: usize,
}

impl Tiles {
    fn none(step: usize) -> Self {
        Self {
            tiles: Vec::new(),
            runs: Vec::new(),
            step,
        }
    }

    /// Tiles that can be read as they lie, the fewest of `width` positions: each within one row, or across rows
    /// where what lies between them costs less than what tiles would jut out.
    pub fn cut(all: &[Rows], width: usize, step: usize) -> Self {
        let mut made = Self::none(step);
        for rows in all.iter().filter(|rows| rows.count * rows.width > 0) {
            let span = rows.span();
            let apart = rows.count * rows.width.div_ceil(width);
            if apart <= span.div_ceil(width) {
                for row in 0..rows.count {
                    for start in (0..rows.width).step_by(width) {
                        made.begin(rows.source + row * rows.pitch + start);
                        made.run(rows, row, start, 0, width.min(rows.width - start));
                    }
                }
                continue;
            }
            for start in (0..span).step_by(width) {
                let mut is_empty = true;
                for row in start / rows.pitch..rows.count {
                    let begin = (row * rows.pitch).max(start);
                    let end = (row * rows.pitch + rows.width).min(start + width);
                    if row * rows.pitch >= start + width {
                        break;
                    }
                    if begin < end {
                        if is_empty {
                            made.begin(rows.source + start);
                            is_empty = false;
                        }
                        let inside = begin - row * rows.pitch;
                        made.run(rows, row, inside, begin - start, end - begin);
                    }
                }
            }
        }
        made
    }

    /// Tiles without a gap, whose positions are to be copied together.
    pub fn close(all: &[Rows], width: usize, step: usize) -> Self {
        let mut made = Self::none(step);
        let mut filled = width;
        for rows in all {
            for row in 0..rows.count {
                let mut start = 0;
                while start < rows.width {
                    if filled == width {
                        made.begin(rows.source + row * rows.pitch + start);
                        filled = 0;
                    }
                    let len = (rows.width - start).min(width - filled).min(LONGEST);
                    made.run(rows, row, start, filled, len);
                    let tile = made.tiles.last_mut().expect("a tile was begun");
                    tile.piece = tile.piece.max(len.next_power_of_two());
                    start += len;
                    filled += len;
                }
            }
        }
        made
    }

    fn begin(&mut self, source: usize) {
        self.tiles.push(Tile {
            source,
            runs: self.runs.len()..self.runs.len(),
            piece: 0,
        });
    }

    /// Adds positions of a row, from `start` on, to the tile that was begun.
    fn run(&mut self, rows: &Rows, row: usize, start: usize, from: usize, len: usize) {
        self.runs.push(Run {
            source: rows.source + row * rows.pitch + start,
            from,
            to: rows.to + row * rows.to_pitch + start * self.step,
            len,
        });
        let tile = self.tiles.last_mut().expect("a tile was begun");
        tile.runs.end = self.runs.len();
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Tile, &[Run])> {
        let tiles = self.tiles.iter();
        tiles.map(|tile| (tile, &self.runs[tile.runs.clone()]))
    }

    pub fn count(&self) -> usize {
        self.tiles.len()
    }

    /// Time for one row of the im2col matrix and `rows` rows of the result, in half cycles.
    pub fn cost(&self, rows: usize, block: Block) -> usize {
        let apart = self.tiles.iter().filter(|tile| tile.is_apart());
        let pieces: usize = apart.map(|tile| tile.runs.len()).sum();
        self.count() * rows.div_ceil(block.rows) * block.cost() + pieces * PIECE
    }

    /// How far behind the last position a tile may read.
    pub const SLACK: usize = 64;
}

/// Time for copying a run together, in half cycles.
const PIECE: usize = 6;

/// Elements that are copied at once, at the most.
const LONGEST: usize = 16;

impl Tile {
    /// Whether its positions do not lie one behind the other.
    pub fn is_apart(&self) -> bool {
        self.piece > 0
    }

    /// Copies the tile together, `width` elements for each offset, and whatever behind the last ones; `out` has
    /// room for [`Tiles::SLACK`] more.
    #[inline(always)]
    pub fn gather(
        &self,
        runs: &[Run],
        planes: &[f32],
        offsets: &[usize],
        width: usize,
        out: &mut [f32],
    ) {
        match self.piece {
            0 => {
                for (row, &offset) in out.chunks_exact_mut(width).zip(offsets) {
                    copy(row, &planes[self.source + offset..]);
                }
            }
            1 => pieces::<1>(runs, planes, offsets, width, out),
            2 => pieces::<2>(runs, planes, offsets, width, out),
            4 => pieces::<4>(runs, planes, offsets, width, out),
            8 => pieces::<8>(runs, planes, offsets, width, out),
            _ => pieces::<LONGEST>(runs, planes, offsets, width, out),
        }
    }
}

/// Copies `N` elements for every run, however many it has: the next run's come on top of what is too much.
#[inline(always)]
fn pieces<const N: usize>(
    runs: &[Run],
    planes: &[f32],
    offsets: &[usize],
    width: usize,
    out: &mut [f32],
) {
    for (row, &offset) in offsets.iter().enumerate() {
        for run in runs {
            let target = &mut out[row * width + run.from..][..N];
            target.copy_from_slice(&planes[run.source + offset..][..N]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each result was read, by its place.
    fn read(tiles: &Tiles, width: usize, planes: &[f32]) -> Vec<(usize, f32)> {
        let mut found = Vec::new();
        for (tile, runs) in tiles.iter() {
            let mut gathered = vec![f32::NAN; 2 * width + Tiles::SLACK];
            tile.gather(runs, planes, &[0, 1], width, &mut gathered);
            for run in runs {
                for at in 0..run.len {
                    let place = run.to + at * tiles.step;
                    assert_eq!(
                        gathered[width + run.from + at],
                        gathered[run.from + at] + 1.0
                    );
                    found.push((place, gathered[run.from + at]));
                }
            }
        }
        found.sort_by_key(|(place, _)| *place);
        found
    }

    #[test]
    fn every_position_is_read_once_whatever_its_tile() {
        for (count, columns, pitch, step) in [
            (8, 8, 10, 1),
            (7, 7, 9, 1),
            (3, 50, 52, 2),
            (5, 1, 3, 1),
            (5, 9, 9, 1),
            (4, 7, 7, 2),
        ] {
            let rows = Rows {
                source: 3,
                pitch,
                count,
                width: columns,
                to: 0,
                to_pitch: columns * step,
            };
            let rows = [rows.joined(step)];
            let planes: Vec<f32> = (0..1000).map(|place| place as f32).collect();
            let expected: Vec<(usize, f32)> = (0..count * columns)
                .map(|at| (at * step, (3 + at / columns * pitch + at % columns) as f32))
                .collect();
            for width in [8, 16, 32, 48] {
                let close = Tiles::close(&rows, width, step);
                assert_eq!(close.count(), (count * columns).div_ceil(width));
                assert_eq!(read(&close, width, &planes), expected);
                assert_eq!(
                    read(&Tiles::cut(&rows, width, step), width, &planes),
                    expected
                );
            }
        }
    }
}
