//! `udp://HOST:PORT`: datagrams out as a sink; as a source, a listener on that address.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use hydrant::{Error, ErrorKind, EventId, EventSource, EventStream, ReadFrom, Result, Retry};
use hydrant_udp::{Interface, Oversize, Received, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions};

use crate::stores::{Finding, Findings, OpenSink, OptionRow, Place, Reads, Scheme, StoreStatus, rows};
use crate::url::{OptionSpec, StoreUrl, apply};
use crate::values::{parse_bool, parse_bytes, parse_duration, parse_number, show_bytes, show_duration};

/// The scheme `udp`.
pub(crate) struct Udp;

/// Settings of both sides.
#[derive(Clone, Debug, Default)]
struct Settings {
    sink: UdpSinkOptions,
    listener: UdpListenerOptions,
    /// Where a listener fetches what is missing.
    refill: Option<StoreUrl>,
}

const OPTIONS: &[OptionSpec<Settings>] = &[
    OptionSpec {
        name: "datagram_bytes_max",
        takes: "SIZE",
        about: "sending: the largest payload of a datagram",
        show: |settings| show_bytes(settings.sink.datagram_bytes_max),
        set: |mut settings, value| {
            let bytes = parse_bytes(value)?;
            if !(128..=65_507).contains(&bytes) {
                return Err(format!("{value} is out of range; take 128 to 65507, or 1472 for Ethernet"));
            }
            settings.sink.datagram_bytes_max = bytes;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "oversize",
        takes: "park|skip|chunk",
        about: "sending: what becomes of an event larger than a datagram: the sink parks, it is skipped, it is sent in chunks",
        show: |settings| oversize_name(settings.sink.oversize).to_owned(),
        set: |mut settings, value| {
            settings.sink.oversize = match value {
                "park" => Oversize::Park,
                "skip" => Oversize::Skip,
                "chunk" => Oversize::Chunk,
                _ => return Err(format!("`{value}` is none of park, skip, chunk")),
            };
            Ok(settings)
        },
    },
    OptionSpec {
        name: "multicast_ttl",
        takes: "N",
        about: "sending: how many routers a multicast datagram may pass, 0 to 255",
        show: |settings| settings.sink.multicast_ttl.to_string(),
        set: |mut settings, value| {
            settings.sink.multicast_ttl = parse_number(value)?;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "name_predecessor",
        takes: "true|false",
        about: "sending: whether each datagram names the event before it, so that listeners tell a loss from a gap in the ids",
        show: |settings| settings.sink.name_predecessor.to_string(),
        set: |mut settings, value| {
            settings.sink.name_predecessor = parse_bool(value)?;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "event_bytes_max",
        takes: "SIZE",
        about: "the largest event sent or received in chunks",
        show: |settings| show_bytes(settings.sink.event_bytes_max),
        set: |mut settings, value| {
            settings.sink.event_bytes_max = parse_bytes(value)?;
            settings.listener.event_bytes_max = settings.sink.event_bytes_max;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "receive_buffer_bytes",
        takes: "SIZE",
        about: "listening: the kernel's receive buffer to ask for",
        show: |settings| show_bytes(settings.listener.receive_buffer_bytes),
        set: |mut settings, value| {
            settings.listener.receive_buffer_bytes = parse_bytes(value)?;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "reorder_max",
        takes: "DURATION",
        about: "listening: how long an event waits for one with a lower id before the gap is told",
        show: |settings| show_duration(settings.listener.reorder_max),
        set: |mut settings, value| {
            settings.listener.reorder_max = parse_duration(value)?;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "senders",
        takes: "IP,IP,...",
        about: "listening: whose datagrams are taken",
        show: |settings| match &settings.listener.senders[..] {
            [] => "everybody's".to_owned(),
            senders => senders.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        },
        set: |mut settings, value| {
            let parse = |text: &str| text.parse().map_err(|_| format!("`{text}` is not an IP address"));
            settings.listener.senders = value.split(',').map(parse).collect::<std::result::Result<_, _>>()?;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "interface",
        takes: "IPV4|INDEX",
        about: "the interface that multicast leaves or arrives by: its IPv4 address, or for IPv6 its index",
        show: |settings| match settings.sink.multicast_interface {
            Some(Interface::Address(address)) => address.to_string(),
            Some(Interface::Index(index)) => index.to_string(),
            None => "the system's choice".to_owned(),
        },
        set: |mut settings, value| {
            let index = || value.parse().map(Interface::Index);
            let interface = value.parse().map(Interface::Address).or_else(|_| index());
            let interface =
                interface.map_err(|_| format!("`{value}` is neither an IPv4 address nor an index"))?;
            settings.sink.multicast_interface = Some(interface);
            settings.listener.multicast_interface = Some(interface);
            Ok(settings)
        },
    },
    OptionSpec {
        name: "refill",
        takes: "URL",
        about: "listening: the log to fetch missing events from, its options percent-encoded",
        show: |settings| settings.refill.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
        set: |mut settings, value| {
            let refill: StoreUrl = value.parse()?;
            if refill.reads() != Reads::Again {
                return Err(format!("{refill} cannot be read again and again; name a log"));
            }
            settings.refill = Some(refill);
            Ok(settings)
        },
    },
];

fn oversize_name(oversize: Oversize) -> &'static str {
    match oversize {
        Oversize::Skip => "skip",
        Oversize::Chunk => "chunk",
        _ => "park",
    }
}

impl Scheme for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }

    fn syntax(&self) -> &'static str {
        "udp://HOST:PORT[?OPTION=VALUE&...]"
    }

    fn about(&self) -> &'static str {
        "one datagram an event, to a host or a multicast group; `tail` listens on that address"
    }

    fn options(&self) -> Vec<OptionRow> {
        rows(OPTIONS)
    }

    fn parse(&self, target: &str, query: &[(String, String)]) -> std::result::Result<Arc<dyn Place>, String> {
        let address = target.strip_prefix("//").unwrap_or(target).trim_end_matches('/');
        let wrong = || {
            format!(
                "`{address}` is not HOST:PORT; write for example udp://127.0.0.1:9000 or udp://[::1]:9000"
            )
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || !bare || host.contains(['/', '@', ' ']) {
            return Err(wrong());
        }
        if !matches!(port.parse::<u16>(), Ok(1..)) {
            return Err(format!("`{port}` is not a port, a number from 1 to 65535"));
        }
        Ok(Arc::new(UdpPlace { address: address.to_owned(), settings: apply(OPTIONS, query)? }))
    }
}

#[derive(Debug)]
struct UdpPlace {
    address: String,
    settings: Settings,
}

#[async_trait]
impl Place for UdpPlace {
    fn target(&self) -> String {
        format!("udp://{}", self.address)
    }

    fn reads(&self) -> Reads {
        Reads::Live
    }

    fn has_memory(&self) -> bool {
        false
    }

    async fn source(&self) -> Result<Arc<dyn EventSource>> {
        let mut options = self.settings.listener.clone();
        if let Some(refill) = &self.settings.refill {
            options.refill = Some(refill.source().await?);
        }
        let complete = options.refill.is_some();
        let listener = Arc::new(UdpListener::open(&self.address, options).await?);
        Ok(if complete { listener } else { Arc::new(TellGaps { listener }) })
    }

    async fn sink(&self) -> Result<OpenSink> {
        let sink = Arc::new(UdpSink::open(&self.address, self.settings.sink.clone()).await?);
        let closing = sink.clone();
        let closing = Box::pin(async move {
            closing.close().await;
            Ok(())
        });
        Ok(OpenSink { sink, closing })
    }

    async fn head(&self) -> Result<Option<EventId>> {
        match &self.settings.refill {
            Some(refill) => refill.head().await,
            None => Ok(None),
        }
    }

    async fn left_over(&self) -> Result<Option<Error>> {
        Ok(None)
    }

    fn verify(&self) -> Findings {
        stream::iter([Err(self.keeps_nothing())]).boxed()
    }

    async fn repair(&self) -> Result<Vec<Finding>> {
        Err(self.keeps_nothing())
    }

    async fn status(&self) -> Result<StoreStatus> {
        Err(self.keeps_nothing())
    }
}

impl UdpPlace {
    fn keeps_nothing(&self) -> Error {
        let message =
            "datagrams are not kept, so there is nothing to look at; `hydrant tail` listens to them";
        Error::new(ErrorKind::Unsupported, Retry::Never, message).in_log(self.target())
    }
}

/// A listener without a refill: what did not arrive is told in the log, and the rest goes on.
struct TellGaps {
    listener: Arc<UdpListener>,
}

impl EventSource for TellGaps {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.listener.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let listener = self.listener.clone();
        let events = listener.received(from).filter_map(move |received| {
            let _open = &listener; // as long as somebody listens
            std::future::ready(match received {
                Ok(Received::Event(event)) => Some(Ok(event)),
                Ok(Received::Gap { after, before }) => {
                    let after = after.map_or_else(|| "the beginning".to_owned(), |id| id.to_string());
                    tracing::warn!(
                        "events between {after} and {before} did not arrive; a refill would fetch them"
                    );
                    None
                }
                Err(error) => Some(Err(error)),
            })
        });
        events.boxed()
    }
}
