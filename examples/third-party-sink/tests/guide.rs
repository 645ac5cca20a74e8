//! The guide shows the current code of this package.

const GUIDE: &str = include_str!("../../../docs/writing-a-sink.md");

#[test]
fn the_guide_shows_the_sink_as_it_is() {
    assert!(GUIDE.contains(include_str!("../src/lib.rs")), "copy src/lib.rs into docs/writing-a-sink.md");
}

#[test]
fn the_guide_shows_the_test_as_it_is() {
    assert!(
        GUIDE.contains(include_str!("conformance.rs")),
        "copy tests/conformance.rs into docs/writing-a-sink.md"
    );
}
