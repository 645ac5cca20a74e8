//! One connection through the proxy: bytes up, bytes down, and the fault that acts on them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::fault::{Acting, Fault};
use super::tcp::Shared;

/// How long a server may take to close a connection whose last request arrived late.
const DRAINED_MAX: Duration = Duration::from_secs(5);

/// Why a connection ends.
enum End {
    Close,
    Reset,
    /// The client is cut off; these bytes reach the server later.
    Late(Vec<u8>, Duration),
}

/// One connection, from accepted to closed.
pub(super) async fn connection(
    mut client: TcpStream,
    server: SocketAddr,
    first: Option<Acting>,
    shared: Arc<Shared>,
) {
    /// Counts down also when the task is aborted.
    struct Open<'a>(&'a Shared);
    impl Drop for Open<'_> {
        fn drop(&mut self) {
            self.0.state().open -= 1;
        }
    }
    let mut cut = shared.cut.subscribe();
    shared.state().open += 1;
    let _open = Open(&shared);
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let link = Link { shared: &shared, answer: Mutex::new(Answer { heard: true, acting: None }) };
        tokio::select! {
            _ = cut.changed() => End::Close,
            end = async {
                let both = tokio::try_join!(link.up(from_client, to_server, first), link.down(from_server, to_client));
                both.map_or_else(|end| end, |_| End::Close)
            } => end,
        }
    };
    match end {
        End::Close => {}
        End::Reset => reset(&client),
        End::Late(bytes, delay) => {
            drop(client);
            tokio::time::sleep(delay).await;
            drop(server.write_all(&bytes).await);
            drop(server.shutdown().await);
            // The server closes when it has read everything; closing first could discard the request.
            drop(
                tokio::time::timeout(DRAINED_MAX, tokio::io::copy(&mut server, &mut tokio::io::sink())).await,
            );
        }
    }
}

/// What the two directions of a connection know of each other.
struct Link<'a> {
    shared: &'a Shared,
    answer: Mutex<Answer>,
}

struct Answer {
    /// Whether the server has sent bytes since the client's last ones: the client's next bytes begin a request.
    heard: bool,
    /// How the answer to the current request breaks.
    acting: Option<Acting>,
}

impl Link<'_> {
    async fn up(
        &self,
        mut client: ReadHalf<'_>,
        mut server: WriteHalf<'_>,
        mut first: Option<Acting>,
    ) -> Result<(), End> {
        let mut buffer = vec![0; 64 << 10];
        // How many bytes a `CutWithin` still passes.
        let mut left: Option<(Acting, usize)> = None;
        loop {
            let n = client.read(&mut buffer).await.map_err(|_| End::Close)?;
            if n == 0 {
                return server.shutdown().await.map_err(|_| End::Close);
            }
            let bytes = &mut buffer[..n];
            let begins = {
                let mut answer = self.answer.lock().expect("no holder panics");
                let begins = std::mem::take(&mut answer.heard);
                if begins {
                    // The last exchange ended before the fault could break it. This is another exchange.
                    (left, answer.acting) = (None, None);
                }
                begins
            };
            let acting = first.take().or(self.shared.sent(begins, bytes)).or_else(|| self.shared.always());
            if let Some(acting @ Acting { fault: Fault::CutWithin(bytes_max), .. }) = acting {
                left.get_or_insert((acting, bytes_max));
            }
            if let Some((cutting, left)) = &mut left {
                let part = &bytes[..n.min(*left)];
                *left -= part.len();
                forward(&mut server, part).await?;
                if *left == 0 {
                    self.shared.fired(*cutting);
                    return Err(End::Close);
                }
                continue;
            }
            if let Some(acting) = acting {
                self.act(acting, begins, bytes, &mut server).await?;
            }
            forward(&mut server, bytes).await?;
        }
    }

    /// Breaks a request. Returns `Ok` if the request still goes to the server.
    async fn act(
        &self,
        acting: Acting,
        begins: bool,
        bytes: &mut [u8],
        server: &mut WriteHalf<'_>,
    ) -> Result<(), End> {
        match acting.fault {
            // These fire where the answer comes.
            Fault::LoseAnswer | Fault::CutAnswer(_) => {
                self.answer.lock().expect("no holder panics").acting = Some(acting);
                return Ok(());
            }
            Fault::Replace(from, to) if !replace(bytes, from.as_bytes(), to.as_bytes()) => return Ok(()),
            _ => self.shared.fired(acting),
        }
        match acting.fault {
            Fault::CutBefore => Err(End::Close),
            Fault::Reset => Err(End::Reset),
            Fault::ArriveLate(delay) => Err(End::Late(bytes.to_vec(), delay)),
            Fault::CutAfter => {
                forward(server, bytes).await?;
                Err(End::Close)
            }
            Fault::Delay(delay) if begins => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Fault::BlackHole => {
                self.shared.healed(acting).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn down(&self, mut server: ReadHalf<'_>, mut client: WriteHalf<'_>) -> Result<(), End> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = server.read(&mut buffer).await.map_err(|_| End::Close)?;
            if n == 0 {
                return client.shutdown().await.map_err(|_| End::Close);
            }
            if let Some(acting @ Acting { fault: Fault::BlackHole, .. }) = self.shared.always() {
                self.shared.healed(acting).await;
            }
            let (passes, ends) = {
                let mut answer = self.answer.lock().expect("no holder panics");
                answer.heard = true;
                match answer.acting {
                    Some(Acting { fault: Fault::CutAnswer(left), .. }) if n < left => {
                        answer.acting = answer.acting.map(|acting| acting.with(Fault::CutAnswer(left - n)));
                        (n, None)
                    }
                    Some(Acting { fault: Fault::CutAnswer(left), .. }) => (left, answer.acting),
                    Some(_) => (0, answer.acting),
                    None => (n, None),
                }
            };
            forward(&mut client, &buffer[..passes]).await?;
            if let Some(acting) = ends {
                self.shared.fired(acting);
                return Err(End::Close);
            }
        }
    }
}

/// Replaces a text wherever it occurs. Returns `false` if it does not occur.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> bool {
    assert_eq!(from.len(), to.len(), "lengths are on the wire");
    let mut replaced = false;
    for at in 0..(bytes.len() + 1).saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            replaced = true;
        }
    }
    replaced
}

async fn forward(to: &mut WriteHalf<'_>, bytes: &[u8]) -> Result<(), End> {
    let written: io::Result<()> = to.write_all(bytes).await;
    written.map_err(|_| End::Close)
}

/// Lets the connection end with RST instead of FIN when it is dropped.
pub(super) fn reset(client: &TcpStream) {
    drop(client.set_zero_linger());
}
