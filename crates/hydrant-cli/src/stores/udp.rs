//! `udp://HOST:PORT`: datagrams out as a sink; as a source, a listener on that address.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use hydrant::{Error, ErrorKind, EventId, EventSource, EventStream, ReadFrom, Result, Retry};
use hydrant_udp::{Interface, Oversize, Received, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions};

use crate::options::{Kind, Options, bytes, choice, duration, flag, number};
use crate::stores::{Finding, Findings, Keeper, OpenSink, Place, Reads, Scheme, StoreStatus};
use crate::url::{Query, StoreUrl, percent_decode};
use crate::values::Parsed;

/// The scheme `udp`.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "udp",
    syntax: "udp://HOST:PORT[?OPTION=VALUE&...]",
    about: "one datagram an event, to a host or a multicast group; `tail` listens on that address",
    options: || options().rows(),
    parse,
};

/// Settings of both sides.
#[derive(Clone, Debug, Default)]
struct Settings {
    sink: UdpSinkOptions,
    listener: UdpListenerOptions,
    /// Where a listener fetches what is missing.
    refill: Option<StoreUrl>,
}

fn options() -> Options<Settings> {
    let datagram = bytes().only(
        |bytes| (128..=65_507).contains(bytes),
        "is out of range; take 128 to 65507, or 1472 for Ethernet",
    );
    let oversize = choice(&[("park", Oversize::Park), ("skip", Oversize::Skip), ("chunk", Oversize::Chunk)]);
    Options::<Settings>::new()
        .with("datagram_bytes_max", datagram, "sending: the largest payload of a datagram", |settings| {
            &mut settings.sink.datagram_bytes_max
        })
        .with(
            "oversize",
            oversize,
            "sending: what becomes of an event larger than a datagram: the sink parks, it is skipped, it is sent in chunks",
            |settings| &mut settings.sink.oversize,
        )
        .with(
            "multicast_ttl",
            number(),
            "sending: how many routers a multicast datagram may pass, 0 to 255",
            |settings| &mut settings.sink.multicast_ttl,
        )
        .with(
            "name_predecessor",
            flag(),
            "sending: whether each datagram names the event before it, so that listeners distinguish a loss from a gap in the ids",
            |settings| &mut settings.sink.name_predecessor,
        )
        .with("event_bytes_max", bytes(), "the largest event sent or received in chunks", |settings| {
            &mut settings.sink.event_bytes_max
        })
        .with(
            "receive_buffer_bytes",
            bytes(),
            "listening: the kernel's receive buffer to ask for",
            |settings| &mut settings.listener.receive_buffer_bytes,
        )
        .with(
            "reorder_max",
            duration(),
            "listening: how long an event waits for one with a lower id before the gap is reported",
            |settings| &mut settings.listener.reorder_max,
        )
        .with("senders", senders(), "listening: whose datagrams are taken", |settings| {
            &mut settings.listener.senders
        })
        .with(
            "interface",
            interface().or("the system's choice"),
            "the interface that multicast leaves or arrives by: its IPv4 address, or for IPv6 its index",
            |settings| &mut settings.sink.multicast_interface,
        )
        .with(
            "refill",
            log().or("none"),
            "listening: the log to fetch missing events from, its options percent-encoded",
            |settings| &mut settings.refill,
        )
}

fn senders() -> Kind<Vec<IpAddr>> {
    let sender = |text: &str| text.parse().map_err(|_| format!("`{text}` is not an IP address"));
    Kind::new(
        "IP,IP,...",
        move |text| text.split(',').map(sender).collect(),
        |senders: &Vec<IpAddr>| match &senders[..] {
            [] => "everybody's".to_owned(),
            senders => senders.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        },
    )
}

fn interface() -> Kind<Interface> {
    let read = |text: &str| {
        let index = || text.parse().map(Interface::Index);
        let interface = text.parse().map(Interface::Address).or_else(|_| index());
        interface.map_err(|_| format!("`{text}` is neither an IPv4 address nor an index"))
    };
    Kind::new("IPV4|INDEX", read, |interface| match interface {
        Interface::Address(address) => address.to_string(),
        Interface::Index(index) => index.to_string(),
    })
}

fn log() -> Kind<StoreUrl> {
    let read = |text: &str| {
        let log: StoreUrl = text.parse()?;
        if log.reads() == Reads::Again {
            Ok(log)
        } else {
            Err(format!("{log} cannot be read again and again; name a log"))
        }
    };
    Kind::new("URL", read, StoreUrl::to_string)
}

fn parse(target: &str, query: &Query) -> Parsed<Arc<dyn Place>> {
    let target = percent_decode(target)?;
    let address = target.strip_prefix("//").unwrap_or(&target).trim_end_matches('/');
    let wrong = || {
        format!("`{address}` is not HOST:PORT; write for example udp://127.0.0.1:9000 or udp://[::1]:9000")
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || !bare || host.contains(['/', '@', ' ']) {
        return Err(wrong());
    }
    if !matches!(port.parse::<u16>(), Ok(1..)) {
        return Err(format!("`{port}` is not a port, a number from 1 to 65535"));
    }
    let mut settings = options().apply(query)?;
    settings.listener.event_bytes_max = settings.sink.event_bytes_max;
    settings.listener.multicast_interface = settings.sink.multicast_interface;
    Ok(Arc::new(UdpPlace { address: address.to_owned(), settings }))
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
        Ok(if complete { listener } else { Arc::new(LogGaps { listener }) })
    }

    async fn sink(&self, _: Option<Keeper>) -> Result<OpenSink> {
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

    async fn verify(&self) -> Result<Findings> {
        Err(self.keeps_nothing())
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
        Error::new(ErrorKind::Unsupported, Retry::Never, message).at_target(self.target())
    }
}

/// A listener without a refill. It logs a warning for events that did not arrive, and continues with the rest.
struct LogGaps {
    listener: Arc<UdpListener>,
}

impl EventSource for LogGaps {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.listener.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let listener = self.listener.clone();
        let events = listener.received(from).filter_map(move |received| {
            let _open = &listener; // the listener stays open as long as its stream
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
