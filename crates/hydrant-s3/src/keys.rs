//! The keys of a log.

use hydrant::EventId;

/// The place of an object of the log: behind this event, or (`None`) at the origin.
pub(crate) type Place = Option<EventId>;

/// The name of the origin: it sorts before all digits.
const ORIGIN: &str = "-origin";

/// A key is this many digits, so that keys sort as ids do.
const DIGITS: usize = 20;

/// The names of everything that a store keeps in its bucket.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys under a prefix, with or without slashes around it.
    pub(crate) fn new(prefix: &str) -> Self {
        let trimmed = prefix.trim_matches('/');
        let prefix = if trimmed.is_empty() { String::new() } else { format!("{trimmed}/") };
        Self { prefix }
    }

    /// What the keys of all objects of the log begin with.
    pub(crate) fn log(&self) -> String {
        format!("{}log/", self.prefix)
    }

    /// Returns the key of the object there.
    pub(crate) fn at(&self, place: Place) -> String {
        match place {
            None => format!("{}{ORIGIN}", self.log()),
            Some(id) => format!("{}{:0DIGITS$}", self.log(), id.get()),
        }
    }

    /// The place that a key names; `None` for a name that is not ours.
    pub(crate) fn place(&self, key: &str) -> Option<Place> {
        let name = key.strip_prefix(&self.prefix)?.strip_prefix("log/")?;
        if name == ORIGIN {
            return Some(None);
        }
        let is_ours = name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
        // Twenty digits may be more than an id can be.
        is_ours.then(|| name.parse().ok()).flatten().map(|id| Some(EventId::new(id)))
    }

    /// The greatest key before all places from this one on, for a listing that begins there.
    pub(crate) fn before(&self, place: Place) -> Option<String> {
        let id = place?.get();
        Some(self.at(id.checked_sub(1).map(EventId::new)))
    }

    /// A key of the store itself, beside the log.
    pub(crate) fn beside(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_places_do_and_are_read_back() {
        let keys = Keys::new("/a/b/");
        let places = [None, Some(0), Some(9), Some(10), Some(u64::MAX)].map(|id| id.map(EventId::new));
        let names: Vec<_> = places.iter().map(|place| keys.at(*place)).collect();
        assert!(names.is_sorted());
        assert_eq!(names[3], "a/b/log/00000000000000000010");
        for (place, name) in places.iter().zip(&names) {
            assert_eq!(keys.place(name), Some(*place));
            assert!(keys.before(*place).is_none_or(|before| before < *name));
        }
        assert_eq!(keys.before(Some(EventId::ZERO)), Some(names[0].clone()));
        assert_eq!(Keys::new("").at(None), "log/-origin");
    }

    #[test]
    fn names_that_are_not_ours_are_left_alone() {
        let keys = Keys::new("a");
        for name in
            ["a/log/1", "a/log/99999999999999999999", "a/log/0000000000000000000x", "a/probe", "log/-origin"]
        {
            assert_eq!(keys.place(name), None, "{name}");
        }
    }
}
