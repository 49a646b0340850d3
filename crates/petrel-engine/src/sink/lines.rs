//! How do rows become JSON lines?

use crate::error::TaskError;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType, UInt64Type};
use serde::Serialize;

/// Appends one JSON object with its newline for each row; how many. Times are integer milliseconds since the Unix
/// epoch, nulls are left out, numbers that are not finite are `null`. `extra` are strings that come first in every
/// object; a column of the same name is left out.
///
/// # Errors
/// When a column has a type that has no JSON form here.
pub(crate) fn to_json_lines(batch: &RecordBatch, extra: &[(&str, &str)], out: &mut Vec<u8>) -> Result<u64, TaskError> {
    let mut head = Vec::new();
    for (name, value) in extra {
        push_key(&mut head, name);
        push_json(&mut head, value);
    }
    let schema = batch.schema_ref();
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        if extra.iter().any(|(name, _)| field.name() == name) {
            continue;
        }
        let array = plain(array).map_err(|error| TaskError::encoding(format!("column `{}`", field.name()), error))?;
        let mut key = Vec::new();
        push_key(&mut key, field.name());
        columns.push((key, array));
    }
    let columns: Vec<(&[u8], Cells<'_>)> =
        columns.iter().filter_map(|(key, array)| Some((key.as_slice(), Cells::of(array)?))).collect();
    for row in 0..batch.num_rows() {
        let start = out.len();
        out.extend_from_slice(&head);
        for (key, cells) in &columns {
            cells.push(row, key, out);
        }
        // Every field begins with a comma; the first one gives its place to the bracket.
        match out.get_mut(start) {
            Some(first) => *first = b'{',
            None => out.push(b'{'),
        }
        out.extend_from_slice(b"}\n");
    }
    Ok(batch.num_rows() as u64)
}

fn push_key(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    push_json(out, name);
    out.push(b':');
}

fn push_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Serialising strings and numbers into memory has no way to fail.
    let _ = serde_json::to_writer(out, value);
}

/// The column in one of the types of [`Cells`].
fn plain(array: &ArrayRef) -> Result<ArrayRef, datafusion::arrow::error::ArrowError> {
    let plain_type = match array.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::UInt64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            DataType::Float64
        }
        DataType::Boolean => DataType::Boolean,
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Millisecond, None),
        _ => DataType::Utf8,
    };
    // Of the same type: not copied.
    cast(array, &plain_type)
}

enum Cells<'a> {
    Text(&'a StringArray),
    Int64(&'a Int64Array),
    UInt64(&'a UInt64Array),
    Float64(&'a Float64Array),
    Bool(&'a BooleanArray),
    Time(&'a datafusion::arrow::array::TimestampMillisecondArray),
}

impl<'a> Cells<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Utf8 => Cells::Text(array.as_string_opt::<i32>()?),
            DataType::Int64 => Cells::Int64(array.as_primitive_opt::<Int64Type>()?),
            DataType::UInt64 => Cells::UInt64(array.as_primitive_opt::<UInt64Type>()?),
            DataType::Float64 => Cells::Float64(array.as_primitive_opt::<Float64Type>()?),
            DataType::Boolean => Cells::Bool(array.as_boolean_opt()?),
            DataType::Timestamp(..) => Cells::Time(array.as_primitive_opt::<TimestampMillisecondType>()?),
            _ => return None,
        })
    }

    fn push(&self, row: usize, key: &[u8], out: &mut Vec<u8>) {
        macro_rules! push {
            ($cells:expr) => {
                if $cells.is_valid(row) {
                    out.extend_from_slice(key);
                    push_json(out, &$cells.value(row));
                }
            };
        }
        match self {
            Cells::Text(cells) => push!(cells),
            Cells::Int64(cells) => push!(cells),
            Cells::UInt64(cells) => push!(cells),
            Cells::Float64(cells) => push!(cells),
            Cells::Bool(cells) => push!(cells),
            Cells::Time(cells) => push!(cells),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{
        Int32Array, StringViewArray, TimestampMillisecondArray, TimestampSecondArray, UInt64Array,
    };
    use datafusion::arrow::datatypes::{Field, Schema};
    use std::sync::Arc;

    #[test]
    fn rows_are_the_records_again() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from(vec![Some("a\"\n"), None, Some("é")]))),
            ("view", Arc::new(StringViewArray::from(vec![Some("long enough to be outside"), None, Some("v")]))),
            ("count", Arc::new(Int32Array::from(vec![Some(-1), None, Some(3)]))),
            ("large", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(3)]))),
            ("mean", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN)]))),
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("time", Arc::new(TimestampMillisecondArray::from(vec![Some(1_795_478_400_123), None, Some(-1)]))),
            ("second", Arc::new(TimestampSecondArray::from(vec![Some(2), None, None]))),
            ("domain", Arc::new(StringArray::from(vec!["column"; 3]))),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let arrays = columns.into_iter().map(|(_, array)| array).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        let mut out = b"before\n".to_vec();
        let rows = to_json_lines(&batch, &[("view_name", "v\"1"), ("domain", "smart-city")], &mut out).unwrap();
        assert_eq!(rows, 3);
        let expected = concat!(
            "before\n",
            r#"{"view_name":"v\"1","domain":"smart-city","text":"a\"\n","view":"long enough to be outside","count":-1,"#,
            r#""large":18446744073709551615,"mean":1.5,"flag":true,"time":1795478400123,"second":2000}"#,
            "\n",
            r#"{"view_name":"v\"1","domain":"smart-city"}"#,
            "\n",
            r#"{"view_name":"v\"1","domain":"smart-city","text":"é","view":"v","count":3,"#,
            r#""large":3,"mean":null,"flag":false,"time":-1}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        for line in expected.lines().skip(1) {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn a_row_of_nulls_is_an_empty_object() {
        let batch = RecordBatch::try_from_iter([("a", Arc::new(Int32Array::from(vec![None, Some(1)])) as ArrayRef)]);
        let mut out = Vec::new();
        assert_eq!(to_json_lines(&batch.unwrap(), &[], &mut out).unwrap(), 2);
        assert_eq!(String::from_utf8(out).unwrap(), "{}\n{\"a\":1}\n");
    }
}
