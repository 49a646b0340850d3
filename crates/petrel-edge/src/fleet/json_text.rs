//! How does a generator write numbers as JSON faster than `format!`? Integers two digits at a time; decimals of fixed
//! precision as scaled integers.

const DIGIT_PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

const POWERS_OF_TEN: [f64; 7] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0];

/// Appends a decimal integer.
pub fn push_unsigned(out: &mut Vec<u8>, value: u64) {
    push_padded(out, value, 1);
}

/// Appends a decimal integer with its sign.
pub fn push_signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_unsigned(out, value.unsigned_abs());
}

/// Appends `value` rounded to `decimals` (0 to 6) places. A value that is not finite, or beyond the range of scaled
/// integers, is written as the nearest one that is (`NaN` as 0): the output is always valid JSON.
pub fn push_fixed(out: &mut Vec<u8>, value: f64, decimals: usize) {
    let decimals = decimals.min(POWERS_OF_TEN.len() - 1);
    let scale = POWERS_OF_TEN[decimals];
    let scaled = (value * scale).round() as i64;
    if scaled < 0 {
        out.push(b'-');
    }
    let magnitude = scaled.unsigned_abs();
    let divisor = scale as u64;
    push_unsigned(out, magnitude / divisor);
    if decimals > 0 {
        out.push(b'.');
        push_padded(out, magnitude % divisor, decimals);
    }
}

/// Appends a decimal integer with zeros in front up to `width` (at most 20) digits.
pub fn push_padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    let mut rest = value;
    while rest >= 100 {
        let pair = (rest % 100) as usize * 2;
        rest /= 100;
        start -= 2;
        digits[start..start + 2].copy_from_slice(&DIGIT_PAIRS[pair..pair + 2]);
    }
    if rest >= 10 {
        let pair = rest as usize * 2;
        start -= 2;
        digits[start..start + 2].copy_from_slice(&DIGIT_PAIRS[pair..pair + 2]);
    } else {
        start -= 1;
        digits[start] = b'0' + rest as u8;
    }
    let start = start.min(digits.len() - width.min(digits.len()));
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn integers_are_written_as_the_standard_library_does(value in any::<u64>(), signed in any::<i64>(), shift in 0_u32..64) {
            let value = value >> shift;
            prop_assert_eq!(text(|out| push_unsigned(out, value)), value.to_string());
            prop_assert_eq!(text(|out| push_signed(out, signed >> shift)), (signed >> shift).to_string());
            prop_assert_eq!(text(|out| push_padded(out, value, 12)), format!("{value:012}"));
        }

        #[test]
        fn decimals_are_within_half_a_unit_of_the_last_place(value in -1e9_f64..1e9, decimals in 0_usize..=6) {
            let written = text(|out| push_fixed(out, value, decimals));
            let parsed: f64 = serde_json::from_str(&written).unwrap();
            prop_assert!((parsed - value).abs() <= 0.5000001 * 10_f64.powi(-(decimals as i32)) + value.abs() * 1e-12, "{} became {}", value, written);
        }

        #[test]
        fn every_float_becomes_valid_json(bits in any::<u64>(), decimals in 0_usize..=6) {
            let written = text(|out| push_fixed(out, f64::from_bits(bits), decimals));
            prop_assert!(serde_json::from_str::<f64>(&written).is_ok(), "{}", written);
        }
    }

    #[test]
    fn decimals_have_their_zeros() {
        assert_eq!(text(|out| push_fixed(out, 3.05, 3)), "3.050");
        assert_eq!(text(|out| push_fixed(out, -0.004, 2)), "0.00");
        assert_eq!(text(|out| push_fixed(out, -0.006, 2)), "-0.01");
        assert_eq!(text(|out| push_fixed(out, f64::NAN, 1)), "0.0");
    }
}
