//! Store URLs, `scheme:target?option=value&...`, made valid once, while the command line is read.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::stores::{self, Place};
use crate::values::Parsed;

/// The options of a URL, by name, percent-decoded.
pub(crate) type Query = [(String, String)];

/// A valid URL of a store: its scheme is known, its target and every option make sense.
#[derive(Clone, Debug)]
pub(crate) struct StoreUrl {
    scheme: &'static str,
    place: Arc<dyn Place>,
}

impl StoreUrl {
    /// The name of the scheme.
    pub(crate) fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Returns whether it is standard input or output.
    pub(crate) fn is_stdio(&self) -> bool {
        self.scheme == stores::stdio::NAME
    }
}

impl std::ops::Deref for StoreUrl {
    type Target = dyn Place;

    fn deref(&self) -> &Self::Target {
        &*self.place
    }
}

impl fmt::Display for StoreUrl {
    /// Without options, and without any secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place.target())
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(format!("it is empty; write `file:DIR` for a directory {KNOW}"));
        }
        let text = if text == "-" { "stdio:" } else { text };
        let Some((scheme, rest)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            return Err(format!("it has no scheme; for a directory write `file:{text}` {KNOW}"));
        };
        let Some(scheme) = stores::scheme(scheme) else {
            if stores::OPTIONAL.contains(&scheme) {
                return Err(format!(
                    "this program was built without it; build one with `--features {scheme}`"
                ));
            }
            let names = stores::SCHEMES.iter().map(|scheme| scheme.name);
            return Err(format!("unknown scheme `{scheme}`{} {KNOW}", did_you_mean(scheme, names)));
        };
        let (target, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.contains('@') && !target.contains('@') {
            // Half of a password, likely, which must not be quoted as an option.
            return Err(
                "there is an `@` behind the `?`; write `?` in a password as %3F, and `@` in an option as %40"
                    .to_owned(),
            );
        }
        let place = (scheme.parse)(target, &parse_query(query)?)?;
        Ok(Self { scheme: scheme.name, place })
    }
}

const KNOW: &str = "(`hydrant stores` lists all schemes and their options)";

fn is_scheme(text: &str) -> bool {
    text.len() > 1 && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '+')
}

fn parse_query(query: &str) -> Parsed<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("the option `{pair}` has no value; write {pair}=VALUE"))?;
        if pairs.iter().any(|(given, _)| given == name) {
            return Err(format!("the option `{name}` stands twice; keep one"));
        }
        pairs.push((name.to_owned(), percent_decode(value)?));
    }
    Ok(pairs)
}

/// Undoes percent-encoding.
pub(crate) fn percent_decode(text: &str) -> Parsed<String> {
    let wrong =
        || format!("`%` in `{text}` must be followed by two hexadecimal digits; write `%` itself as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first == b'%' {
            let digits =
                behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(wrong)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = &behind[2..];
        } else {
            bytes.push(first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8"))
}

/// Encodes a text for a path or for the value of an option. `percent_decode` reads it.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@,".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

/// `; did you mean ...?` for the nearest name, or nothing.
pub(crate) fn did_you_mean<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let near = |name: &&str| {
        strsim::damerau_levenshtein(given, name) <= name.len().div_ceil(3) || name.starts_with(given)
    };
    let best = names.into_iter().filter(near).min_by_key(|name| strsim::damerau_levenshtein(given, name));
    best.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<StoreUrl>().expect_err(text)
    }

    #[test]
    fn a_misspelt_scheme_gets_the_nearest_one() {
        assert!(refusal("flie:/tmp/log").contains("did you mean `file`?"), "{}", refusal("flie:/tmp/log"));
        assert!(refusal("upd://host:1").contains("did you mean `udp`?"));
        assert!(!refusal("gopher://host").contains("did you mean"));
        assert!(refusal("/var/log/head").contains("write `file:/var/log/head` ("));
    }

    #[test]
    fn a_misspelt_option_or_value_gets_the_valid_ones() {
        assert!(refusal("stdio:?line_byte_max=1").contains("did you mean `line_bytes_max`?"));
        assert!(refusal("stdio:?line_bytes_max=big").contains("is not a size"));
        assert!(refusal("stdio:?line_bytes_max").contains("has no value"));
        assert!(refusal("stdio:?line_bytes_max=1&line_bytes_max=2").contains("stands twice"));
    }

    #[test]
    fn percent_signs_are_decoded_or_refused() {
        assert_eq!(percent_decode("a%3Fb%25"), Ok("a?b%".to_owned()));
        for bad in ["%", "%1", "%zz", "%+1", "%ff"] {
            assert!(percent_decode(bad).is_err(), "{bad:?}");
        }
        for text in ["a?b%&=c d#+", "ä/ü:@,", "http://127.0.0.1:4567", ""] {
            assert_eq!(percent_decode(&percent_encode(text)).as_deref(), Ok(text));
        }
        assert_eq!(percent_encode("http://127.0.0.1:1/a&b"), "http://127.0.0.1:1/a%26b");
    }
}
