//! Whether a server offers TLS, where the driver says that it does not.
//!
//! Asked for TLS, a server answers with one byte: `S`, `N`, or `E` and a text when it cannot even start a process
//! for the connection. The driver takes everything but `S` for a no, and a no is for good.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hydrant::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::error;
use super::hosts::{Host, Server};
use crate::error::OneLine;

/// TLS that notes that it began, which it does once the server accepts TLS.
pub(super) struct Noted<T> {
    tls: T,
    began: Arc<AtomicBool>,
}

impl<T> Noted<T> {
    pub(super) fn new(tls: T) -> Self {
        Self { tls, began: Arc::default() }
    }

    pub(super) fn began(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.began)
    }
}

impl<S, T: MakeTlsConnect<S>> MakeTlsConnect<S> for Noted<T> {
    type Stream = T::Stream;
    type TlsConnect = Noted<T::TlsConnect>;
    type Error = T::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        Ok(Noted { tls: self.tls.make_tls_connect(domain)?, began: self.began() })
    }
}

impl<S, T: TlsConnect<S>> TlsConnect<S> for Noted<T> {
    type Stream = T::Stream;
    type Error = T::Error;
    type Future = T::Future;

    fn connect(self, stream: S) -> Self::Future {
        self.began.store(true, Ordering::Release);
        self.tls.connect(stream)
    }
}

/// What a server meant that was asked for TLS and did not say yes: it is asked once more.
pub(super) async fn not_taken(server: &Server, config: &Config, cause: tokio_postgres::Error) -> Error {
    if matches!(answer(server, config).await, Ok(b'N')) {
        return error::connecting(cause);
    }
    let message =
        "the server did not say whether it offers TLS, as when it has no process to spare; look into its log";
    Error::unavailable(message).because(OneLine(cause))
}

/// The byte that a server answers to a request for TLS.
async fn answer(server: &Server, config: &Config) -> io::Result<u8> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let Host::Tcp(name) = &server.host else { return Err(io::ErrorKind::Unsupported.into()) };
    let mut stream = match config.get_hostaddrs().first() {
        Some(address) => TcpStream::connect((*address, server.port)).await?,
        None => TcpStream::connect((name.as_str(), server.port)).await?,
    };
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await
}
