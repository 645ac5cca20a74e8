//! The page of guarantees names tests, checkers and commands, and all of them exist.

use std::path::{Path, PathBuf};

/// A source file: its path below the workspace, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Returns whether the file has this test: a function with the attribute, or a row in the kit's table of cases.
    fn has_test(&self, name: &str) -> bool {
        let lines: Vec<_> = self.text.lines().map(str::trim).collect();
        let function = format!("fn {name}(");
        let row = format!(" {name} [");
        lines.iter().enumerate().any(|(at, line)| {
            let is_function = line.trim_start_matches("async ").starts_with(&function);
            let mut before = lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
            let is_attribute = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let is_test = is_function && before.any(is_attribute);
            is_test || (line.starts_with(|first: char| first.is_ascii_digit()) && line.contains(&row))
        })
    }

    /// Returns the path as the name of a module, which is how filters name tests.
    fn module(&self) -> String {
        self.path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn sources_below(dir: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push(Source { path: path.strip_prefix(root()).unwrap().display().to_string(), text });
        }
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    sources_below(root(), &mut found);
    found
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap()
}

/// Returns the texts between backticks.
fn code(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// Returns the directory of a package of the workspace.
fn directory_of(package: &str) -> Option<String> {
    let directories = [format!("crates/{package}"), format!("examples/{package}"), package.to_owned()];
    directories.into_iter().find(|directory| root().join(directory).join("Cargo.toml").exists())
}

#[test]
fn every_test_on_the_page_exists() {
    let (page, sources) = (page(), sources());
    let named: Vec<_> = code(&page).filter_map(|code| code.rsplit_once(".rs::")).collect();
    let mut wrong = Vec::new();
    for (file, test) in &named {
        let file = format!("/{file}.rs");
        let files = sources.iter().filter(|source| format!("/{}", source.path).ends_with(&file));
        let found = files.filter(|source| source.has_test(test)).count();
        if found != 1 {
            wrong.push(format!("{found} tests are named {file}::{test}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(named.len() > 80, "{} tests on the page", named.len());
}

#[test]
fn every_checker_on_the_page_exists() {
    let (page, sources) = (page(), sources());
    let simulator: Vec<_> =
        sources.iter().filter(|source| source.path.starts_with("crates/hydrant-sim/")).collect();
    let named: Vec<_> = code(&page).filter_map(|code| code.strip_prefix("checker:")).collect();
    let exists = |name: &&&str| {
        let literal = format!("\"{name}\"");
        simulator.iter().any(|source| source.text.contains("fail(") && source.text.contains(&literal))
    };
    let missing: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(named.len() > 10, "{} checkers on the page", named.len());
}

#[test]
fn every_command_on_the_page_runs_tests() {
    let (page, sources) = (page(), sources());
    let kit =
        sources.iter().find(|source| source.path.ends_with("hydrant-conformance/src/cases/mod.rs")).unwrap();
    let commands: Vec<_> = code(&page).filter_map(|code| code.strip_prefix("cargo xtask test -p ")).collect();
    let mut wrong = Vec::new();
    for command in &commands {
        let mut words = command.split_whitespace();
        let package = words.next().unwrap_or_default();
        let Some(directory) = directory_of(package) else {
            wrong.push(format!("{command}: no such package"));
            continue;
        };
        let own: Vec<_> =
            sources.iter().filter(|source| source.path.starts_with(&format!("{directory}/"))).collect();
        let is_enrolled = own.iter().any(|source| source.text.contains("_suite!("));
        for filter in words {
            let module = filter.trim_end_matches("::");
            let is_module = own.iter().any(|source| source.module().contains(module));
            let is_case = is_enrolled && kit.text.contains(&format!(" {filter}"));
            if !is_module && !is_case && !own.iter().any(|source| source.has_test(filter)) {
                wrong.push(format!("{command}: nothing is named like {filter}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(commands.len() > 10, "{} commands on the page", commands.len());
}
