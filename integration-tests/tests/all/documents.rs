//! The documents of the workspace: all files that they link to exist.

use std::path::{Path, PathBuf};

/// Finds all Markdown files below `dir`, except built and hidden ones.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// Returns the targets of `](...)` and `src="..."` within the workspace.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let sources = text.split(" src=\"").skip(1).filter_map(|rest| rest.split_once('"'));
    let paths = inline.chain(sources).map(|(link, _)| link.split('#').next().unwrap_or(link));
    paths.filter(|path| !path.is_empty() && !path.contains("://") && !path.contains(char::is_whitespace))
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    documents(root, &mut found);
    let mut checked = 0;
    let mut broken = Vec::new();
    for document in &found {
        let text = std::fs::read_to_string(document).unwrap();
        for link in links(&text) {
            checked += 1;
            if !document.parent().unwrap().join(link).exists() {
                broken.push(format!("{}: {link}", document.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(found.len() > 5 && checked > 20, "{checked} links in {} documents", found.len());
}
