//! How large a schema is, before anything else looks at it.

use serde_json::Value;

use super::{MAX_BYTES, MAX_DEPTH, MAX_VALUES, Path};
use crate::error::Result;

/// Refuses a schema that is too deep, too long or has too many values. Stops counting where a limit is met, so the time
/// is bounded whatever comes in.
pub(super) fn measure(schema: &Value) -> Result<()> {
    Count::default().value(schema, &Path::root(), 1)
}

#[derive(Default)]
struct Count {
    values: usize,
    bytes: usize,
}

impl Count {
    fn value(&mut self, value: &Value, path: &Path, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(path.too_large("levels inside each other", depth as u64, MAX_DEPTH as u64));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(path.too_large("values in all", self.values as u64, MAX_VALUES as u64));
        }
        match value {
            Value::String(text) => self.bytes(text.len() + 3, path),
            Value::Array(items) => {
                // A long array fails before a path is made for each of its items.
                if self.values + items.len() > MAX_VALUES {
                    return Err(path.too_large("values in all", (self.values + items.len()) as u64, MAX_VALUES as u64));
                }
                self.bytes(2, path)?;
                items.iter().enumerate().try_for_each(|(index, item)| match item {
                    Value::Array(_) | Value::Object(_) => self.value(item, &path.index(index), depth + 1),
                    _ => self.value(item, path, depth + 1),
                })
            }
            Value::Object(map) => {
                self.bytes(2, path)?;
                map.iter().try_for_each(|(key, value)| {
                    let path = path.key(key);
                    self.bytes(key.len() + 4, &path)?;
                    self.value(value, &path, depth + 1)
                })
            }
            _ => self.bytes(8, path),
        }
    }

    fn bytes(&mut self, bytes: usize, path: &Path) -> Result<()> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES {
            return Err(path.too_large("bytes in all", self.bytes as u64, MAX_BYTES as u64));
        }
        Ok(())
    }
}
