//! Number formats: what each data type can hold, and how a file stores it.
//!
//! Sources: IEEE 754-2019 for binary16, bfloat16 as its shortened binary32, the ONNX pages "Float stored
//! in 8 bits" and "Float stored in 4 bits" for the small types, `onnx.proto` for where a tensor's elements
//! stand.

use super::array::{Array, Data, is_float};
use crate::graph::params::RuleError;
use crate::onnx::dtype_name;
use crate::onnx::proto::{DATA_LOCATION_EXTERNAL, TensorProto, data_type};

/// What a format does with its highest bit patterns.
#[derive(Clone, Copy, PartialEq)]
enum Top {
    /// The highest exponent is for infinity and NaN.
    Ieee,
    /// No infinity; NaN has all bits set but the sign (`FN`).
    OneNan,
    /// No infinity and no negative zero, whose pattern is NaN (`FNUZ`).
    NoNegativeZero,
    /// Numbers only.
    Finite,
}

/// A binary floating-point format of at most 16 bits: a sign, then exponent, then fraction.
#[derive(Clone, Copy)]
struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
    bias: i32,
    largest: f64,
    top: Top,
}

impl Format {
    const fn new(
        exponent_bits: u32,
        fraction_bits: u32,
        bias: i32,
        largest: f64,
        top: Top,
    ) -> Self {
        Self {
            exponent_bits,
            fraction_bits,
            bias,
            largest,
            top,
        }
    }

    /// The format of `kind`; `None` for the wider types and float8e8m0, which has no sign.
    fn of(kind: i32) -> Option<Self> {
        use data_type::*;
        Some(match kind {
            FLOAT16 => Self::new(5, 10, 15, 65504.0, Top::Ieee),
            BFLOAT16 => Self::new(8, 7, 127, LARGEST_BFLOAT16, Top::Ieee),
            FLOAT8E4M3FN => Self::new(4, 3, 7, 448.0, Top::OneNan),
            FLOAT8E4M3FNUZ => Self::new(4, 3, 8, 240.0, Top::NoNegativeZero),
            FLOAT8E5M2 => Self::new(5, 2, 15, 57344.0, Top::Ieee),
            FLOAT8E5M2FNUZ => Self::new(5, 2, 16, 57344.0, Top::NoNegativeZero),
            FLOAT4E2M1 => Self::new(2, 1, 1, 6.0, Top::Finite),
            _ => return None,
        })
    }

    /// Exponent of the smallest normal number.
    fn least_exponent(&self) -> i32 {
        1 - self.bias
    }

    /// `value` rounded to nearest, ties to even.
    fn round(&self, value: f64) -> f64 {
        let magnitude = value.abs();
        if magnitude == 0.0 {
            return if self.top == Top::NoNegativeZero {
                0.0
            } else {
                value
            };
        }
        if value.is_nan() {
            return if self.top == Top::Finite { 0.0 } else { value };
        }
        if magnitude.is_infinite() {
            return self.overflow(value);
        }
        let step = exponent_of(magnitude).max(self.least_exponent()) - self.fraction_bits as i32;
        let rounded = (magnitude * power_of_two(-step)).round_ties_even() * power_of_two(step);
        if rounded > self.largest {
            return self.overflow(value);
        }
        if rounded == 0.0 && self.top == Top::NoNegativeZero {
            return 0.0;
        }
        rounded.copysign(value)
    }

    /// What stands for a number beyond the largest one.
    fn overflow(&self, value: f64) -> f64 {
        match self.top {
            Top::Ieee => f64::INFINITY.copysign(value),
            Top::OneNan | Top::NoNegativeZero => f64::NAN,
            Top::Finite => self.largest.copysign(value),
        }
    }

    /// The number that `bits` stand for.
    fn decode(&self, bits: u16) -> f64 {
        let bits = u64::from(bits);
        let fraction = bits & ((1 << self.fraction_bits) - 1);
        let exponent = (bits >> self.fraction_bits) & ((1 << self.exponent_bits) - 1);
        let negative = (bits >> (self.fraction_bits + self.exponent_bits)) & 1 == 1;
        let highest = exponent == (1 << self.exponent_bits) - 1;
        let magnitude = match self.top {
            Top::Ieee if highest && fraction == 0 => f64::INFINITY,
            Top::Ieee if highest => f64::NAN,
            Top::OneNan if highest && fraction == (1 << self.fraction_bits) - 1 => f64::NAN,
            Top::NoNegativeZero if negative && exponent == 0 && fraction == 0 => f64::NAN,
            _ if exponent == 0 => {
                fraction as f64 * power_of_two(self.least_exponent() - self.fraction_bits as i32)
            }
            _ => {
                let exponent = (exponent as i64 - i64::from(self.bias) + 1023) as u64;
                f64::from_bits(exponent << 52 | fraction << (52 - self.fraction_bits))
            }
        };
        if negative { -magnitude } else { magnitude }
    }

