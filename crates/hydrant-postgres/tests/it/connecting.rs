//! How a server is reached: TLS in all its modes, passwords, sockets, several hosts. Each against a server of
//! the test's own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hydrant::{Error, ErrorKind, Retry};
use hydrant_postgres::{PostgresClient, PostgresConnect};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use test_servers::native::Postgres;

/// Roles whom `pg_hba.conf` lets in by one way only, and one for which every way is right.
const RULES: &str = "
local     all all      scram-sha-256
hostssl   all tls      127.0.0.1/32 scram-sha-256
hostnossl all plain    127.0.0.1/32 scram-sha-256
hostssl   all shown    127.0.0.1/32 cert
host      all either,test 127.0.0.1/32 scram-sha-256
";

struct TlsServer {
    server: Postgres,
    files: PathBuf,
}

impl TlsServer {
    fn file(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }

    /// A role at a host name that leads to the server in any case.
    async fn connect(&self, role: &str, host: &str, rest: &str) -> Result<PostgresClient, Error> {
        let port = self.server.port();
        let rest = rest.replace("CA", &self.file("ca.crt")).replace("OTHER", &self.file("other.crt"));
        let text =
            format!("host={host} hostaddr=127.0.0.1 port={port} user={role} password=pw dbname=test {rest}");
        PostgresConnect::parse(&text)?.connect().await
    }
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, as PEM.
    fn signs(&self, names: &[&str], common_name: &str) -> (String, String) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// One server for all tests of TLS; none of them changes it.
fn tls_server() -> Option<&'static TlsServer> {
    static SERVER: OnceLock<Result<TlsServer, String>> = OnceLock::new();
    let started = SERVER.get_or_init(|| {
        let files = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test_servers::namespace());
        let mut server = Postgres::start(&files.join("server"))?;
        let authority = Authority::new();
        let (cert, key) = authority.signs(&["db.example"], "db.example");
        server.put_file("server.crt", cert.as_bytes());
        server.put_file("server.key", key.as_bytes());
        server.put_file("root.crt", authority.pem.as_bytes());
        server.put_file("pg_hba.conf", RULES.as_bytes());
        server.put_file("postgresql.auto.conf", b"ssl = on\nssl_ca_file = 'root.crt'\n");
        server.restart();
        let (cert, key) = authority.signs(&[], "shown");
        for (name, contents) in [
            ("ca.crt", &authority.pem),
            ("other.crt", &Authority::new().pem),
            ("client.crt", &cert),
            ("client.key", &key),
        ] {
            std::fs::write(files.join(name), contents).unwrap();
        }
        let url = server.url();
        std::thread::spawn(|| make_roles(url)).join().unwrap();
        Ok(TlsServer { server, files })
    });
    started.as_ref().inspect_err(|reason| println!("skipped: {reason}")).ok()
}

#[tokio::main(flavor = "current_thread")]
async fn make_roles(url: String) {
    let client = PostgresConnect::from(url).connect().await.unwrap();
    for role in ["tls", "plain", "shown", "either"] {
        client.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'")).await.unwrap();
    }
}

