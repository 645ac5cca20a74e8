//! Private servers without a Docker engine, on loopback, each on a free port and with its data in a directory
//! of its own: for tests that kill them.
//!
//! ```no_run
//! let dir = std::env::temp_dir().join(test_servers::namespace());
//! let mut server = match test_servers::native::Postgres::start(&dir) {
//!     Ok(server) => server,
//!     Err(reason) => return println!("skipped: {reason}"),
//! };
//! println!("{}", server.url());
//! server.kill(); // -9
//! server.restart(); // the same port and data
//! ```
//!
//! What a server needs is installed on first use under `target/servers`, in pinned versions. A server ends when it
//! is dropped, and also when the process that started it ends in any other way.

mod install;
mod kinesalite;
mod kinesis_local;
mod localstack;
// The same text as in the kit, which this package builds without where no proxy is needed.
#[path = "../../../crates/hydrant-conformance/src/machine.rs"]
mod machine;
mod ministack;
mod postgres;
mod process;
mod server;

pub use kinesalite::KinesaliteServer;
pub use kinesis_local::KinesisLocalServer;
pub use localstack::LocalStackServer;
pub use ministack::MiniStackServer;
pub use postgres::PostgresServer;
pub(crate) use postgres::answers as postgres_answers;
pub use process::until;
pub use server::{Program, Server};

/// A Postgres cluster of its own.
pub type Postgres = Server<PostgresServer>;
/// S3, with conditional writes that hold in a race, keeping its objects over a restart.
pub type MiniStack = Server<MiniStackServer>;
/// Kinesis, with resharding and enhanced fan-out; its streams are gone after a restart.
pub type KinesisLocal = Server<KinesisLocalServer>;
/// Kinesis, keeping its streams over a restart; without enhanced fan-out.
pub type Kinesalite = Server<KinesaliteServer>;
/// S3 and Kinesis at one endpoint, as users of the examples have it; keeps nothing over a restart.
pub type LocalStack = Server<LocalStackServer>;