    /// The bits of the number nearest to `value`.
    fn encode(&self, value: f64) -> u16 {
        let value = self.round(value);
        let sign = u16::from(value.is_sign_negative()) << (self.exponent_bits + self.fraction_bits);
        let highest = ((1u16 << self.exponent_bits) - 1) << self.fraction_bits;
        if value.is_nan() {
            return match self.top {
                Top::Ieee => sign | highest | 1 << (self.fraction_bits - 1),
                Top::OneNan => sign | highest | ((1 << self.fraction_bits) - 1),
                _ => 1 << (self.exponent_bits + self.fraction_bits),
            };
        }
        if value.is_infinite() {
            return sign | highest;
        }
        let magnitude = value.abs();
        if magnitude < power_of_two(self.least_exponent()) {
            let step = self.least_exponent() - self.fraction_bits as i32;
            return sign | (magnitude * power_of_two(-step)) as u16;
        }
        let exponent = (exponent_of(magnitude) + self.bias) as u16;
        let fraction = magnitude.to_bits() << 12 >> (64 - self.fraction_bits);
        sign | exponent << self.fraction_bits | fraction as u16
    }
}

/// (2 - 2^-7) * 2^127.
const LARGEST_BFLOAT16: f64 = 255.0 * (1u128 << 120) as f64;

/// The exponent of a finite number above zero.
fn exponent_of(magnitude: f64) -> i32 {
    (magnitude.to_bits() >> 52) as i32 - 1023
}

/// 2^`exponent`, for exponents of normal float64 numbers.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// How float8e8m0 rounds a number between two powers of two (attribute `round_mode` of Cast).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PowerRounding {
    Up,
    Down,
    /// Halfway goes up.
    Nearest,
}

/// `value` as float8e8m0: a power of two from 2^-127 to 2^127, or NaN. Numbers beyond become the nearest
/// of these where `saturate`, NaN otherwise.
pub(super) fn round_power(value: f64, rounding: PowerRounding, saturate: bool) -> f64 {
    const LEAST: f64 = 1.0 / (1u128 << 127) as f64;
    const LARGEST: f64 = (1u128 << 127) as f64;
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return f64::NAN;
    }
    let rounded = if magnitude < LEAST || magnitude.is_infinite() {
        magnitude
    } else {
        let below = power_of_two(exponent_of(magnitude));
        let up = match rounding {
            PowerRounding::Up => magnitude > below,
            PowerRounding::Down => false,
            PowerRounding::Nearest => magnitude >= 1.5 * below,
        };
        if up { 2.0 * below } else { below }
    };
    match rounded {
        _ if (LEAST..=LARGEST).contains(&rounded) => rounded,
        _ if saturate => rounded.clamp(LEAST, LARGEST),
        _ => f64::NAN,
    }
}

/// `value` rounded to what the floating-point type `kind` holds, to nearest, ties to even. Beyond the
/// largest number is infinity, or what the type has in its place.
pub(super) fn round_float(kind: i32, value: f64) -> f64 {
    match kind {
        data_type::FLOAT => f64::from(value as f32),
        data_type::FLOAT8E8M0 => round_power(value, PowerRounding::Nearest, false),
        _ => match Format::of(kind) {
            Some(format) => format.round(value),
            None => value,
        },
    }
}

/// The largest finite number of the floating-point type `kind`.
pub(super) fn largest_float(kind: i32) -> f64 {
    match kind {
        data_type::FLOAT => f64::from(f32::MAX),
        data_type::FLOAT8E8M0 => power_of_two(127),
        _ => Format::of(kind).map_or(f64::MAX, |format| format.largest),
    }
}

/// Bits of one element of an integer type or bool, and whether the type has a sign.
pub(super) fn int_bits(kind: i32) -> (u32, bool) {
    use data_type::*;
    match kind {
        INT8 => (8, true),
        UINT8 => (8, false),
        INT16 => (16, true),
        UINT16 => (16, false),
        INT32 => (32, true),
        UINT32 => (32, false),
        UINT64 => (64, false),
        UINT4 => (4, false),
        INT4 => (4, true),
        UINT2 => (2, false),
        INT2 => (2, true),
        BOOL => (1, false),
        _ => (64, true),
    }
}

