//! Sizes and durations as people write them: `64MiB`, `250ms`.

use std::time::Duration;

/// Parses a text, or returns what is wrong with it, with advice.
pub(crate) type Parsed<T> = Result<T, String>;

const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

const SPANS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000)];

/// Reads a size: a number of bytes, or one with a unit.
pub(crate) fn parse_bytes(text: &str) -> Parsed<usize> {
    let wrong = || format!("`{text}` is not a size; write for example 65536, 64KiB or 1GiB");
    let (number, unit) = split_unit(text);
    let scale = match unit {
        "" => 1,
        unit => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(scale).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(wrong)?;
    if bytes == 0 { Err(format!("`{text}` allows nothing; write at least 1")) } else { Ok(bytes) }
}

/// Reads a duration: a number with its unit.
pub(crate) fn parse_duration(text: &str) -> Parsed<Duration> {
    let wrong = || format!("`{text}` is not a duration; write for example 250ms, 5s or 2min");
    let (number, unit) = split_unit(text);
    let scale = SPANS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(scale).map(Duration::from_micros).ok_or_else(wrong)
}

/// Reads a whole number.
pub(crate) fn parse_number<T: std::str::FromStr>(text: &str) -> Parsed<T> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number in range"))
}

/// The shortest exact way to write a size.
pub(crate) fn show_bytes(bytes: usize) -> String {
    let bytes = bytes as u64;
    let whole = |(_, scale): &&(&str, u64)| {
        bytes >= *scale && bytes.is_multiple_of(*scale) && scale.is_power_of_two()
    };
    match SIZES.iter().find(whole) {
        Some((unit, scale)) if *scale > 1 => format!("{}{unit}", bytes / scale),
        _ => bytes.to_string(),
    }
}

/// The shortest exact way to write a duration, to the microsecond.
pub(crate) fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let whole =
        |(_, scale): &&(&str, u64)| micros >= u128::from(*scale) && micros.is_multiple_of(u128::from(*scale));
    match SPANS.iter().rev().find(whole) {
        Some((unit, scale)) => format!("{}{unit}", micros / u128::from(*scale)),
        None => "0s".to_owned(),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown_with_units() {
        assert_eq!(parse_bytes("1472"), Ok(1472));
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("2gb"), Ok(2_000_000_000));
        for bad in ["", "MiB", "-1", "0", "1.5MiB", "64 MiB", "99999999999GiB", "12parsecs"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
        for shown in ["1472", "64KiB", "1GiB", "1"] {
            assert_eq!(show_bytes(parse_bytes(shown).unwrap()), shown);
        }
    }

    #[test]
    fn durations_are_read_and_shown_with_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "5", "s", "1.5s", "-1s", "5 s", "99999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        for shown in ["250ms", "10s", "2min", "1h", "7us"] {
            assert_eq!(show_duration(parse_duration(shown).unwrap()), shown);
        }
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }
}
