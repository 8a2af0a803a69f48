//! Numbers of arrays that are too many for the memory: on the disk, read example by example.

use std::fs::File;
use std::io::{BufRead, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;

use super::Elements;
use super::archive::Archive;

/// What one array may take in memory: 256 MiB. A larger one lies in a file without a name.
const RESIDENT_BYTES: usize = 256 << 20;

/// Bytes that are written, or read one after the other, at once.
const BLOCK_BYTES: usize = 1 << 20;

/// A number as arrays are kept.
pub(super) trait Number: Pod {
    const KIND: Kind;

    fn in_memory(values: Vec<Self>) -> Elements;
}

macro_rules! numbers {
    ($($number:ty, $kind:ident;)+) => {
        /// Which numbers lie in a file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind { $($kind),+ }

        $(impl Number for $number {
            const KIND: Kind = Kind::$kind;

            fn in_memory(values: Vec<Self>) -> Elements {
                Elements::$kind(values)
            }
        })+

        impl Kind {
            fn width(self) -> usize {
                match self {
                    $(Self::$kind => size_of::<$number>()),+
                }
            }
        }
    };
}

numbers! {
    u8, U8;
    f32, F32;
    i64, I64;
}

/// Gathers the numbers of an array as they are read, and puts them on the disk once they are many.
pub(super) struct Collector<T> {
    values: Vec<T>,
    /// Numbers that may be in memory.
    room: usize,
    file: Option<File>,
    written: usize,
}

impl<T: Number> Collector<T> {
    pub fn new() -> Self {
        Self::with_room(RESIDENT_BYTES / size_of::<T>())
    }

    fn with_room(room: usize) -> Self {
        Self {
            values: Vec::new(),
            room,
            file: None,
            written: 0,
        }
    }

    pub fn push(&mut self, value: T) -> std::io::Result<()> {
        if self.values.len() == self.room {
            self.write()?;
        }
        self.values.push(value);
        Ok(())
    }

    fn write(&mut self) -> std::io::Result<()> {
        if self.file.is_none() {
            self.file = Some(Archive::scratch()?);
            // From here on a block at a time.
            self.room = (BLOCK_BYTES / size_of::<T>()).min(self.room);
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytemuck::cast_slice(&self.values))?;
        }
        self.written += self.values.len();
        self.values = Vec::with_capacity(self.room);
        Ok(())
    }

    pub fn finish(mut self) -> std::io::Result<Elements> {
        if self.file.is_some() {
            self.write()?;
        }
        Ok(match self.file {
            None => T::in_memory(self.values),
            Some(file) => Elements::Spilled(Spilled {
                file: Arc::new(file),
                kind: T::KIND,
                start: 0,
                len: self.written,
                block: Arc::default(),
            }),
        })
    }
}

/// All numbers of a stream, each of `N` bytes; what is left at its end is none.
pub(super) fn numbers<const N: usize, T: Number>(
    mut reader: impl BufRead,
    decode: impl Fn([u8; N]) -> T,
) -> std::io::Result<Elements> {
    let mut all = Collector::new();
    let mut bytes = [0; N];
    loop {
        match reader.read_exact(&mut bytes) {
            Ok(()) => all.push(decode(bytes))?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return all.finish(),
            Err(error) => return Err(error),
        }
    }
}

/// Numbers in a file that is gone with its last user.
#[derive(Debug, Clone)]
pub struct Spilled {
    file: Arc<File>,
    kind: Kind,
    /// The first one's place in the file, in numbers.
    start: usize,
    len: usize,
    /// Those that were read last by [`Spilled::get`].
    block: Arc<Mutex<Block>>,
}

#[derive(Debug, Default)]
struct Block {
    first: usize,
    bytes: Vec<u8>,
}

impl PartialEq for Spilled {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && (self.start, self.len) == (other.start, other.len)
    }
}

