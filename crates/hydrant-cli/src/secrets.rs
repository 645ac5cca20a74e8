//! Passwords in URLs: nothing that the program says may show one, also of a URL that cannot be read.

use std::ops::Range;

/// What is shown in place of a secret.
const HIDDEN: &str = "***";

/// A shorter secret may be a part of any word, so it is hidden only where it is a word of its own.
const WORD_BYTES: usize = 4;

/// What is said about a URL, without whatever may be a secret in it.
pub(crate) fn hide_in(message: &str, url: &str) -> String {
    let secrets = secrets(url);
    let Some(first) = secrets.first() else { return message.to_owned() };
    let mut shown = url[..first.start].to_owned();
    for (index, secret) in secrets.iter().enumerate() {
        let next = secrets.get(index + 1).map_or(url.len(), |next| next.start);
        shown.extend([HIDDEN, &url[secret.end..next]]);
    }
    let around: Vec<_> = message.split(url).map(|part| hide_words(part, url, &secrets)).collect();
    around.join(&shown)
}

/// Hides the secrets where they are alone, or in a piece of the URL.
fn hide_words(part: &str, url: &str, secrets: &[Range<usize>]) -> String {
    secrets.iter().fold(part.to_owned(), |part, secret| match &url[secret.clone()] {
        "" => part,
        secret if secret.len() >= WORD_BYTES => part.replace(secret, HIDDEN),
        secret => [(":", "@"), ("=", ""), ("`", "`")].iter().fold(part, |part, (before, behind)| {
            part.replace(&format!("{before}{secret}{behind}"), &format!("{before}{HIDDEN}{behind}"))
        }),
    })
}

/// Where a secret may stand, in order. Rather too much than too little: a URL with a mistake in it may be split
/// anywhere.
fn secrets(url: &str) -> Vec<Range<usize>> {
    let mut found: Vec<_> = password(url).into_iter().collect();
    let mut start = found.first().map_or(0, |password: &Range<usize>| password.end);
    for pair in url[start..].split_inclusive(['?', '&']) {
        let value = pair.find('=').map_or(pair.len(), |equals| equals + 1);
        let name = pair[..value].to_ascii_lowercase();
        if value < pair.len() && ["password", "secret", "token"].iter().any(|word| name.contains(word)) {
            found.push(start + value..start + pair.trim_end_matches(['?', '&']).len());
        }
        start += pair.len();
    }
    found
}

/// Where it stands between the user's name and the last `@`. In front of the name stands `scheme://`, and maybe
/// the name of a sink.
fn password(url: &str) -> Option<Range<usize>> {
    let end = url.rfind('@')?;
    let colon = url[..end].find(':')? + 1;
    let start = match url[colon..end].strip_prefix("//") {
        Some(credentials) => colon + 2 + credentials.find(':')? + 1,
        None => colon,
    };
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hidden_wherever_it_stands() {
        for (url, shown) in [
            ("postgres://app:geheim@db/shop?log=a", "postgres://app:***@db/shop?log=a"),
            ("postgres://test:test@db/test?log=test", "postgres://test:***@db/test?log=test"),
            ("a=postgres://app:geheim@db/shop", "a=postgres://app:***@db/shop"),
            ("postgres://app:ge@he:i/m?x=1&y@db/shop", "postgres://app:***@db/shop"),
            ("postgres:app:geheim@db", "postgres:***@db"),
            ("app:geheim@db", "app:***@db"),
            (
                "postgres://a:b@db/x?user=app&password=geheim&log=a",
                "postgres://a:***@db/x?user=app&password=***&log=a",
            ),
            ("postgres://db/shop?log=a&sslPassword=geheim", "postgres://db/shop?log=a&sslPassword=***"),
        ] {
            assert_eq!(hide_in(url, url), shown);
            assert_eq!(hide_in(&format!("`{url}` is it"), url), format!("`{shown}` is it"));
        }
    }

    #[test]
    fn what_holds_no_secret_is_shown_as_it_is() {
        for url in ["postgres://app@db/shop?log=a", "s3://bucket/prefix?region=eu", "file:/tmp/a", "-", ""] {
            assert_eq!(hide_in(url, url), url);
            assert_eq!(hide_in("a message", url), "a message");
        }
    }

    #[test]
    fn what_is_said_about_a_url_shows_no_secret() {
        let url = "postgres://app:geheim@db?password=noch-eins";
        assert_eq!(hide_in("`geheim` is no noch-eins", url), "`***` is no ***");
        let url = "postgres://app:s@db";
        assert_eq!(hide_in("this is `s`, in app:s@db", url), "this is `***`, in app:***@db");
    }
}
