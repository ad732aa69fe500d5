// SPDX-License-Identifier: MPL-2.0

//! Reads the tables of a manifest. Every error names file, field, what was expected and what was found.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use toml::{Table, Value};

use super::error::{BundleError, alternatives, plain, quote};

/// A table of the manifest, and where it is.
pub(super) struct Fields<'a> {
    file: &'a Path,
    /// Dotted path of the table, empty for the whole manifest.
    at: String,
    table: &'a Table,
}

impl<'a> Fields<'a> {
    /// The table at `at`, which may have the fields `known` and no others, so that a typing error does not go unseen.
    pub fn new(file: &'a Path, at: String, table: &'a Table, known: &[&str]) -> Result<Self, BundleError> {
        let fields = Self { file, at, table };
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => {
                let expected = format!("only the fields {}", alternatives(known));
                Err(fields.error(&plain(key), &expected, "an unknown field"))
            }
            None => Ok(fields),
        }
    }

    /// Dotted path of a field of this table.
    pub fn path(&self, key: &str) -> String {
        if self.at.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.at)
        }
    }

    pub fn error(&self, key: &str, expected: impl Display, found: impl Display) -> BundleError {
        BundleError::Manifest {
            file: self.file.into(),
            field: self.path(key),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.table.get(key)
    }

    fn required(&self, key: &str, expected: impl Display) -> Result<&'a Value, BundleError> {
        self.value(key).ok_or_else(|| self.error(key, expected, "nothing"))
    }

    pub fn table(&self, key: &str, known: &[&str]) -> Result<Self, BundleError> {
        match self.optional_table(key, known)? {
            Some(fields) => Ok(fields),
            None => Err(self.error(key, "a table", "nothing")),
        }
    }

    pub fn optional_table(&self, key: &str, known: &[&str]) -> Result<Option<Self>, BundleError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Self::new(self.file, self.path(key), table, known).map(Some),
            Some(other) => Err(self.error(key, "a table", describe(other))),
        }
    }

    /// The tables of an optional list, at most `limit`.
    pub fn tables(&self, key: &str, limit: usize, known: &[&str]) -> Result<Vec<Self>, BundleError> {
        let expected = format!("a list of at most {limit} tables with the fields {}", known.join(", "));
        let list = match self.value(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= limit => list,
            Some(Value::Array(list)) => {
                return Err(self.error(key, expected, format!("{} tables", list.len())));
            }
            Some(other) => return Err(self.error(key, expected, describe(other))),
        };
        let item = |(index, value): (usize, &'a Value)| {
            let key = format!("{key}[{index}]");
            match value {
                Value::Table(table) => Self::new(self.file, self.path(&key), table, known),
                other => Err(self.error(&key, "a table", describe(other))),
            }
        };
        list.iter().enumerate().map(item).collect()
    }

    pub fn integer(&self, key: &str, range: RangeInclusive<u32>) -> Result<u32, BundleError> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let value = self.required(key, &expected)?;
        integer_in(value, &range).ok_or_else(|| self.error(key, expected, describe(value)))
    }

    /// An integer, or a list of at most `limit`, each greater than the one before.
    pub fn integers(&self, key: &str, range: RangeInclusive<u32>, limit: usize) -> Result<Vec<u32>, BundleError> {
        let one = format!("an integer from {} to {}", range.start(), range.end());
        let expected = format!("{one}, or a list of 1 to {limit} of them, smallest first");
        let list = match self.required(key, &expected)? {
            Value::Array(list) if (1..=limit).contains(&list.len()) => list.as_slice(),
            Value::Array(list) => {
                return Err(self.error(key, expected, format!("a list of {}", list.len())));
            }
            one => std::slice::from_ref(one),
        };
        let mut integers: Vec<u32> = Vec::new();
        for value in list {
            match integer_in(value, &range) {
                Some(integer) if integers.last().is_none_or(|last| *last < integer) => integers.push(integer),
                Some(integer) => {
                    let last = integers.last().copied().unwrap_or_default();
                    return Err(self.error(key, expected, format!("{integer} after {last}")));
                }
                None => return Err(self.error(key, expected, describe(value))),
            }
        }
        Ok(integers)
    }

    pub fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64, BundleError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let value = self.required(key, &expected)?;
        let number = match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        };
        // Not a number is in no range.
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.error(key, expected, describe(value)))
    }

    /// A text for people: not empty, at most `limit` bytes, no control characters but line ends and tabs.
    pub fn text(&self, key: &str, limit: usize) -> Result<String, BundleError> {
        let expected = format!("text of 1 to {limit} bytes without control characters");
        let value = self.required(key, &expected)?;
        match value {
            Value::String(text) if is_text(text, limit) => Ok(text.clone()),
            Value::String(text) if text.len() > limit => {
                Err(self.error(key, expected, format!("{} bytes", text.len())))
            }
            other => Err(self.error(key, expected, describe(other))),
        }
    }

    /// As [`text`](Self::text); empty where the field is not there.
    pub fn optional_text(&self, key: &str, limit: usize) -> Result<String, BundleError> {
        if self.value(key).is_some() {
            self.text(key, limit)
        } else {
            Ok(String::new())
        }
    }

    /// A text that `accept` takes.
    pub fn word<T>(&self, key: &str, expected: &str, accept: impl FnOnce(&str) -> Option<T>) -> Result<T, BundleError> {
        let value = self.required(key, expected)?;
        let accepted = value.as_str().and_then(accept);
        accepted.ok_or_else(|| self.error(key, expected, describe(value)))
    }
}

fn integer_in(value: &Value, range: &RangeInclusive<u32>) -> Option<u32> {
    let integer = u32::try_from(value.as_integer()?).ok()?;
    range.contains(&integer).then_some(integer)
}

fn is_text(text: &str, limit: usize) -> bool {
    let allowed = |character: char| !character.is_control() || matches!(character, '\n' | '\r' | '\t');
    !text.is_empty() && text.len() <= limit && text.chars().all(allowed)
}

/// What a value is, in a few words.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Integer(integer) => integer.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Datetime(datetime) => format!("the date {datetime}"),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Table(_) => "a table".into(),
    }
}
