//! A proxy between a client and a server on loopback, which breaks connections when a test says so.
//!
//! [`Tcp`] passes everything until a fault is armed, counts what it sees, and ends with all of its connections when
//! it is dropped. A fault that was armed with [`Tcp::once`] and did not fire fails the test when the proxy is dropped,
//! because a test without its fault proves nothing; [`Tcp::heal`] forgets it.
//!
//! ```no_run
//! # async fn test(server: std::net::SocketAddr) {
//! use hydrant_conformance::proxy::{Fault, Tcp, When};
//!
//! let proxy = Tcp::start(server).await;
//! // The client connects to `proxy.address()`. The server commits, and its answer is lost:
//! proxy.once(When::Sends(b"COMMIT".to_vec()), Fault::LoseAnswer);
//! // The server is down, until it is up again:
//! proxy.always(Fault::Refuse).await;
//! proxy.cut();
//! proxy.heal().await;
//! # }
//! ```
//!
//! With it a harness makes each kind of failure of a connection in a few lines:
//!
//! ```
//! use hydrant::{Capabilities, Result};
//! use hydrant_conformance::proxy::{Tcp, When};
//! use hydrant_conformance::{Harness, Opened};
//!
//! struct OnServer {
//!     proxy: Tcp,
//! }
//!
//! #[async_trait::async_trait]
//! impl Harness for OnServer {
//! #   fn capabilities(&self) -> Capabilities { Capabilities::NONE }
//! #   async fn open(&self, _namespace: &str) -> Result<Opened> { unimplemented!() }
//!     // `capabilities`, and `open` with a client that connects to `self.proxy.address()`
//!
//!     async fn fail_next_write(&self, _namespace: &str, n: usize) -> Result<bool> {
//!         Ok(self.proxy.arm(n, When::Sends(b"XADD".to_vec())))
//!     }
//!
//!     fn unfired(&self, _namespace: &str) -> Vec<String> {
//!         self.proxy.unfired()
//!     }
//!
//!     async fn heal(&self, _namespace: &str) -> Result<()> {
//!         self.proxy.heal().await;
//!         Ok(())
//!     }
//! }
//! ```

mod fault;
mod link;
mod tcp;

pub use fault::{Fault, When};
pub use tcp::{Tcp, free_port};
