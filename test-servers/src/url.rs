//! The parts of a store's URL, for tests that build their own clients.

/// The parts of `s3://bucket/prefix?endpoint=...` and `kinesis://stream?endpoint=...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// The bucket or the stream.
    pub name: String,
    /// What stands before the keys in a bucket, without slashes at its ends; may be empty.
    pub prefix: String,
    options: Vec<(String, String)>,
}

impl StoreUrl {
    /// Takes a URL apart.
    ///
    /// # Panics
    /// When it is none: a test cannot go on.
    pub fn parse(url: &str) -> Self {
        let (_, rest) = url.split_once("://").unwrap_or_else(|| panic!("{url:?} has no scheme"));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
        let option = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        };
        let options = query.split('&').filter(|pair| !pair.is_empty()).map(option).collect();
        Self { name: decoded(name), prefix: decoded(prefix.trim_matches('/')), options }
    }

    /// The value of an option, for example `endpoint` or `region`.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// `127.0.0.1:4566` of `endpoint=http://127.0.0.1:4566`: where a proxy forwards to.
    pub fn endpoint_address(&self) -> Option<&str> {
        Some(self.option("endpoint")?.split_once("://")?.1.trim_end_matches('/'))
    }
}

/// Without its percent escapes.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape =
            tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        if let Some(byte) = escape.filter(|_| first == b'%') {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_comes_apart() {
        let url = StoreUrl::parse("s3://bucket/a/b/?endpoint=http%3A%2F%2F127.0.0.1:4566/&region=us-east-1");
        assert_eq!((url.name.as_str(), url.prefix.as_str()), ("bucket", "a/b"));
        assert_eq!(url.option("endpoint"), Some("http://127.0.0.1:4566/"));
        assert_eq!(url.endpoint_address(), Some("127.0.0.1:4566"));
        assert_eq!(url.option("path_style"), None);
        assert_eq!(StoreUrl::parse("kinesis://stream").name, "stream");
    }

    #[test]
    fn half_an_escape_stays() {
        assert_eq!(decoded("a%2"), "a%2");
        assert_eq!(decoded("%zz%20"), "%zz ");
    }
}
