//! Plain English, counted: words that name no clear subject or action, and function names that are sentences.
//!
//! Both numbers may only fall. A change that removes some lowers the bounds here.

use std::fs;
use std::path::Path;

use crate::root;

/// Words to replace by plainer ones: report, return; the caller, the operator; miss; skip.
const WORDS: &[&str] = &["told", "tell", "tells", "whoever", "somebody", "nobody", "lack", "lacks"];

/// The same, in two words.
const PAIRS: &[(&str, &str)] = &[("a", "person"), ("passed", "over")];

/// How many of these words the project may have: the user `nobody` of Unix is in four places.
const WORDS_MAX: usize = 4;

/// The longest name of a function.
const NAME_CHARS_MAX: usize = 60;

/// How many longer names the project may have.
const LONG_NAMES_MAX: usize = 0;

/// The counted words and names of the project, with their places.
#[derive(Debug, Default, PartialEq)]
struct Found {
    words: Vec<String>,
    names: Vec<String>,
}

/// Fails when the project has more of such words or names than it may.
pub(crate) fn check() -> Result<(), String> {
    eprintln!("== language");
    let mut found = Found::default();
    walk(&root(), &mut found).map_err(|cause| format!("reading the project: {cause}"))?;
    eprintln!(
        "{} words (at most {WORDS_MAX}), {} long names (at most {LONG_NAMES_MAX})",
        found.words.len(),
        found.names.len()
    );
    for (places, max, what) in [
        (&found.words, WORDS_MAX, "words that CONTRIBUTING.md replaces by plainer ones"),
        (&found.names, LONG_NAMES_MAX, "function names of more than 60 characters"),
    ] {
        if places.len() > max {
            return Err(format!(
                "{} {what}, at most {max} are allowed:\n{}",
                places.len(),
                places.join("\n")
            ));
        }
    }
    Ok(())
}

/// Counts in all files of the project, except built and hidden files and this file.
fn walk(dir: &Path, found: &mut Found) -> std::io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                walk(&path, found)?;
            }
        } else if [".rs", ".md", ".toml"].iter().any(|end| name.ends_with(end)) && name != "language.rs" {
            let text = fs::read_to_string(&path)?;
            let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            count(&shown, &text, found);
        }
    }
    Ok(())
}

/// Counts in one file.
fn count(file: &str, text: &str, found: &mut Found) {
    for (number, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
        let is = |word: &str, other: &str| word.eq_ignore_ascii_case(other);
        let single = words.iter().filter(|word| WORDS.iter().any(|bad| is(word, bad)));
        let pairs =
            words.windows(2).filter(|two| PAIRS.iter().any(|bad| is(two[0], bad.0) && is(two[1], bad.1)));
        let place = |word: &str| format!("{file}:{number}: {word}");
        found.words.extend(single.map(|word| place(word)));
        found.words.extend(pairs.map(|two| place(&two.join(" "))));
        let names = words.windows(2).filter(|two| two[0] == "fn" && two[1].len() > NAME_CHARS_MAX);
        found.names.extend(names.map(|two| place(two[1])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pairs_and_long_names_are_found_with_their_lines() {
        let mut found = Found::default();
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        let text =
            format!("Nobody tells_it\nthat a person, if told, `fn {long}()`\nfn short() {{}} passed_over");
        count("a.rs", &text, &mut found);
        let words = ["a.rs:1: Nobody", "a.rs:2: told", "a.rs:2: a person"];
        assert_eq!(
            found,
            Found { words: words.map(str::to_owned).into(), names: vec![format!("a.rs:2: {long}")] }
        );
    }
}
