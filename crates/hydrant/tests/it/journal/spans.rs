//! Spans: an append and a hydrate, with their ids.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use hydrant::MemoryStore;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::open;

/// Notes each span's name and fields, in the order in which they were recorded.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("hydrant::journal")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut spans = self.0.lock().unwrap();
        let mut text = span.metadata().name().to_owned();
        span.record(&mut Fields(&mut text));
        spans.push(text);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let index = usize::try_from(span.into_u64()).unwrap() - 1;
        values.record(&mut Fields(&mut self.0.lock().unwrap()[index]));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn append_and_hydrate_have_spans_with_ids() {
    let spans = Spans::default();
    // With one dispatcher alone, a call site is judged by the thread that reaches it first, which may be another test's.
    let _second = tracing::Dispatch::new(spans.clone());
    let _guard = tracing::subscriber::set_default(spans.clone());
    let journal = open(MemoryStore::default()).await;
    journal.append_all(&["a".to_owned(), "b".to_owned()]).await.unwrap();
    journal.append(&"c".to_owned()).await.unwrap();
    journal.hydrate(0, |count, _| *count += 1).await.unwrap();
    let spans = spans.0.lock().unwrap();
    assert_eq!(
        *spans,
        ["append first=0 last=1 callers=1", "append first=2 last=2 callers=1", "hydrate events=3 head=2"]
    );
}