impl Spilled {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        (self.len * self.kind.width()) as u64
    }

    /// Some of the numbers.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        Self {
            start: self.start + range.start,
            len: range.len(),
            block: Arc::default(),
            ..self.clone()
        }
    }

    /// One number; of numbers one after the other a block is read at once.
    ///
    /// # Panics
    ///
    /// Where the disk has lost it.
    fn get<T: Number>(&self, index: usize) -> T {
        debug_assert_eq!(T::KIND, self.kind);
        let width = size_of::<T>();
        let mut block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        let held = block.first..block.first + block.bytes.len() / width;
        if !held.contains(&index) {
            let follows = index == held.end;
            let count = if follows { BLOCK_BYTES / width } else { 1 };
            let count = count.min(self.len - index);
            block.first = index;
            block.bytes.resize(count * width, 0);
            self.read(index, &mut block.bytes);
        }
        let place = (index - block.first) * width;
        bytemuck::pod_read_unaligned(&block.bytes[place..place + width])
    }

    pub fn get_f64(&self, index: usize) -> f64 {
        match self.kind {
            Kind::U8 => self.get::<u8>(index).into(),
            Kind::F32 => self.get::<f32>(index).into(),
            Kind::I64 => self.get::<i64>(index) as f64,
        }
    }

    pub fn get_i64(&self, index: usize) -> i64 {
        match self.kind {
            Kind::U8 => self.get::<u8>(index).into(),
            Kind::F32 => self.get::<f32>(index) as i64,
            Kind::I64 => self.get(index),
        }
    }

    /// Rows of `stride` numbers, one behind the other, in memory.
    ///
    /// # Panics
    ///
    /// As [`Spilled::get`].
    pub fn rows(&self, rows: &[u32], stride: usize) -> Elements {
        match self.kind {
            Kind::U8 => self.gathered::<u8>(rows, stride),
            Kind::F32 => self.gathered::<f32>(rows, stride),
            Kind::I64 => self.gathered::<i64>(rows, stride),
        }
    }

    fn gathered<T: Number>(&self, rows: &[u32], stride: usize) -> Elements {
        let mut values = vec![T::zeroed(); rows.len() * stride];
        if stride > 0 {
            for (&row, values) in rows.iter().zip(values.chunks_exact_mut(stride)) {
                self.read(row as usize * stride, bytemuck::cast_slice_mut(values));
            }
        }
        T::in_memory(values)
    }

    fn read(&self, index: usize, bytes: &mut [u8]) {
        let place = (self.start + index) * self.kind.width();
        let read = self.file.read_exact_at(bytes, place as u64);
        read.expect("what was written into the file can be read again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected<T: Number>(values: &[T], room: usize) -> Elements {
        let mut all = Collector::with_room(room);
        for value in values {
            all.push(*value).unwrap();
        }
        all.finish().unwrap()
    }

    #[test]
    fn what_has_room_stays_in_memory() {
        assert_eq!(collected(&[1u8, 2, 3], 3), Elements::U8(vec![1, 2, 3]));
        assert_eq!(collected::<f32>(&[], 3), Elements::F32(Vec::new()));
    }

    #[test]
    fn many_numbers_are_the_same_from_the_disk() {
        let values: Vec<f32> = (0..1000).map(|value| value as f32 / 8.0).collect();
        let elements = collected(&values, 7);
        assert_eq!((elements.len(), elements.bytes()), (1000, 4000));
        for index in [999, 0, 1, 500, 7, 6] {
            assert_eq!(elements.get_f32(index), values[index]);
        }
        let Elements::Spilled(spilled) = elements else {
            panic!("they are in memory");
        };
        assert_eq!(
            spilled.rows(&[99, 0, 3], 10),
            Elements::F32([&values[990..], &values[..10], &values[30..40]].concat())
        );
        let part = spilled.part(500..600);
        assert_eq!((part.len(), part.get_f64(3)), (100, f64::from(values[503])));
        assert_eq!(part.rows(&[2], 5), Elements::F32(values[510..515].to_vec()));
    }

    #[test]
    fn integers_keep_all_their_digits() {
        let values = [i64::MIN, -1, 0, i64::MAX - 1];
        let elements = collected(&values, 2);
        assert_eq!(
            values.map(|value| value),
            [0, 1, 2, 3].map(|index| elements.get_i64(index))
        );
    }
}