/// The least and the greatest number of an integer type.
pub(super) fn int_range(kind: i32) -> (i128, i128) {
    match int_bits(kind) {
        (bits, true) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        (bits, false) => (0, (1 << bits) - 1),
    }
}

/// `value` wrapped to what the integer type `kind` holds; for bool, whether it is not zero.
pub(super) fn wrap_int(kind: i32, value: i64) -> i64 {
    match int_bits(kind) {
        _ if kind == data_type::BOOL => i64::from(value != 0),
        (bits, true) => value << (64 - bits) >> (64 - bits),
        (bits, false) => ((value as u64) << (64 - bits) >> (64 - bits)) as i64,
    }
}

/// How many elements of `kind` share a byte.
fn packed(kind: i32) -> usize {
    use data_type::*;
    match kind {
        UINT4 | INT4 | FLOAT4E2M1 => 2,
        UINT2 | INT2 => 4,
        _ => 1,
    }
}

/// Bits of one element in a file; `None` for strings and unknown types.
pub(super) fn element_bits(kind: i32) -> Option<u32> {
    use data_type::*;
    match kind {
        FLOAT => Some(32),
        DOUBLE => Some(64),
        BOOL | FLOAT8E8M0 => Some(8),
        INT8 | INT16 | INT32 | INT64 | UINT8 | UINT16 | UINT32 | UINT64 | UINT4 | INT4 | UINT2
        | INT2 => Some(int_bits(kind).0),
        _ => Format::of(kind).map(|format| 1 + format.exponent_bits + format.fraction_bits),
    }
}

/// The tensor that `proto` holds. Nothing is allocated for elements that the message does not hold.
pub(super) fn decode(proto: &TensorProto) -> Result<Array, RuleError> {
    let kind = proto.data_type.unwrap_or_default();
    if proto.data_location == Some(DATA_LOCATION_EXTERNAL) {
        return Err(unreadable(proto, "keeps its data in another file"));
    }
    let mut dims = Vec::with_capacity(proto.dims.len());
    let mut bound = 1usize;
    for &size in &proto.dims {
        let size = usize::try_from(size)
            .map_err(|_| unreadable(proto, &format!("has a size of {size}")))?;
        // A zero does not excuse what stands beside it: parts of the shape are multiplied too.
        bound = bound
            .checked_mul(size.max(1))
            .filter(|&bound| bound < isize::MAX as usize / 16)
            .ok_or_else(|| unreadable(proto, "claims more elements than fit in memory"))?;
        dims.push(size);
    }
    let count: usize = dims.iter().product();
    let raw = proto.raw_data.as_deref().filter(|raw| !raw.is_empty());
    let data = if kind == data_type::STRING {
        held(proto, proto.string_data.len(), count)?;
        Data::Text(proto.string_data.clone())
    } else {
        match raw {
            Some(raw) => decode_raw(proto, kind, raw, count)?,
            None => decode_fields(proto, kind, count)?,
        }
    };
    Ok(Array {
        data_type: kind,
        dims,
        data,
    })
}

fn unreadable(proto: &TensorProto, what: &str) -> RuleError {
    let name = proto.name.as_deref().unwrap_or_default();
    RuleError::new(format!("has a tensor `{name}` that {what}"))
}

/// Refuses a tensor that stores another number of units than it needs.
fn held(proto: &TensorProto, found: usize, needed: usize) -> Result<(), RuleError> {
    if found == needed {
        return Ok(());
    }
    Err(unreadable(
        proto,
        &format!(
            "holds {found} units of data, where its shape {:?} needs {needed}",
            proto.dims
        ),
    ))
}

/// The elements in `raw_data`: little endian, small ones packed from the lowest bits on.
fn decode_raw(proto: &TensorProto, kind: i32, raw: &[u8], count: usize) -> Result<Data, RuleError> {
    use data_type::*;
    let width = match kind {
        DOUBLE | INT64 | UINT64 => 8,
        FLOAT | INT32 | UINT32 => 4,
        FLOAT16 | BFLOAT16 | INT16 | UINT16 => 2,
        _ => 1,
    };
    held(proto, raw.len(), count.div_ceil(packed(kind)) * width)?;
    Ok(match kind {
        FLOAT => Data::Float(each(raw, |b| f64::from(f32::from_le_bytes(b)))),
        DOUBLE => Data::Float(each(raw, f64::from_le_bytes)),
        INT64 | UINT64 => Data::Int(each(raw, i64::from_le_bytes)),
        INT32 => Data::Int(each(raw, |b| i32::from_le_bytes(b).into())),
        UINT32 => Data::Int(each(raw, |b| u32::from_le_bytes(b).into())),
        _ if width == 2 => {
            let units = raw.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b));
            decode_units(proto, kind, units, count)?
        }
        _ => decode_units(proto, kind, raw.iter().map(|&b| b.into()), count)?,
    })
}

