//! Each private server through its life.

use std::fs;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use test_servers::native::{
    Kinesalite, KinesisLocal, LocalStack, MiniStack, Postgres, Program, Server, until,
};
use test_servers::{Service, namespace, request};

/// So long that only a hang takes longer: installing is in it.
const PATIENCE: Duration = Duration::from_secs(900);

/// A directory that removes itself.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        Self(std::env::temp_dir().join(namespace()))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Start, -9, restart on the same port, end.
fn lives<P: Program>(service: Service) {
    let dir = Dir::new();
    let mut server = match Server::<P>::start(&dir.0) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (url, address) = (server.url_of(service).expect("it has this service"), server.address());
    assert!(service.answers(&url), "{url}");
    server.kill();
    assert!(!service.answers(&url), "{url}");
    assert_eq!(server.pid(), None);
    server.restart();
    assert_eq!(server.address(), address);
    assert!(service.answers(&url), "{url}");
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn postgres_lives_and_dies() {
    lives::<test_servers::native::PostgresServer>(Service::Postgres);
}

#[test]
fn ministack_lives_and_dies() {
    lives::<test_servers::native::MiniStackServer>(Service::S3);
}

#[test]
fn kinesis_local_lives_and_dies() {
    lives::<test_servers::native::KinesisLocalServer>(Service::Kinesis);
}

#[test]
fn kinesalite_lives_and_dies() {
    lives::<test_servers::native::KinesaliteServer>(Service::Kinesis);
}

#[test]
fn localstack_lives_and_dies() {
    lives::<test_servers::native::LocalStackServer>(Service::Kinesis);
}

#[test]
fn two_servers_at_once_are_strangers() {
    let (dir, other) = (Dir::new(), Dir::new());
    let (one, other) = match (MiniStack::start(&dir.0), MiniStack::start(&other.0)) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(reason), _) | (_, Err(reason)) => return println!("skipped: {reason}"),
    };
    assert_ne!(one.port(), other.port());
    assert_eq!(request(one.address(), "PUT", "/mine", &[], "").unwrap().0, 200);
    assert_eq!(request(one.address(), "HEAD", "/mine", &[], "").unwrap().0, 200);
    assert_eq!(request(other.address(), "HEAD", "/mine", &[], "").unwrap().0, 404);
}

#[test]
fn objects_survive_a_kill() {
    let dir = Dir::new();
    let mut server = match MiniStack::start(&dir.0) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    assert_eq!(request(server.address(), "PUT", "/hydrant-test/a", &[], "kept").unwrap().0, 200);
    server.kill();
    server.restart();
    assert_eq!(
        request(server.address(), "GET", "/hydrant-test/a", &[], "").unwrap(),
        (200, "kept".to_owned())
    );
}

/// As a kill leaves it between its two files. Nothing was acknowledged, and S3 would not have it.
#[test]
fn an_object_without_metadata_is_gone_after_a_restart() {
    let dir = Dir::new();
    let mut server = match MiniStack::start(&dir.0) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    for key in ["whole", "deep/half"] {
        let put = request(server.address(), "PUT", &format!("/hydrant-test/{key}"), &[], "text").unwrap();
        assert_eq!(put.0, 200);
    }
    server.kill();
    let accounts = std::fs::read_dir(server.dir().join("s3")).unwrap();
    let metadata = accounts.map(|account| account.unwrap().path().join("hydrant-test/deep/half.meta.json"));
    let metadata: Vec<_> = metadata.filter(|path| path.exists()).collect();
    assert_eq!(metadata.len(), 1, "{metadata:?}");
    std::fs::remove_file(&metadata[0]).unwrap();
    server.restart();
    let get =
        |key: &str| request(server.address(), "GET", &format!("/hydrant-test/{key}"), &[], "").unwrap().0;
    assert_eq!((get("whole"), get("deep/half")), (200, 404));
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    let dir = Dir::new();
    let reason = Postgres::launch(&dir.0, &["shared_buffers=much"], None).map(drop).unwrap_err();
    if reason.starts_with("no Postgres") {
        return println!("skipped: {reason}");
    }
    assert!(reason.contains("invalid value for parameter"), "{reason}");
}

#[test]
fn a_file_that_is_put_is_read_at_the_restart() {
    let dir = Dir::new();
    let mut server = match Postgres::start_with(&dir.0, &["max_connections=17"]) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    assert!(server.socket_dir().join(format!(".s.PGSQL.{}", server.port())).exists());
    server.put_file("pg_hba.conf", b"nonsense\n");
    let result = catch_unwind(AssertUnwindSafe(|| server.restart_within(Duration::ZERO)));
    let message = *result.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("pg_hba.conf"), "{message}");
}

/// Not a test: what [`servers_end_with_the_process_that_started_them`] starts and kills.
#[test]
#[ignore = "run by servers_end_with_the_process_that_started_them"]
fn start_and_hang() {
    let dir = PathBuf::from(std::env::var_os("TEST_SERVERS_DIR").unwrap());
    let servers = (
        Postgres::start(&dir.join("postgres")).map(|server| (server.port(), server)),
        MiniStack::start(&dir.join("s3")).map(|server| (server.port(), server)),
        KinesisLocal::start(&dir.join("kinesis")).map(|server| (server.port(), server)),
        Kinesalite::start(&dir.join("kinesalite")).map(|server| (server.port(), server)),
        LocalStack::start(&dir.join("localstack")).map(|server| (server.port(), server)),
    );
    let port = |port: Result<u16, &String>| port.map_or_else(|_| String::new(), |port| port.to_string());
    let ports = [
        port(servers.0.as_ref().map(|it| it.0)),
        port(servers.1.as_ref().map(|it| it.0)),
        port(servers.2.as_ref().map(|it| it.0)),
        port(servers.3.as_ref().map(|it| it.0)),
        port(servers.4.as_ref().map(|it| it.0)),
    ];
    fs::write(dir.join("half"), ports.join("\n")).unwrap();
    fs::rename(dir.join("half"), dir.join("ports")).unwrap();
    loop {
        std::thread::park();
    }
}

/// A process that does not outlive its test, also where that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn servers_end_with_the_process_that_started_them() {
    let dir = Dir::new();
    fs::create_dir_all(&dir.0).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "native::start_and_hang", "--ignored"])
        .env("TEST_SERVERS_DIR", &dir.0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let ports = until(PATIENCE, || {
        assert_eq!(child.0.try_wait().unwrap(), None);
        fs::read_to_string(dir.0.join("ports")).ok()
    });
    let ports = ports.unwrap();
    let ports: Vec<u16> = ports.lines().filter_map(|port| port.parse().ok()).collect();
    for port in &ports {
        assert!(TcpStream::connect(("127.0.0.1", *port)).is_ok());
    }
    drop(child);
    for port in &ports {
        let gone = until(PATIENCE, || TcpStream::connect(("127.0.0.1", *port)).is_err().then_some(()));
        assert!(gone.is_some(), "a process still listens on {port}");
    }
    if ports.is_empty() {
        println!("skipped: no server can be had");
    }
}
