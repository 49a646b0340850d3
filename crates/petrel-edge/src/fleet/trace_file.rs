//! Which arrival rate does the user mean: a built-in family, or a recorded file?

use crate::EdgeError;
use flate2::read::MultiGzDecoder;
use petrel_core::InvalidValue;
use petrel_core::trace::{Family, RateTrace};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

/// Largest text of a trace file, unpacked.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// The trace that `spec` names: a family (`steady`, `diurnal`, `bursty`, `self-exciting`, `shock`, `flash-crowd`) with
/// `base_rate` records/s at rest over `duration_s`, or the path of a CSV file `bin_start_s,count`, which may be packed
/// with gzip. All rates are multiplied by `scale`.
///
/// ```
/// use petrel_edge::fleet::load_trace;
///
/// let trace = load_trace("steady", 500.0, 60, 1, 2.0)?;
/// assert_eq!(trace.mean_rate(), 1_000.0);
/// # Ok::<(), petrel_edge::EdgeError>(())
/// ```
///
/// # Errors
/// A file that cannot be read, or a line that is not a bin; a scale, rate or duration that is not above 0.
pub fn load_trace(spec: &str, base_rate: f64, duration_s: u32, seed: u64, scale: f64) -> Result<RateTrace, EdgeError> {
    if !(scale.is_finite() && scale > 0.0) {
        return Err(InvalidValue::new("scale", scale, "a number above 0").into());
    }
    let unknown_family = match Family::from_str(spec) {
        Ok(family) => {
            if !(base_rate.is_finite() && base_rate > 0.0) {
                return Err(InvalidValue::new("rate", base_rate, "records/s above 0").into());
            }
            if !(1..=10_000_000).contains(&duration_s) {
                return Err(InvalidValue::new("trace duration", duration_s, "1 to 10000000 seconds").into());
            }
            return Ok(RateTrace::synthetic(family, base_rate, duration_s, seed).scaled(scale));
        }
        Err(error) => error,
    };
    let path = Path::new(spec);
    let looks_like_a_path = path.components().count() > 1 || path.extension().is_some() || path.exists();
    if !looks_like_a_path {
        return Err(unknown_family.into());
    }
    let text = read_text(path).map_err(|source| EdgeError::io(format!("reading trace {spec}"), source))?;
    Ok(RateTrace::from_csv(spec, &text)?.scaled(scale))
}

/// The text of a file, unpacked when it begins like gzip, whatever its name.
fn read_text(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(2).read_to_end(&mut start)?;
    let whole = start.as_slice().chain(file);
    let mut text = String::new();
    if start == [0x1f, 0x8b] {
        MultiGzDecoder::new(whole).take(MAX_TEXT_BYTES + 1).read_to_string(&mut text)?;
    } else {
        whole.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text)?;
    }
    if text.len() as u64 > MAX_TEXT_BYTES {
        let detail = format!("longer than {MAX_TEXT_BYTES} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, detail));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    #[test]
    fn plain_and_packed_files_give_the_same_trace() {
        let dir = tempfile::tempdir().unwrap();
        let text = "bin_start_s,count\n0,10\n5,20\n10,0\n";
        let (plain, packed) = (dir.path().join("t.csv"), dir.path().join("t.csv.gz"));
        std::fs::write(&plain, text).unwrap();
        let mut encoder = GzEncoder::new(File::create(&packed).unwrap(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        for path in [plain, packed] {
            let trace = load_trace(path.to_str().unwrap(), 0.0, 0, 1, 3.0).unwrap();
            assert_eq!((trace.bin_s, trace.rates), (5.0, vec![6.0, 12.0, 0.0]));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("absent.csv");
        let error = load_trace(missing.to_str().unwrap(), 1.0, 1, 1, 1.0).unwrap_err().to_string();
        assert!(error.contains("absent.csv"), "{error}");
        let error = load_trace("stedy", 1.0, 1, 1, 1.0).unwrap_err().to_string();
        assert!(error.contains("stedy") && error.contains("flash-crowd"), "{error}");
        let torn = dir.path().join("torn.gz");
        std::fs::write(&torn, [0x1f, 0x8b, 8, 0]).unwrap();
        assert!(load_trace(torn.to_str().unwrap(), 1.0, 1, 1, 1.0).is_err());
        assert!(load_trace("steady", 1.0, 10, 1, 0.0).is_err());
        assert!(load_trace("steady", f64::NAN, 10, 1, 1.0).is_err());
    }
}