/// The elements in the field of `proto` that belongs to `kind`.
fn decode_fields(proto: &TensorProto, kind: i32, count: usize) -> Result<Data, RuleError> {
    use data_type::*;
    Ok(match kind {
        FLOAT => {
            held(proto, proto.float_data.len(), count)?;
            Data::Float(proto.float_data.iter().map(|&v| v.into()).collect())
        }
        DOUBLE => {
            held(proto, proto.double_data.len(), count)?;
            Data::Float(proto.double_data.clone())
        }
        INT64 => {
            held(proto, proto.int64_data.len(), count)?;
            Data::Int(proto.int64_data.clone())
        }
        UINT32 | UINT64 => {
            held(proto, proto.uint64_data.len(), count)?;
            let values = proto.uint64_data.iter();
            Data::Int(values.map(|&v| wrap_int(kind, v as i64)).collect())
        }
        INT32 => {
            held(proto, proto.int32_data.len(), count)?;
            Data::Int(proto.int32_data.iter().map(|&v| v.into()).collect())
        }
        _ => {
            held(proto, proto.int32_data.len(), count.div_ceil(packed(kind)))?;
            let units = proto.int32_data.iter().map(|&v| v as u16);
            decode_units(proto, kind, units, count)?
        }
    })
}

/// Elements of at most 16 bits, from their bits.
fn decode_units(
    proto: &TensorProto,
    kind: i32,
    units: impl Iterator<Item = u16>,
    count: usize,
) -> Result<Data, RuleError> {
    if kind == data_type::FLOAT8E8M0 {
        return Ok(Data::Float(units.map(decode_power).collect()));
    }
    let format = Format::of(kind);
    if format.is_none() && int_bits(kind).0 > 16 {
        return Err(unreadable(
            proto,
            &format!("is of type {}, which is not supported", dtype_name(kind)),
        ));
    }
    let share = packed(kind);
    let width = 8 / share;
    let parts = |unit: u16| (0..share).map(move |place| unit >> (place * width));
    Ok(match format {
        Some(format) if share == 1 => Data::Float(units.map(|bits| format.decode(bits)).collect()),
        Some(format) => {
            let bits = units.flat_map(parts).take(count);
            Data::Float(bits.map(|bits| format.decode(bits)).collect())
        }
        None if share == 1 => Data::Int(units.map(|bits| wrap_int(kind, bits.into())).collect()),
        None => {
            let bits = units.flat_map(parts).take(count);
            Data::Int(bits.map(|bits| wrap_int(kind, bits.into())).collect())
        }
    })
}

fn decode_power(bits: u16) -> f64 {
    match bits & 0xff {
        0xff => f64::NAN,
        exponent => power_of_two(i32::from(exponent) - 127),
    }
}

fn encode_power(value: f64) -> u8 {
    match round_float(data_type::FLOAT8E8M0, value) {
        power if power.is_nan() => 0xff,
        power => (exponent_of(power) + 127) as u8,
    }
}

/// `array` as `TensorProto` with raw data, or `string_data` for strings.
pub(super) fn encode(array: &Array, name: &str) -> TensorProto {
    let mut proto = TensorProto {
        dims: array.dims.iter().map(|&size| size as i64).collect(),
        data_type: Some(array.data_type),
        name: Some(name.to_owned()),
        ..TensorProto::default()
    };
    match &array.data {
        Data::Text(values) => proto.string_data = values.clone(),
        Data::Float(values) => proto.raw_data = Some(encode_floats(array.data_type, values)),
        Data::Int(values) => proto.raw_data = Some(encode_ints(array.data_type, values)),
    }
    proto
}

fn encode_floats(kind: i32, values: &[f64]) -> Vec<u8> {
    debug_assert!(is_float(kind), "{kind}");
    match Format::of(kind) {
        _ if kind == data_type::FLOAT => bytes(values, |v| (v as f32).to_le_bytes()),
        _ if kind == data_type::FLOAT8E8M0 => values.iter().map(|&v| encode_power(v)).collect(),
        None => bytes(values, f64::to_le_bytes),
        Some(format) if format.exponent_bits + format.fraction_bits == 15 => {
            bytes(values, |v| format.encode(v).to_le_bytes())
        }
        Some(format) => pack(kind, values.iter().map(|&v| format.encode(v) as u8)),
    }
}