async fn is_encrypted(client: &PostgresClient) -> bool {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn is_denied(connected: Result<PostgresClient, Error>) {
    let error = connected.expect_err("it is to be refused");
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
}

#[tokio::test]
async fn verify_full_takes_the_right_name_of_the_right_authority_only() {
    let Some(server) = tls_server() else { return };
    let client = server.connect("tls", "db.example", "sslmode=verify-full sslrootcert=CA").await.unwrap();
    assert!(is_encrypted(&client).await);
    is_denied(server.connect("tls", "other.example", "sslmode=verify-full sslrootcert=CA").await);
    is_denied(server.connect("tls", "127.0.0.1", "sslmode=verify-full sslrootcert=CA").await);
    is_denied(server.connect("tls", "db.example", "sslmode=verify-full sslrootcert=OTHER").await);
    is_denied(server.connect("tls", "db.example", "sslrootcert=system").await);
}

#[tokio::test]
async fn verify_ca_takes_any_name_of_the_right_authority() {
    let Some(server) = tls_server() else { return };
    for name in ["db.example", "other.example", "127.0.0.1"] {
        let client = server.connect("tls", name, "sslmode=verify-ca sslrootcert=CA").await.unwrap();
        assert!(is_encrypted(&client).await);
    }
    is_denied(server.connect("tls", "db.example", "sslmode=verify-ca sslrootcert=OTHER").await);
}

#[tokio::test]
async fn require_encrypts_and_verifies_what_it_is_given() {
    let Some(server) = tls_server() else { return };
    assert!(is_encrypted(&server.connect("tls", "other.example", "sslmode=require").await.unwrap()).await);
    let with_authority = "sslmode=require sslrootcert=CA";
    assert!(is_encrypted(&server.connect("tls", "other.example", with_authority).await.unwrap()).await);
    is_denied(server.connect("tls", "db.example", "sslmode=require sslrootcert=OTHER").await);
    is_denied(server.connect("plain", "db.example", "sslmode=require").await);
}

#[tokio::test]
async fn prefer_and_allow_go_the_other_way_where_they_are_refused() {
    let Some(server) = tls_server() else { return };
    for (mode, role, encrypted) in [
        ("prefer", "either", true),
        ("prefer", "tls", true),
        ("prefer", "plain", false),
        ("allow", "either", false),
        ("allow", "tls", true),
        ("allow", "plain", false),
    ] {
        let client = server.connect(role, "db.example", &format!("sslmode={mode}")).await.unwrap();
        assert_eq!(is_encrypted(&client).await, encrypted, "{mode} as {role}");
    }
    assert!(is_encrypted(&server.connect("either", "db.example", "").await.unwrap()).await, "the default");
    // A server that cannot be verified is talked to without TLS: that is what `prefer` means.
    let unverified =
        server.connect("either", "db.example", "sslmode=prefer sslrootcert=OTHER").await.unwrap();
    assert!(!is_encrypted(&unverified).await);
}

#[tokio::test]
async fn disable_never_encrypts() {
    let Some(server) = tls_server() else { return };
    assert!(!is_encrypted(&server.connect("either", "db.example", "sslmode=disable").await.unwrap()).await);
    is_denied(server.connect("tls", "db.example", "sslmode=disable").await);
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let Some(server) = tls_server() else { return };
    let shown =
        format!("sslmode=require sslcert={} sslkey={}", server.file("client.crt"), server.file("client.key"));
    assert!(is_encrypted(&server.connect("shown", "db.example", &shown).await.unwrap()).await);
    is_denied(server.connect("shown", "db.example", "sslmode=require").await);
}

#[tokio::test]
async fn channel_binding_ties_the_password_to_the_certificate() {
    let Some(server) = tls_server() else { return };
    let bound = "sslmode=require channel_binding=require";
    assert!(is_encrypted(&server.connect("tls", "db.example", bound).await.unwrap()).await);
    is_denied(server.connect("either", "db.example", "sslmode=disable channel_binding=require").await);
}

#[tokio::test]
async fn a_tls_configuration_of_ones_own_decides() {
    let Some(server) = tls_server() else { return };
    let roots = |name: &str| {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(server.files.join(name)).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let port = server.server.port();
    let text = format!("host=db.example hostaddr=127.0.0.1 port={port} user=either password=pw dbname=test");
    let connect = |name| PostgresConnect::from(text.as_str()).with_tls(roots(name));
    assert!(is_encrypted(&connect("ca.crt").connect().await.unwrap()).await);
    is_denied(connect("other.crt").connect().await);
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_never_shown() {
    let Some(server) = tls_server() else { return };
    for mode in ["disable", "allow", "prefer", "require"] {
        let port = server.server.port();
        let url = format!("postgres://tls:hunter2@127.0.0.1:{port}/test?sslmode={mode}");
        let connect = PostgresConnect::from(url);
        let error = connect.connect().await.unwrap_err();
        // What the operator reads is about the password, and not the other way that was refused as well.
        let (code, retry) = if mode == "disable" { ("28000", Retry::Never) } else { ("28P01", Retry::Safe) };
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, retry), "{error}");
        assert_eq!(error.pause_min().is_some(), retry == Retry::Safe, "{error}");
        assert!(error.to_string().contains(code), "{mode}: {error}");
        for shown in [format!("{error}"), format!("{error:?}"), format!("{connect:?}"), connect.describe()] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_unix_socket_is_a_directory_for_a_host() {
    let Some(server) = tls_server() else { return };
    let port = server.server.port();
    let directory = server.server.socket_dir().display().to_string();
    let escaped = directory.replace('/', "%2F");
    for url in [
        format!("postgres://either:pw@{escaped}:{port}/test"),
        format!("postgres:///test?host={escaped}&port={port}&user=either&password=pw"),
        // As in libpq, `sslmode` is nothing to a socket of the machine.
        format!("postgres://either:pw@{escaped}:{port}/test?sslmode=require"),
    ] {
        let client = PostgresConnect::from(url).connect().await.unwrap();
        assert!(!is_encrypted(&client).await);
    }
}

#[tokio::test]
async fn of_several_hosts_the_first_that_suits_is_taken() {
    let Some(server) = tls_server() else { return };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test_servers::namespace());
    let standby = Postgres::start_with(&directory, &["default_transaction_read_only=on"]).unwrap();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (standby, primary) = (standby.port(), server.server.port());
    let connect = |ports: &str, rest: &str| {
        let hosts = vec!["127.0.0.1"; ports.split(',').count()].join(",");
        let text = format!("host={hosts} port={ports} user=test password=test dbname=test {rest}");
        async move { PostgresConnect::parse(&text).unwrap().connect().await }
    };
    let port_of = async |client: PostgresClient| -> i32 {
        client.query_one("SELECT inet_server_port()", &[]).await.unwrap().get(0)
    };
    let all = format!("{closed},{standby},{primary}");
    assert_eq!(port_of(connect(&all, "").await.unwrap()).await, i32::from(standby));
    let writes = "target_session_attrs=read-write";
    assert_eq!(port_of(connect(&all, writes).await.unwrap()).await, i32::from(primary));
    for ports in [closed.to_string(), format!("{closed},{standby}")] {
        let error = connect(&ports, writes).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    }
    // A wrong password is not tried at the next one.
    let error = connect(&format!("{primary},{closed}"), "password=no").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://u:p@127.0.0.1:{port}/d?connect_timeout=1");
    let error = PostgresConnect::from(url).connect().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
}

/// What the postmaster answers to a request for TLS when it has no process for the connection.
#[tokio::test]
async fn a_busy_server_is_retried_and_one_without_tls_is_not() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let says =
        [("Ecould not fork new process for connection\n", ErrorKind::Unavailable), ("N", ErrorKind::Denied)];
    for (answer, kind) in says {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                client.read_exact(&mut [0; 8]).await.unwrap();
                client.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        for mode in ["require", "prefer"] {
            let url = format!("postgres://u:p@127.0.0.1:{port}/d?sslmode={mode}");
            let error = PostgresConnect::from(url).connect().await.unwrap_err();
            let expected = if mode == "prefer" { ErrorKind::Unavailable } else { kind };
            assert_eq!(error.kind(), expected, "{answer} {mode}: {error}");
            assert_eq!(
                error.retry() == Retry::Never,
                expected == ErrorKind::Denied,
                "{answer} {mode}: {error}"
            );
        }
        server.abort();
    }
}

/// A server that is starting and has no TLS, asked both ways.
#[tokio::test]
async fn that_a_starting_server_has_no_tls_does_not_make_it_final() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    const STARTING: &[u8] = b"E\0\0\0\x24SFATAL\0VFATAL\0C57P03\0Mstarting\0\0";
    assert_eq!(STARTING.len(), 1 + 0x24);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut begins = [0; 8];
            client.read_exact(&mut begins).await.unwrap();
            let answer = if begins == SSL_REQUEST { b"N" } else { STARTING };
            client.write_all(answer).await.unwrap();
            // All that it says is taken, or closing would reset the answer.
            client.shutdown().await.unwrap();
            drop(client.read_to_end(&mut Vec::new()).await);
        }
    });
    for mode in ["allow", "prefer", "disable"] {
        let url = format!("postgres://u:p@127.0.0.1:{port}/d?sslmode={mode}");
        let error = PostgresConnect::from(url).connect().await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{mode}: {error}");
        assert!(error.to_string().contains("57P03"), "{mode}: {error}");
    }
    server.abort();
}

