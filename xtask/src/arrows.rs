//! Checks which crate depends on which, as ARCHITECTURE.md states it, with `cargo tree`.

use std::collections::BTreeSet;

use crate::{cargo, root};

/// Every crate that `hydrant` pulls in, directly or not. A new name here is a decision: every user of any part of
/// Hydrant compiles it.
const CORE: &[&str] = &[
    "async-trait",
    "block-buffer",
    "bytes",
    "cfg-if",
    "cpufeatures",
    "crypto-common",
    "digest",
    "fastrand",
    "futures-core",
    "futures-task",
    "futures-util",
    "hybrid-array",
    "hydrant",
    "itoa",
    "jiff",
    "jiff-core",
    "libc",
    "memchr",
    "metrics",
    "once_cell",
    "pin-project-lite",
    "proc-macro2",
    "quote",
    "rapidhash",
    "rustversion",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "sha2",
    "slab",
    "syn",
    "tokio",
    "tokio-macros",
    "tracing",
    "tracing-attributes",
    "tracing-core",
    "typenum",
    "unicode-ident",
    "zmij",
];

/// What the list above must never contain: SDKs, TLS, databases, HTTP.
const NEVER: &[&str] = &[
    "aws-",
    "fjall",
    "h2",
    "heed",
    "hyper",
    "native-tls",
    "openssl",
    "postgres",
    "redb",
    "reqwest",
    "ring",
    "rocksdb",
    "rusqlite",
    "rustls",
    "schannel",
    "security-framework",
    "sled",
    "sqlx",
    "tokio-postgres",
];

/// The crate that only tests may depend on.
const TESTS_ONLY: &str = "test-servers";

/// The conformance kit, whose proxy the servers for tests use. Like a store, it depends on `hydrant` only.
const KIT: &str = "hydrant-conformance";

/// What stores on AWS share: how AWS is reached. It depends on no store.
const SHARED: &str = "hydrant-aws";

/// The crates that combine several stores. All other crates of the workspace depend on `hydrant`, and perhaps on the
/// shared one, only.
const KNOWS_STORES: &[&str] = &["hydrant-api", "hydrant-cli", "hydrant-node", "hydrant-sim"];

/// Fails when a crate has a dependency that it must not have.
pub(crate) fn check() -> Result<(), String> {
    eprintln!("== arrows between the crates");
    let core = tree("hydrant")?;
    let never = |name: &str| NEVER.iter().any(|never| name.starts_with(never));
    if let Some(name) = core.iter().find(|name| never(name)) {
        return Err(format!(
            "`hydrant` depends on {name}: SDKs, TLS and databases belong into a store's crate \
             (`cargo tree -p hydrant -e normal --invert {name}` shows the way)"
        ));
    }
    if let Some(name) = core.iter().find(|name| !CORE.contains(&name.as_str())) {
        return Err(format!(
            "`hydrant` has a new dependency, {name}; if it is worth that everybody compiles it, add it to \
             xtask/src/arrows.rs"
        ));
    }
    let is_store = |name: &&String| name.starts_with("hydrant-") && *name != KIT;
    if let Some(name) = tree(TESTS_ONLY)?.iter().find(is_store) {
        return Err(format!("{TESTS_ONLY} depends on {name}: it knows {KIT} alone, and no store"));
    }
    if tree("xtask")?.contains("hydrant") {
        return Err(
            "xtask depends on hydrant: the first thing that a fresh machine compiles stays small".to_owned()
        );
    }
    for name in crates()? {
        let all = tree(&name)?;
        if all.contains(TESTS_ONLY) {
            return Err(format!(
                "{name} depends on {TESTS_ONLY}, which is not published: make it a dev-dependency"
            ));
        }
        let is_other = |known: &String| known.starts_with("hydrant-") && *known != name && known != SHARED;
        let known = all.into_iter().filter(is_other);
        let known: Vec<_> = known.collect();
        if !known.is_empty() && !KNOWS_STORES.contains(&name.as_str()) {
            return Err(format!("{name} depends on {}: stores know `hydrant` alone", known.join(", ")));
        }
    }
    Ok(())
}

/// Returns the names of a package and of all that it pulls in on this platform with all of its features. Dependencies
/// of tests and build scripts are left out.
fn tree(package: &str) -> Result<BTreeSet<String>, String> {
    let mut command = cargo();
    command.args(["tree", "--package", package, "--all-features", "--edges", "normal", "--prefix", "none"]);
    let output = command.output().map_err(|cause| format!("{command:?} did not start: {cause}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let names = String::from_utf8_lossy(&output.stdout);
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    Ok(names.lines().filter_map(name).collect())
}

/// Returns the crates in `crates/`, each named like its directory.
fn crates() -> Result<Vec<String>, String> {
    let dir = root().join("crates");
    let entries = std::fs::read_dir(&dir).map_err(|cause| format!("{}: {cause}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| format!("{}: {cause}", dir.display()))?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
