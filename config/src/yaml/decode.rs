//! Decodes trees into types with serde. Errors have the position and the path of the invalid value.

use std::fmt;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};

use super::{Entry, Node, Position, Value};
use crate::problem::nearest;

/// One step of a path: the index of an element of a list, or of an entry of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step(pub(crate) usize);

/// Why a value cannot be decoded as its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodeError {
    pub(crate) message: String,
    pub(crate) help: String,
    /// The position of the value.
    pub(crate) at: Option<Position>,
    /// The path of the value from the root of the tree.
    pub(crate) path: Vec<Step>,
    /// Whether a part of the value is missing, rather than invalid.
    pub(crate) lacking: bool,
}

/// Decodes a value of type `T`.
pub(crate) fn decode<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, DecodeError> {
    T::deserialize(node).map_err(|error| error.with_position(node.at)).map_err(|mut error| {
        error.path.reverse();
        error
    })
}

// === impl DecodeError ===

impl DecodeError {
    fn new(message: String, help: String) -> Self {
        Self { message, help, at: None, path: Vec::new(), lacking: false }
    }

    fn with_position(mut self, at: Position) -> Self {
        self.at.get_or_insert(at);
        self
    }

    /// Adds a step to the path, which is collected from the inside out and reversed at the end.
    fn with_step(mut self, index: usize, at: Position) -> Self {
        self.path.push(Step(index));
        self.with_position(at)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), "correct the value".to_owned())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let help = match unexpected {
            Unexpected::Bool(_)
            | Unexpected::Signed(_)
            | Unexpected::Unsigned(_)
            | Unexpected::Float(_)
                if expected.to_string().contains("string") =>
            {
                "put the value in quotes".to_owned()
            }
            _ => format!("write {}", expectation(expected)),
        };
        Self::new(format!("expected {}, found {unexpected}", expectation(expected)), help)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(
            format!("expected {}, found {unexpected}", expectation(expected)),
            format!("write {}", expectation(expected)),
        )
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let help = match nearest(field, expected.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if expected.is_empty() => "remove it: no keys are allowed here".to_owned(),
            None => format!("known keys are {}", listed(expected)),
        };
        Self::new("unknown key".to_owned(), help)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let help = match nearest(variant, expected.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", listed(expected)),
        };
        Self::new(format!("unknown value `{variant}`"), help)
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            lacking: true,
            ..Self::new(format!("the key `{field}` is missing"), format!("add `{field}`"))
        }
    }
}

/// The expected type, in words for users who do not know Rust.
fn expectation(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" | "i32" | "i64" => "a whole number".to_owned(),
        _ if text.starts_with("a nonzero ") => "a whole number from 1 on".to_owned(),
        _ if text.starts_with("struct ") || text == "a map" => {
            "a map of keys and values".to_owned()
        }
        _ if text == "a sequence" => "a list".to_owned(),
        _ => text,
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

// === impl Deserializer for &Node ===

impl Value {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Other("nothing"),
            Self::Bool(value) => Unexpected::Bool(*value),
            Self::Integer(value) => Unexpected::Signed(*value),
            Self::Unsigned(value) => Unexpected::Unsigned(*value),
            Self::Float(value) => Unexpected::Float(*value),
            Self::Text(_) => Unexpected::Other("a text"),
            Self::List(_) => Unexpected::Other("a list"),
            Self::Map(_) => Unexpected::Other("a map"),
        }
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(list) => visitor.visit_seq(Elements { list: list.iter().enumerate() }),
            Value::Map(entries) => {
                visitor.visit_map(Entries { entries: entries.iter().enumerate(), value: None })
            }
        }
        .map_err(|error: DecodeError| error.with_position(self.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// `key:` without a value is a struct with all defaults.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Null => {
                visitor.visit_map(Entries { entries: [].iter().enumerate(), value: None })
            }
            _ => return self.deserialize_any(visitor),
        }
        .map_err(|error: DecodeError| error.with_position(self.at))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let wrong = |value: &Value| {
            DecodeError::new(
                format!("expected one of {}, found {}", listed(variants), value.unexpected()),
                format!("write one of {}", listed(variants)),
            )
        };
        match &self.value {
            Value::Text(name) => visitor.visit_enum(NameAlone(name)),
            Value::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant(entry)),
                _ => Err(DecodeError { lacking: entries.is_empty(), ..wrong(&self.value) }),
            },
            value => Err(wrong(value)),
        }
        .map_err(|error| error.with_position(self.at))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier
    }
}

struct Elements<'de> {
    list: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        self.list
            .next()
            .map(|(index, node)| {
                seed.deserialize(node).map_err(|error| error.with_step(index, node.at))
            })
            .transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len())
    }
}

struct Entries<'de> {
    entries: std::iter::Enumerate<std::slice::Iter<'de, Entry>>,
    value: Option<(usize, &'de Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Some((index, entry)) = self.entries.next() else { return Ok(None) };
        self.value = Some((index, &entry.node));
        seed.deserialize(entry.key.as_str().into_deserializer())
            .map(Some)
            .map_err(|error: DecodeError| error.with_step(index, entry.key_at))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        let (index, node) =
            self.value.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        seed.deserialize(node).map_err(|error| error.with_step(index, node.at))
    }
}

/// A map with one entry as an enum variant: its name and its content.
struct Variant<'de>(&'de Entry);

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        seed.deserialize(self.0.key.as_str().into_deserializer())
            .map(|variant| (variant, self))
            .map_err(|error: DecodeError| error.with_step(0, self.0.key_at))
    }
}

impl Copy for Variant<'_> {}

impl Clone for Variant<'_> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Err(DecodeError::new(
            format!("`{}` takes nothing below it", self.0.key),
            "write it as a plain text".to_owned(),
        ))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        seed.deserialize(&self.0.node).map_err(|error| error.with_step(0, self.0.node.at))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.0.node.deserialize_any(visitor).map_err(|error| error.with_step(0, self.0.node.at))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.0
            .node
            .deserialize_struct("", fields, visitor)
            .map_err(|error| error.with_step(0, self.0.node.at))
    }
}

/// An enum variant given by its name alone.
struct NameAlone<'de>(&'de str);

impl<'de> de::EnumAccess<'de> for NameAlone<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        Ok((seed.deserialize(de::value::BorrowedStrDeserializer::new(self.0))?, self))
    }
}

impl NameAlone<'_> {
    fn bare(&self) -> DecodeError {
        DecodeError::new(
            format!("`{}` needs something below it", self.0),
            format!("write `{}:` as a key, and its content below it", self.0),
        )
    }
}

impl<'de> de::VariantAccess<'de> for NameAlone<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, DecodeError> {
        Err(self.bare())
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, DecodeError> {
        Err(self.bare())
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, DecodeError> {
        Err(self.bare())
    }
}