#[tokio::test]
async fn closed_or_dropped_a_connection_leaves_no_task_and_no_session() {
    let Some(server) = tls_server() else { return };
    let watcher = server.connect("either", "db.example", "").await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for round in 0..6 {
        let client = server.connect("either", "db.example", "application_name=leaves").await.unwrap();
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        match round % 3 {
            0 => client.close().await,
            1 => drop(client),
            _ => client.discard(),
        }
        let sessions = async || -> i64 {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
            watcher.query_one(sql, &[&pid]).await.unwrap().get(0)
        };
        while sessions().await > 0 || tasks() > before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await; // ends by the test's own limit
        }
    }
}

#[tokio::test]
async fn a_pool_lends_its_connections() {
    let Some(server) = tls_server() else { return };
    let config: tokio_postgres::Config = server.server.url().parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config.clone(), tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
    let connect = PostgresConnect::from(pool.clone()).with_description("shop");
    assert_eq!(connect.describe(), "shop");
    let pid = async || -> i32 {
        let client = connect.connect().await.unwrap();
        client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
    };
    let first = pid().await;
    assert_eq!(pid().await, first, "it went back and came again");
    connect.connect().await.unwrap().discard();
    assert_ne!(pid().await, first, "it was in doubt and closed");
    let error = connect.connect_listening(|_| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    // A plain configuration does as well.
    assert!(!is_encrypted(&PostgresConnect::from(config).connect().await.unwrap()).await);
}

#[tokio::test]
async fn notifications_are_passed_on() {
    let Some(server) = tls_server() else { return };
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let connect = PostgresConnect::from(server.server.url());
    let client =
        connect.connect_listening(move |said| drop(sender.send(said.payload().to_owned()))).await.unwrap();
    client.batch_execute("LISTEN news; NOTIFY news, 'one'").await.unwrap();
    assert_eq!(heard.recv().await.as_deref(), Some("one"));
}
