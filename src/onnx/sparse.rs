//! `SparseTensorProto`: what is not zero of a tensor, and where.

use super::Tensor;
use super::proto::{DATA_LOCATION_EXTERNAL, SparseTensorProto, TensorProto, data_type};
use super::tensor::{TensorError, Values, element_bytes};

/// Elements that a sparse tensor may have for each one that it stores, beyond [`SMALL`]: its room in
/// memory follows from what the file holds, not from what it claims.
const MOST_PER_STORED: usize = 1024;

/// Elements that any sparse tensor may have.
const SMALL: usize = 1 << 20;

/// Bytes of the messages around one tensor's numbers, about.
const AROUND: usize = 32;

impl Tensor {
    /// Decodes a sparse tensor to a dense one. Its indices may be those of the flattened tensor,
    /// `[stored]`, or coordinates, `[stored, rank]`.
    pub fn decode_sparse(proto: SparseTensorProto) -> Result<(String, Self), TensorError> {
        let values = proto.values.unwrap_or_default();
        let name = values.name.clone().unwrap_or_default();
        let bad = |why: &str| TensorError::Sparse {
            name: name.clone(),
            why: why.to_owned(),
        };
        let indices = proto.indices.ok_or_else(|| bad("has no indices"))?;
        for part in [&values, &indices] {
            if part.data_location == Some(DATA_LOCATION_EXTERNAL) {
                return Err(bad(
                    "has its numbers in another file; store them in the model",
                ));
            }
        }
        let stored = Self::decode(values)?;
        let indices = Self::decode(indices)?;
        let places = indices
            .ints()
            .ok_or_else(|| bad("has indices that are not int64"))?;
        let dims: Option<Vec<usize>> = proto
            .dims
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect();
        let dims = dims.ok_or_else(|| bad("has a negative dimension"))?;
        let most = stored.elements().saturating_mul(MOST_PER_STORED).max(SMALL);
        let count = dims
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .filter(|&count| count <= most)
            .ok_or_else(|| TensorError::TooManyElements {
                name: name.clone(),
                dims: proto.dims.clone(),
            })?;
        let flat: Vec<usize> = match indices.dims.as_slice() {
            [stored_places] if *stored_places == stored.elements() => places
                .iter()
                .map(|&place| usize::try_from(place).unwrap_or(usize::MAX))
                .collect(),
            [stored_places, rank] if *stored_places == stored.elements() && *rank == dims.len() => {
                places
                    .chunks_exact((*rank).max(1))
                    .map(|place| {
                        place
                            .iter()
                            .zip(&dims)
                            .fold(0usize, |flat, (&index, &size)| {
                                match usize::try_from(index) {
                                    Ok(index) if index < size && flat != usize::MAX => {
                                        flat * size + index
                                    }
                                    _ => usize::MAX,
                                }
                            })
                    })
                    .collect()
            }
            _ => return Err(bad("has indices whose shape does not fit its values")),
        };
        if flat.iter().any(|&place| place >= count) {
            return Err(bad("has an index outside of its shape"));
        }
        let kind = stored.data_type;
        let mut dense = match &stored.values {
            Values::Float(values) => {
                let mut all = vec![0.0; count];
                flat.iter().zip(values).for_each(|(&at, &v)| all[at] = v);
                Self::float(dims, all)
            }
            Values::Int(values) => {
                let mut all = vec![0; count];
                flat.iter().zip(values).for_each(|(&at, &v)| all[at] = v);
                Self::int(dims, all)
            }
            Values::Opaque => return Err(bad("is of a type that is not computed with")),
        };
        dense.data_type = kind;
        Ok((name, dense))
    }

    /// The sparse form of float32 weights, with the indices of the flattened tensor; `None` where it would
    /// not be smaller, and for other types.
    pub fn encode_sparse(&self, name: &str) -> Option<SparseTensorProto> {
        let values = self.floats()?;
        let kept: Vec<usize> = (0..values.len()).filter(|&at| values[at] != 0.0).collect();
        let width = element_bytes(self.data_type)?;
        let bytes = kept.len() * (width + size_of::<i64>()) + AROUND;
        // An empty tensor of values is refused by some readers.
        if self.data_type != data_type::FLOAT || kept.is_empty() || bytes >= values.len() * width {
            return None;
        }
        let part = |tensor: &Self, name: &str| TensorProto {
            name: (!name.is_empty()).then(|| name.to_owned()),
            ..tensor.encode("")
        };
        let stored = Self::float(
            vec![kept.len()],
            kept.iter().map(|&at| values[at]).collect(),
        );
        let indices = Self::int(vec![kept.len()], kept.iter().map(|&at| at as i64).collect());
        Some(SparseTensorProto {
            values: Some(part(&stored, name)),
            indices: Some(part(&indices, "")),
            dims: self.dims.iter().map(|&size| size as i64).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(
        stored: &[f32],
        places: Vec<i64>,
        shape: Vec<usize>,
        dims: Vec<i64>,
    ) -> SparseTensorProto {
        SparseTensorProto {
            values: Some(Tensor::float(vec![stored.len()], stored.to_vec()).encode("w")),
            indices: Some(Tensor::int(shape, places).encode("")),
            dims,
        }
    }

    #[test]
    fn flat_indices_and_coordinates_name_the_same_elements() {
        let flat = sparse(&[1.0, 2.0], vec![1, 5], vec![2], vec![2, 3]);
        let coordinates = sparse(&[1.0, 2.0], vec![0, 1, 1, 2], vec![2, 2], vec![2, 3]);
        let dense = Tensor::float(vec![2, 3], vec![0.0, 1.0, 0.0, 0.0, 0.0, 2.0]);
        assert_eq!(
            Tensor::decode_sparse(flat),
            Ok(("w".to_owned(), dense.clone()))
        );
        assert_eq!(
            Tensor::decode_sparse(coordinates),
            Ok(("w".to_owned(), dense))
        );
    }

    #[test]
    fn what_is_written_reads_as_it_was_and_is_written_only_where_it_saves() {
        let mut values = vec![0.0; 100];
        values[7] = -1.5;
        let tensor = Tensor::float(vec![10, 10], values);
        let proto = tensor.encode_sparse("w").unwrap();
        assert_eq!(Tensor::decode_sparse(proto), Ok(("w".to_owned(), tensor)));
        let half = (0..100).map(|at| (at % 2) as f32).collect();
        assert!(Tensor::float(vec![100], half).encode_sparse("w").is_none());
    }

    #[test]
    fn claims_and_indices_are_held_against_what_is_there() {
        let wide = sparse(&[1.0], vec![0], vec![1], vec![1 << 40, 1 << 40]);
        assert!(matches!(
            Tensor::decode_sparse(wide),
            Err(TensorError::TooManyElements { .. })
        ));
        let large = sparse(&[1.0], vec![0], vec![1], vec![1 << 30]);
        assert!(Tensor::decode_sparse(large).is_err());
        for places in [vec![6], vec![-1]] {
            let outside = sparse(&[1.0], places, vec![1], vec![2, 3]);
            assert!(matches!(
                Tensor::decode_sparse(outside),
                Err(TensorError::Sparse { .. })
            ));
        }
        let few = sparse(&[1.0, 2.0], vec![0], vec![1], vec![2, 3]);
        assert!(Tensor::decode_sparse(few).is_err());
    }
}
