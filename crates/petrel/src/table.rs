//! How does a summary look in a terminal? Two aligned columns, nothing else.

/// Lays out label and value in two columns, labels to the left, values to the right.
pub(crate) fn two_columns(rows: &[(&str, String)]) -> String {
    let label_width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let value_width = rows.iter().map(|(_, value)| value.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(label, value)| format!("  {label:<label_width$}  {value:>value_width$}\n")).collect()
}

/// Groups the digits of a whole number by thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = two_columns(&[("in sink", grouped(1_234_567)), ("lost", grouped(0))]);
        assert_eq!(text, "  in sink  1,234,567\n  lost             0\n");
    }
}
