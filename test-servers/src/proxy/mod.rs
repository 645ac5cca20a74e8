//! Proxies between a client and a server on loopback, which break what passes when a test says so.
//!
//! [`Tcp`], of `hydrant-conformance`, knows bytes and connections; [`Http`] knows requests and answers. Both pass
//! everything until a fault is armed, count what they see, and end with their connections when they are dropped.
//!
//! ```no_run
//! # async fn test(server: std::net::SocketAddr) {
//! use test_servers::proxy::{Fault, Tcp, When};
//!
//! let proxy = Tcp::start(server).await;
//! // The client connects to `proxy.address()`. The server commits, and its answer is lost:
//! proxy.once(When::Sends(b"COMMIT".to_vec()), Fault::LoseAnswer);
//! // The server is gone, until it is back:
//! proxy.always(Fault::Refuse).await;
//! proxy.cut();
//! proxy.heal().await;
//! # }
//! ```
//!
//! ```no_run
//! # async fn test(server: std::net::SocketAddr) {
//! use test_servers::proxy::{Action, Answer, Http};
//!
//! let proxy = Http::start(server).await;
//! // The client's endpoint is `proxy.endpoint()`. The next two puts are turned away:
//! proxy.next(2, |request| request.method == "PUT", Action::Answer(Answer::s3(503, "SlowDown")));
//! # }
//! ```

mod answer;
mod http;

pub use answer::Answer;
pub use http::{Action, Gate, Http, operation};
pub use hydrant_conformance::proxy::{Fault, Tcp, When};
