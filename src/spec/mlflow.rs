//! Models that come from MLflow: `{"mlflow": "models:/NAME@ALIAS"}`.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Which model a new job is for: the id of one that the service has, or a version that MLflow has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ModelSource {
    Id(Uuid),
    Mlflow(FromMlflow),
}

/// A version of a registered model. It is fetched when the job is submitted, once for each project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FromMlflow {
    /// `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
    #[schema(value_type = String, example = "models:/lenet@champion")]
    pub mlflow: RegisteredModel,
}

/// A version of a registered model, by its number or an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredModel {
    pub name: String,
    pub which: Which,
}

/// Which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    Version(u64),
    Alias(String),
}

/// What a reference to a version must be like.
const FORM: &str = "must be like `models:/NAME/VERSION` or `models:/NAME@ALIAS`";

impl std::str::FromStr for RegisteredModel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("models:/").ok_or(FORM)?;
        let (name, which) = match path.rsplit_once('@') {
            Some((name, alias)) if !alias.contains('/') => (name, Which::Alias(alias.to_owned())),
            _ => {
                let (name, version) = path.rsplit_once('/').ok_or(FORM)?;
                (name, Which::Version(version.parse().map_err(|_| FORM)?))
            }
        };
        // MLflow allows neither in the name of a registered model.
        let well_named = !name.is_empty() && !name.contains(['/', ':']);
        let well_aliased = which != Which::Alias(String::new());
        if !well_named || !well_aliased {
            return Err(FORM);
        }
        Ok(Self {
            name: name.to_owned(),
            which,
        })
    }
}

impl fmt::Display for RegisteredModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Version(number) => write!(formatter, "models:/{}/{number}", self.name),
            Which::Alias(alias) => write!(formatter, "models:/{}@{alias}", self.name),
        }
    }
}

impl Serialize for RegisteredModel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RegisteredModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ModelSource {
    /// By hand, so that a fault in either form is told as such.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ModelSource;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(r#"the id of a model, or {"mlflow": "models:/NAME@ALIAS"}"#)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ModelSource, E> {
                text.parse().map(ModelSource::Id).map_err(|_| {
                    E::custom(
                        "must be the id of a model, a UUID as `GET /v1/models` lists them, with `?name=` those of one name",
                    )
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelSource, A::Error> {
                let fields = de::value::MapAccessDeserializer::new(map);
                FromMlflow::deserialize(fields).map(ModelSource::Mlflow)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_by_number_or_alias() {
        for text in ["models:/lenet/3", "models:/lenet@champion", "models:/a@b/3"] {
            assert_eq!(text.parse::<RegisteredModel>().unwrap().to_string(), text);
        }
        for text in [
            "lenet",
            "models:/lenet",
            "models:/lenet/latest",
            "models:/@x",
            "models:/a/b@x",
            "models:/a@",
        ] {
            assert!(text.parse::<RegisteredModel>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_is_an_id_or_an_object() {
        let read = |text: &str| serde_json::from_str::<ModelSource>(text);
        let id = Uuid::nil();
        assert_eq!(read(&format!("\"{id}\"")).unwrap(), ModelSource::Id(id));
        assert!(matches!(
            read(r#"{"mlflow": "models:/a/1"}"#),
            Ok(ModelSource::Mlflow(_))
        ));
        assert!(read(r#"{"mlflow": "models:/a/1", "more": 1}"#).is_err());
        assert!(
            read("7")
                .unwrap_err()
                .to_string()
                .contains("models:/NAME@ALIAS")
        );
    }
}