fn encode_ints(kind: i32, values: &[i64]) -> Vec<u8> {
    match int_bits(kind).0 {
        64 => bytes(values, i64::to_le_bytes),
        32 => bytes(values, |v| (v as i32).to_le_bytes()),
        16 => bytes(values, |v| (v as i16).to_le_bytes()),
        _ => pack(kind, values.iter().map(|&v| v as u8)),
    }
}

/// Elements of at most a byte, as many to each byte as `kind` puts there.
fn pack(kind: i32, values: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
    let share = packed(kind);
    if share == 1 {
        return values.collect();
    }
    let width = 8 / share;
    let mut out = vec![0; values.len().div_ceil(share)];
    for (index, value) in values.enumerate() {
        let low = value & ((1 << width) - 1);
        out[index / share] |= low << (index % share * width);
    }
    out
}

fn each<const N: usize, T>(raw: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&c| decode(c)).collect()
}

fn bytes<const N: usize, T: Copy>(values: &[T], encode: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * N);
    values.iter().for_each(|&v| out.extend(encode(v)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_type::*;

    /// Numbers of the pages "Float stored in 8 bits" and "Float stored in 4 bits" of ONNX and of the
    /// Microscaling specification 1.0.
    #[test]
    fn the_edges_of_the_small_formats_are_where_their_specifications_put_them() {
        for (kind, bits, value) in [
            (FLOAT16, 0x0001, 5.960464477539063e-8),
            (FLOAT16, 0x7bff, 65504.0),
            (BFLOAT16, 0x7f7f, 3.3895313892515355e38),
            (FLOAT8E4M3FN, 0x01, 0.001953125),
            (FLOAT8E4M3FN, 0x7e, 448.0),
            (FLOAT8E4M3FNUZ, 0x01, 0.0009765625),
            (FLOAT8E4M3FNUZ, 0x7f, 240.0),
            (FLOAT8E5M2, 0x01, 1.52587890625e-5),
            (FLOAT8E5M2, 0x7b, 57344.0),
            (FLOAT8E5M2FNUZ, 0x01, 7.62939453125e-6),
            (FLOAT8E5M2FNUZ, 0x7f, 57344.0),
            (FLOAT4E2M1, 0x1, 0.5),
            (FLOAT4E2M1, 0x7, 6.0),
        ] {
            let format = Format::of(kind).unwrap();
            assert_eq!(format.decode(bits), value, "{kind}");
            assert_eq!(format.encode(value), bits, "{kind}");
        }
        assert_eq!(decode_power(0), 2f64.powi(-127));
        assert_eq!(decode_power(254), 2f64.powi(127));
    }

    #[test]
    fn every_bit_pattern_survives_the_way_through_float64() {
        for kind in [
            FLOAT16,
            BFLOAT16,
            FLOAT8E4M3FN,
            FLOAT8E4M3FNUZ,
            FLOAT8E5M2,
            FLOAT8E5M2FNUZ,
            FLOAT4E2M1,
        ] {
            let format = Format::of(kind).unwrap();
            for bits in 0..=u16::MAX >> (15 - format.exponent_bits - format.fraction_bits) {
                let value = format.decode(bits);
                if value.is_nan() {
                    assert!(format.decode(format.encode(value)).is_nan());
                } else {
                    assert_eq!(format.encode(value), bits, "{kind}: {value}");
                }
            }
        }
        (0..255).for_each(|bits| assert_eq!(u16::from(encode_power(decode_power(bits))), bits));
    }

    #[test]
    fn packed_elements_start_in_the_lowest_bits() {
        let array = Array::int(INT4, vec![3], vec![-8, 7, -1]);
        let proto = encode(&array, "x");
        assert_eq!(proto.raw_data.as_deref(), Some(&[0x78, 0x0f][..]));
        assert_eq!(decode(&proto).unwrap(), array);
        let array = Array::int(UINT2, vec![5], vec![3, 0, 1, 2, 3]);
        let proto = encode(&array, "x");
        assert_eq!(proto.raw_data.as_deref(), Some(&[0b1001_0011, 3][..]));
        assert_eq!(decode(&proto).unwrap(), array);
    }

    #[test]
    fn a_tensor_that_claims_more_than_it_holds_is_refused() {
        for dims in [
            vec![1 << 30, 1 << 30],
            vec![0, 1 << 40, 1 << 40],
            vec![2],
            vec![-1],
        ] {
            let proto = TensorProto {
                dims,
                data_type: Some(FLOAT),
                raw_data: Some(vec![0; 4]),
                ..TensorProto::default()
            };
            assert!(decode(&proto).is_err());
        }
    }
}
