//! Metadata: where an event comes from, beside its payload.

use serde::{Deserialize, Serialize};

/// Where an event comes from, kept beside its payload in the envelope's `metadata`.
///
/// ```
/// let metadata = hydrant::Metadata::default().with_correlation("order-17").with_trace("00-4bf9-01");
/// assert_eq!(metadata.correlation.as_deref(), Some("order-17"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Metadata {
    /// The request or the process that this event is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
    /// What caused this event, for example the id of a command or of another event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation: Option<String>,
    /// The trace context, as W3C `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

impl Metadata {
    /// Sets the request or the process that the events are part of.
    #[must_use]
    pub fn with_correlation(mut self, correlation: impl Into<String>) -> Self {
        self.correlation = Some(correlation.into());
        self
    }

    /// Sets what caused the events.
    #[must_use]
    pub fn with_causation(mut self, causation: impl Into<String>) -> Self {
        self.causation = Some(causation.into());
        self
    }

    /// Sets the trace context.
    #[must_use]
    pub fn with_trace(mut self, trace: impl Into<String>) -> Self {
        self.trace = Some(trace.into());
        self
    }
}
