//! How are tables written, so that they can be read back figure by figure?

use crate::error::ArenaError;
use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::path::Path;

/// A cell: quoted when a comma, a quote or a line break would break the row.
pub(crate) fn cell(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

/// The shortest text that reads back as the same figure; nothing for NaN.
pub(crate) fn exact(figure: f64) -> String {
    if figure.is_nan() { String::new() } else { figure.to_string() }
}

/// A figure for people, six significant digits; nothing for NaN.
pub(crate) fn rounded(figure: f64) -> String {
    if !figure.is_finite() {
        return if figure.is_nan() { String::new() } else { figure.to_string() };
    }
    if figure == 0.0 {
        return "0".to_string();
    }
    let digits_before = figure.abs().log10().floor() as i32 + 1;
    let decimals = (6 - digits_before).clamp(0, 12) as usize;
    let text = format!("{figure:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// The inverse of [`exact`] and [`rounded`].
pub(crate) fn figure(text: &str) -> Option<f64> {
    if text.is_empty() { Some(f64::NAN) } else { text.parse().ok() }
}

/// Cells of one row.
pub(crate) fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                push(&mut cells, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            other => push(&mut cells, other),
        }
    }
    cells
}

fn push(cells: &mut [String], character: char) {
    if let Some(last) = cells.last_mut() {
        last.push(character);
    }
}

/// Replaces `path` as a whole: a reader sees the old file or the new one.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), ArenaError> {
    let unfinished = path.with_extension("unfinished");
    let written = fs::File::create(&unfinished).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&unfinished, path)).map_err(ArenaError::io("cannot write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_back() {
        let names = ["plain", "a,b", "say \"so\"", ""];
        let line = names.map(|name| cell(name).into_owned()).join(",");
        assert_eq!(cells(&line), names);
    }

    #[test]
    fn figures_are_read_back() {
        for value in [0.1 + 0.2, 1e-300, 0.0, 12_345_678.9] {
            assert_eq!(figure(&exact(value)), Some(value));
        }
        assert!(figure(&exact(f64::NAN)).unwrap().is_nan());
        assert_eq!(figure("many"), None);
    }

    #[test]
    fn rounding_keeps_six_digits_and_no_zeros() {
        assert_eq!(rounded(2_619.123_456), "2619.12");
        assert_eq!(rounded(0.001_234_567_8), "0.00123457");
        assert_eq!(rounded(3_000_000.4), "3000000");
        assert_eq!(rounded(0.5), "0.5");
        assert_eq!(rounded(-0.25), "-0.25");
        assert_eq!(rounded(0.0), "0");
        assert_eq!(rounded(f64::NAN), "");
    }
}
