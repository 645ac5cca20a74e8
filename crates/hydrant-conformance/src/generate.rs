//! Test data: events of every shape, the same for the same seed.

use fastrand::Rng;
use hydrant::{Event, EventId};

/// Generates events from a seed.
///
/// ```
/// use hydrant_conformance::Generator;
///
/// let log = Generator::new(7).log(3);
/// assert_eq!(log, Generator::new(7).log(3));
/// assert_eq!(log[2].id().get(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Generator {
    rng: Rng,
}

/// Text that breaks careless encoders: line breaks of every kind, quotes, escapes, controls, and a
/// character of every Unicode plane that has any.
const TEXTS: [&str; 6] = [
    "plain",
    "line\nbreak\r\nand\u{2028}\u{2029}\u{85}tab\t",
    "quotes \" ' ` and \\ back/slashes \\\" \\n",
    "\u{0}\u{1}\u{1f}\u{7f}\u{fffd}\u{feff}",
    "é ß ж 中 אב \u{1F6B0}\u{1D11E} \u{20000}\u{2A6DF} \u{30000} \u{E0001} \u{F0000} \u{10FFFD}",
    "_hydrant eventId stateChanged },{ ]",
];

/// Numbers that change when they pass through a double or an integer.
const NUMBERS: [&str; 8] = [
    "9007199254740993",
    "1.0",
    "1e400",
    "-0",
    "1E+2",
    "0.10",
    "18446744073709551616",
    "123456789012345678901234567890.5",
];

impl Generator {
    /// A generator that always yields the same for this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.rng.usize(..end)
    }

    /// `count` events with ids from 0 on, of mixed shapes.
    pub fn log(&mut self, count: usize) -> Vec<Event> {
        (0..count as u64).map(|id| self.event(id)).collect()
    }

    /// `count` events after `after`, with ids that leave gaps.
    pub fn gapped(&mut self, after: Option<EventId>, count: usize) -> Vec<Event> {
        let mut id = after.map_or(0, |after| after.get() + 1);
        let mut next = || {
            id += self.rng.u64(0..4) * self.rng.u64(0..4);
            id += 1;
            id - 1
        };
        let ids: Vec<_> = (0..count).map(|_| next()).collect();
        ids.into_iter().map(|id| self.event(id)).collect()
    }

    /// A log of `count` events, of which every `every`th is a snapshot, beginning with one.
    pub fn rotated(&mut self, count: usize, every: usize) -> Vec<Event> {
        let event = |id: usize| {
            if id.is_multiple_of(every) { self.snapshot(id as u64) } else { self.event(id as u64) }
        };
        (0..count).map(event).collect()
    }

    /// An event of a random shape: mostly small, some with every part of an envelope.
    pub fn event(&mut self, id: u64) -> Event {
        let text = serde_json::Value::from(TEXTS[self.below(TEXTS.len())]);
        let number = NUMBERS[self.below(NUMBERS.len())];
        let payload =
            format!(r#"{{"tag":"Generated","z":{number},"a":{text},"of":"{:x}"}}"#, self.rng.u64(..));
        let builder = Event::builder(EventId::new(id)).payload_json(payload);
        let builder = match self.below(4) {
            0 => builder,
            // Times fall and repeat: they order nothing.
            1 => builder.time(format!("20{:02}-01-05T09:00:00.000000000789Z", self.below(90) + 10)),
            2 => builder.time("2026-01-05T09:00:00Z").metadata_json(r#"{"trace":"0-1","b":1.0,"a":[]}"#),
            _ => builder.member("origin", "\"alice\"").member("weight", "1.50"),
        };
        builder.build().expect("generated parts are valid")
    }

    /// A snapshot event.
    pub fn snapshot(&mut self, id: u64) -> Event {
        let payload = format!(r#"{{"tag":"Snapshot","of":"{:x}"}}"#, self.rng.u64(..));
        let builder = Event::builder(EventId::new(id)).payload_json(payload).snapshot();
        builder.build().expect("generated parts are valid")
    }

    /// An event whose envelope is exactly `bytes` long (at least 64).
    pub fn sized(&mut self, id: u64, bytes: usize) -> Event {
        let build = |filling: usize| {
            let payload = format!("\"{}\"", "x".repeat(filling));
            Event::builder(EventId::new(id)).payload_json(payload).build().expect("a string is valid")
        };
        let frame = build(0).size();
        build(bytes.saturating_sub(frame))
    }

    /// The payloads that careless stores change or lose, none longer than `bytes_max`.
    pub fn payloads(bytes_max: usize) -> Vec<String> {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let long = |bytes: usize| format!("\"{}\"", "y".repeat(bytes - 2));
        let mut payloads: Vec<String> =
            ["{}", "[]", "\"\"", "10", "null", "true", r#"{"a":{"a":{"a":[[],{}]}},"a ":" "}"#]
                .map(str::to_owned)
                .into();
        payloads.extend(TEXTS.map(|text| serde_json::Value::from(text).to_string()));
        payloads.extend(NUMBERS.map(|number| format!(r#"{{"b":{number},"a":[{number},{{"b":{number}}}]}}"#)));
        // Escapes stay as they were written, also needless ones.
        payloads.push(r#""\u0041\/\u00e9\ud83d\udeb0""#.to_owned());
        // White space inside of a payload belongs to it.
        payloads.push(r#"{ "b" : 1 ,	"a": [ 1, 2 ] }"#.to_owned());
        payloads.push(r#"{"_hydrant":"not the envelope's","eventId":-1,"isSnapshot":true}"#.to_owned());
        payloads.extend([100, 5_000].map(deep));
        payloads.extend([1_023, 1_024, 1_025, 65_535, 65_536, 65_537, 1 << 20].map(long));
        payloads.retain(|payload| payload.len() <= bytes_max);
        payloads
    }
}
