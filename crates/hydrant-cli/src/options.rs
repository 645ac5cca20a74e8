//! The options of a scheme: one row each, from which parsing, help and `hydrant stores` are all made.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::url::{Query, did_you_mean};
use crate::values::{Parsed, parse_bytes, parse_duration, parse_number, show_bytes, show_duration};

/// The options of a scheme, whose settings are an `O`.
pub(crate) struct Options<O> {
    rows: Vec<Row<O>>,
}

struct Row<O> {
    name: &'static str,
    is_passed_on: bool,
    takes: String,
    about: &'static str,
    show: Box<dyn Fn(&mut O) -> String>,
    set: Set<O>,
}

type Set<O> = Box<dyn Fn(&mut O, &str) -> Parsed<()>>;
type Read<T> = Box<dyn Fn(&str) -> Parsed<T>>;

/// An option as `hydrant stores` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OptionRow {
    pub(crate) name: &'static str,
    pub(crate) takes: String,
    pub(crate) default: String,
    pub(crate) about: &'static str,
}

impl<O: Default + 'static> Options<O> {
    /// No options yet.
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// One more: its name with its unit, what it does in one sentence, the kind of its values, and the field
    /// of the settings that it is.
    pub(crate) fn with<T: 'static>(
        mut self,
        name: &'static str,
        kind: Kind<T>,
        about: &'static str,
        field: impl Fn(&mut O) -> &mut T + Clone + 'static,
    ) -> Self {
        let Kind { takes, read, show } = kind;
        let shown = field.clone();
        let show = Box::new(move |settings: &mut O| show(shown(settings)));
        let set = Box::new(move |settings: &mut O, value: &str| {
            *field(settings) = read(value)?;
            Ok(())
        });
        self.rows.push(Row { name, is_passed_on: false, takes, about, show, set });
        self
    }

    /// One more that the store reads from its own URL: [`apply`](Options::apply) lets it be.
    pub(crate) fn passed_on(
        mut self,
        name: &'static str,
        takes: &str,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        let show = Box::new(move |_: &mut O| default.to_owned());
        let set = Box::new(|_: &mut O, _: &str| Ok(()));
        self.rows.push(Row { name, is_passed_on: true, takes: takes.to_owned(), about, show, set });
        self
    }

    /// Returns whether the store reads this option from its own URL.
    pub(crate) fn passes_on(&self, name: &str) -> bool {
        self.rows.iter().any(|row| row.is_passed_on && row.name == name)
    }

    /// The rows, with the defaults that the store itself has.
    pub(crate) fn rows(&self) -> Vec<OptionRow> {
        let mut defaults = O::default();
        let mut row = |Row { name, takes, about, show, .. }: &Row<O>| OptionRow {
            name,
            takes: takes.clone(),
            default: show(&mut defaults),
            about,
        };
        self.rows.iter().map(&mut row).collect()
    }

    /// The default settings, changed by what a query says.
    pub(crate) fn apply(&self, query: &Query) -> Parsed<O> {
        let mut settings = O::default();
        for (name, value) in query {
            let Some(row) = self.rows.iter().find(|row| row.name == name) else {
                let known: Vec<_> = self.rows.iter().map(|row| row.name).collect();
                let near = did_you_mean(name, known.iter().copied());
                let all = if known.is_empty() { "it has none".to_owned() } else { known.join(", ") };
                return Err(format!("unknown option `{name}`{near} (options of this scheme: {all})"));
            };
            (row.set)(&mut settings, value).map_err(|cause| format!("option `{name}`: {cause}"))?;
        }
        Ok(settings)
    }
}

/// A kind of value: how it is written in a URL.
pub(crate) struct Kind<T> {
    takes: String,
    read: Read<T>,
    show: Box<dyn Fn(&T) -> String>,
}

