//! Private servers, started for the measurements.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_sdk_kinesis::types::StreamStatus;
use hydrant_benches::{Result, fresh};
use hydrant_kinesis::{KinesisSink, KinesisSinkOptions};
use hydrant_postgres::{PostgresStore, PostgresStoreOptions};
use hydrant_s3::{S3Store, S3StoreOptions};
use test_servers::native::{Kinesalite, MiniStack, Postgres};
use test_servers::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};

pub(crate) const BUCKET: &str = "bench";

/// Starts a cluster that syncs each commit to the disk.
pub(crate) fn postgres(dir: &Path) -> Result<Postgres> {
    Ok(Postgres::start_with(&dir.join("postgres"), &["fsync=on", "full_page_writes=on"])?)
}

/// Starts a server of S3 with an empty bucket.
pub(crate) async fn s3(dir: &Path) -> Result<(MiniStack, aws_sdk_s3::Client)> {
    let server = MiniStack::start(&dir.join("s3"))?;
    let client = s3_client(&server.endpoint()).await?;
    client.create_bucket().bucket(BUCKET).send().await?;
    Ok((server, client))
}

/// Starts a server of Kinesis.
pub(crate) async fn kinesis(dir: &Path) -> Result<(Kinesalite, aws_sdk_kinesis::Client)> {
    let server = Kinesalite::start(&dir.join("kinesis"))?;
    let client = kinesis_client(&server.endpoint()).await?;
    Ok((server, client))
}

async fn s3_client(endpoint: &str) -> Result<aws_sdk_s3::Client> {
    let keys = aws_sdk_s3::config::Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "bench");
    let options = hydrant_s3::ClientOptions::default();
    let options =
        options.with_endpoint(endpoint).with_path_style(true).with_region(REGION).with_credentials(keys);
    Ok(hydrant_s3::connect(&options).await?)
}

async fn kinesis_client(endpoint: &str) -> Result<aws_sdk_kinesis::Client> {
    let keys =
        aws_sdk_kinesis::config::Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "bench");
    let options = hydrant_kinesis::ClientOptions::default();
    let options = options.with_endpoint(endpoint).with_region(REGION).with_credentials(keys);
    Ok(hydrant_kinesis::connect(&options).await?)
}

/// Creates a stream of one shard, and returns its name.
pub(crate) async fn stream(client: &aws_sdk_kinesis::Client, name: &str) -> Result<String> {
    client.create_stream().stream_name(name).shard_count(1).send().await?;
    loop {
        let stream = client.describe_stream_summary().stream_name(name).send().await?;
        let summary = stream.stream_description_summary;
        if summary.is_some_and(|summary| summary.stream_status == StreamStatus::Active) {
            return Ok(name.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Options for kinesalite, which never replies to a look back that begins at a time after its last record.
pub(crate) fn sink_options() -> KinesisSinkOptions {
    KinesisSinkOptions::default().with_read_back_window(Duration::MAX)
}

/// The variables that name the servers' addresses in the environment of a child.
const VARIABLES: [&str; 3] = ["BENCH_POSTGRES", "BENCH_S3", "BENCH_KINESIS"];

/// All three servers.
pub(crate) struct Servers {
    postgres: String,
    endpoints: [String; 2],
    s3: aws_sdk_s3::Client,
    kinesis: aws_sdk_kinesis::Client,
    /// The servers end when this is dropped; `None` if another process started them.
    ours: Option<(Postgres, MiniStack, Kinesalite)>,
    /// The directory of their data, if it is to be removed.
    scratch: Option<PathBuf>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.ours = None;
        if let Some(dir) = self.scratch.take()
            && let Err(cause) = std::fs::remove_dir_all(&dir)
        {
            eprintln!("{}: {cause}", dir.display());
        }
    }
}

impl Servers {
    /// Starts them with their data in this directory. Postgres syncs each commit.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        Self::over(
            postgres(dir)?,
            MiniStack::start(&dir.join("s3"))?,
            Kinesalite::start(&dir.join("kinesis"))?,
        )
        .await
    }

    /// Starts them as if they ran on another machine, as nearly as possible. They get the processors when no other
    /// process needs them. Their data is in memory, if there is a file system for that.
    pub(crate) async fn start_apart() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            memory.join(format!("hydrant-bench-{}", std::process::id()))
        } else {
            fresh("apart")?
        };
        let home = dir.clone();
        // A process has the priority of the thread that starts it.
        let start = move || {
            rustix::process::nice(19)?;
            let postgres = Postgres::start_with(&home.join("postgres"), &["fsync=off"])?;
            let s3 = MiniStack::start(&home.join("s3"))?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((
                postgres,
                s3,
                Kinesalite::start(&home.join("kinesis"))?,
            ))
        };
        let started = std::thread::spawn(start).join().map_err(|_| "a server could not be started")?;
        let (postgres, s3, kinesis) = started?;
        let mut servers = Self::over(postgres, s3, kinesis).await?;
        servers.scratch = Some(dir);
        Ok(servers)
    }

    async fn over(postgres: Postgres, s3_server: MiniStack, kinesis_server: Kinesalite) -> Result<Self> {
        let s3 = s3_client(&s3_server.endpoint()).await?;
        s3.create_bucket().bucket(BUCKET).send().await?;
        let kinesis = kinesis_client(&kinesis_server.endpoint()).await?;
        let endpoints = [s3_server.endpoint(), kinesis_server.endpoint()];
        let url = postgres.url();
        let ours = Some((postgres, s3_server, kinesis_server));
        Ok(Self { postgres: url, endpoints, s3, kinesis, ours, scratch: None })
    }

    /// Takes the servers that the parent process named in the environment.
    pub(crate) async fn from_env() -> Result<Self> {
        let [postgres, s3, kinesis] = VARIABLES.map(std::env::var);
        let (postgres, endpoints) = (postgres?, [s3?, kinesis?]);
        let (s3, kinesis) = (s3_client(&endpoints[0]).await?, kinesis_client(&endpoints[1]).await?);
        Ok(Self { postgres, endpoints, s3, kinesis, ours: None, scratch: None })
    }

    /// Names the servers in the environment of a child.
    pub(crate) fn envs<'a>(&self, child: &'a mut Command) -> &'a mut Command {
        let [s3, kinesis] = &self.endpoints;
        child.envs(VARIABLES.into_iter().zip([&self.postgres, s3, kinesis]))
    }

    pub(crate) async fn postgres(&self, log: &str) -> Result<PostgresStore> {
        Ok(PostgresStore::open(self.postgres.as_str(), log, PostgresStoreOptions::default()).await?)
    }

    pub(crate) async fn s3(&self, prefix: &str) -> Result<S3Store> {
        Ok(S3Store::open(self.s3.clone(), BUCKET, prefix, S3StoreOptions::default()).await?)
    }

    pub(crate) async fn kinesis(&self, log: &str) -> Result<KinesisSink> {
        let stream = stream(&self.kinesis, log).await?;
        Ok(KinesisSink::open(self.kinesis.clone(), &stream, log, sink_options()).await?)
    }
}
