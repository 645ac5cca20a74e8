//! A network between two sockets that misbehaves by seed.

use std::net::SocketAddr;

use fastrand::Rng;
use tokio::net::UdpSocket;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How often, of 100 datagrams, something happens to one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    pub(crate) delayed: u32,
    pub(crate) damaged: u32,
}

/// Stands before `target` and passes on what comes, or does not.
pub(crate) struct Network {
    pub(crate) address: SocketAddr,
    received: watch::Receiver<u64>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<u64>,
}

impl Network {
    /// Prints the seed, so that a failure can be replayed.
    pub(crate) async fn before(target: SocketAddr, faults: Faults, seed: u64) -> Self {
        println!("network seed {seed}: {faults:?}");
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, mut stopped) = oneshot::channel();
        let (count, received) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut chance = Rng::with_seed(seed);
            let mut buffer = vec![0; 65_535];
            let mut late: Vec<(u32, Vec<u8>)> = Vec::new(); // how many are let past first
            let mut passed_on = 0;
            loop {
                let bytes = tokio::select! {
                    received = socket.recv(&mut buffer) => received.unwrap(),
                    _ = &mut stopped => break,
                };
                let mut hits = |of_hundred: u32| chance.u32(..100) < of_hundred;
                let mut datagram = buffer[..bytes].to_vec();
                count.send_modify(|count| *count += 1);
                if hits(faults.lost) {
                    continue;
                }
                let copies = if hits(faults.doubled) { 2 } else { 1 };
                let delayed = hits(faults.delayed);
                if hits(faults.damaged) {
                    let at = chance.usize(..datagram.len());
                    datagram[at] ^= 1 << chance.u32(..8);
                }
                if delayed {
                    late.push((chance.u32(1..6), datagram));
                    continue;
                }
                for _ in 0..copies {
                    socket.send_to(&datagram, target).await.unwrap();
                    passed_on += 1;
                }
                for (past, _) in &mut late {
                    *past -= 1;
                }
                for (_, datagram) in late.extract_if(.., |(past, _)| *past == 0) {
                    socket.send_to(&datagram, target).await.unwrap();
                    passed_on += 1;
                }
            }
            passed_on
        });
        Self { address, received, stop, task }
    }

    /// Waits until it got so many datagrams.
    pub(crate) async fn got(&mut self, datagrams: u64) {
        self.received.wait_for(|received| *received >= datagrams).await.unwrap();
    }

    /// Ends it; says how many datagrams it passed on.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}