impl<T: 'static> Kind<T> {
    /// What its values look like, how one is read, and how one is shown so that it can be read again.
    pub(crate) fn new(
        takes: impl Into<String>,
        read: impl Fn(&str) -> Parsed<T> + 'static,
        show: impl Fn(&T) -> String + 'static,
    ) -> Self {
        Self { takes: takes.into(), read: Box::new(read), show: Box::new(show) }
    }

    /// The same, for values that must be more than read.
    pub(crate) fn only(self, fits: impl Fn(&T) -> bool + 'static, otherwise: &'static str) -> Self {
        let read = self.read;
        Self::new(
            self.takes,
            move |text| {
                let value = read(text)?;
                if fits(&value) { Ok(value) } else { Err(format!("`{text}` {otherwise}")) }
            },
            self.show,
        )
    }

    /// The same, for what need not be given; shown as `none` then.
    pub(crate) fn or(self, none: &'static str) -> Kind<Option<T>> {
        let Self { takes, read, show } = self;
        Kind::new(
            takes,
            move |text| read(text).map(Some),
            move |value| value.as_ref().map_or_else(|| none.to_owned(), &show),
        )
    }
}

/// A size in bytes, at least 1.
pub(crate) fn bytes() -> Kind<usize> {
    Kind::new("SIZE", parse_bytes, |bytes| show_bytes(*bytes))
}

/// A duration.
pub(crate) fn duration() -> Kind<Duration> {
    Kind::new("DURATION", parse_duration, |duration| show_duration(*duration))
}

/// A duration that is longer than nothing.
pub(crate) fn interval() -> Kind<Duration> {
    duration().only(|interval| !interval.is_zero(), "must be longer than nothing")
}

/// `true` or `false`.
pub(crate) fn flag() -> Kind<bool> {
    choice(&[("true", true), ("false", false)])
}

/// A whole number.
pub(crate) fn number<T: FromStr + Display + 'static>() -> Kind<T> {
    Kind::new("N", parse_number, T::to_string)
}

/// Text that is not empty.
pub(crate) fn text(takes: &str) -> Kind<String> {
    let read = |text: &str| {
        if text.is_empty() {
            Err("it is empty; leave it out instead".to_owned())
        } else {
            Ok(text.to_owned())
        }
    };
    Kind::new(takes, read, Clone::clone)
}

/// One of these words.
pub(crate) fn choice<T: Clone + PartialEq>(words: &'static [(&'static str, T)]) -> Kind<T> {
    let names = || words.iter().map(|(name, _)| *name);
    Kind::new(
        names().collect::<Vec<_>>().join("|"),
        move |text| {
            let found = words.iter().find(|(name, _)| *name == text).map(|(_, value)| value.clone());
            found.ok_or_else(|| {
                let all = names().collect::<Vec<_>>().join(", ");
                format!("`{text}` is none of {all}{}", did_you_mean(text, names()))
            })
        },
        move |value| {
            let found = words.iter().find(|(_, known)| known == value);
            found.map_or_else(String::new, |(name, _)| (*name).to_owned())
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Settings {
        size: usize,
        wait: Duration,
        mode: u8,
        name: Option<u16>,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { size: 1 << 20, wait: Duration::from_millis(250), mode: 2, name: None }
        }
    }

    fn options() -> Options<Settings> {
        Options::<Settings>::new()
            .with("size_bytes", bytes(), "a size", |settings| &mut settings.size)
            .with("wait", interval(), "a pause", |settings| &mut settings.wait)
            .with("mode", choice(&[("slow", 1), ("quick", 2)]), "a word", |settings| &mut settings.mode)
            .with("port", number().or("any"), "a number", |settings| &mut settings.name)
    }

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn rows_show_the_defaults_as_they_would_be_written() {
        let rows = options().rows();
        let shown: Vec<_> = rows.iter().map(|row| (&*row.takes, &*row.default)).collect();
        assert_eq!(shown, [("SIZE", "1MiB"), ("DURATION", "250ms"), ("slow|quick", "quick"), ("N", "any")]);
    }

    #[test]
    fn what_is_given_is_set_and_the_rest_keeps_its_default() {
        let given = query(&[("mode", "slow"), ("port", "80")]);
        let settings = options().apply(&given).unwrap();
        assert_eq!((settings.mode, settings.name, settings.size), (1, Some(80), 1 << 20));
    }

    #[test]
    fn errors_name_the_valid_values() {
        for (name, value, says) in [
            ("wiat", "1s", "did you mean `wait`?"),
            ("wait", "0s", "option `wait`: `0s` must be longer than nothing"),
            ("mode", "quik", "`quik` is none of slow, quick; did you mean `quick`?"),
            ("port", "65536", "not a whole number in range"),
            ("size_bytes", "0", "allows nothing"),
        ] {
            let error = options().apply(&query(&[(name, value)])).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
