//! A `state` file as hydra-node 0.21 and later writes it: plain JSON lines, members in the order of their names.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// Writes the log of one head, event by event, from a seed.
#[derive(Debug)]
pub struct HydraNode {
    rng: Rng,
    dir: PathBuf,
    next_id: u64,
    last_id: Option<u64>,
    slot: u64,
    snapshot: u64,
    head: String,
    /// Everything written so far, over all files.
    lines: Vec<String>,
}

impl HydraNode {
    /// Creates a node whose log is in `dir`, which must exist.
    pub fn new(dir: &Path, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let head = hex(&mut rng, 28);
        Self {
            rng,
            dir: dir.to_owned(),
            next_id: 0,
            last_id: None,
            slot: 0,
            snapshot: 0,
            head,
            lines: Vec::new(),
        }
    }

    /// Returns the lines of the whole log, in order, without line breaks.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Appends `count` events, by opening, appending and closing the file for each write, as hydra-node does,
    /// without ever syncing it.
    pub fn write(&mut self, count: usize) {
        let mut text = String::new();
        for _ in 0..count {
            let change = self.change();
            self.event(&change, &mut text);
        }
        self.append(&text);
    }

    /// Rotates: seals `state` as `state-<last id>`, and opens a new one with the aggregated state.
    pub fn rotate(&mut self) {
        let last = self.last_id.expect("a log is rotated after its first event");
        // Ids have no gap between two files.
        self.next_id = last + 1;
        std::fs::rename(self.state(), self.dir.join(format!("state-{last}"))).expect("seal the file");
        let (head, snapshot) = (self.head.clone(), self.snapshot);
        let utxo = self.utxo(4);
        let change = format!(
            r#"{{"state":{{"contents":{{"headId":"{head}","localUTxO":{utxo},"seenSnapshot":{{"lastSeen":{snapshot},"tag":"LastSeenSnapshot"}}}},"tag":"Open"}},"tag":"Checkpoint"}}"#
        );
        let mut text = String::new();
        self.event(&change, &mut text);
        self.append(&text);
    }

    /// Returns the path of the current file.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn append(&self, text: &str) {
        let mut state =
            std::fs::OpenOptions::new().append(true).create(true).open(self.state()).expect("open `state`");
        state.write_all(text.as_bytes()).expect("write `state`");
    }

    fn event(&mut self, change: &str, text: &mut String) {
        let (id, at) = (self.next_id, self.next_id * 137);
        // Picoseconds, as Haskell prints them; every other event has fewer digits.
        let fraction =
            if id % 2 == 0 { format!(".{:03}000789012", at % 1000) } else { format!(".{:03}", at % 1000) };
        let (minute, second) = (at / 60_000 % 60, at / 1000 % 60);
        let line = format!(
            r#"{{"eventId":{id},"stateChanged":{change},"time":"2026-01-05T09:{minute:02}:{second:02}{fraction}Z"}}"#
        );
        writeln!(text, "{line}").expect("a String takes everything");
        self.lines.push(line);
        self.last_id = Some(id);
        // Ids strictly grow; some ids are never used.
        self.next_id += if self.rng.u8(..32) == 0 { 2 } else { 1 };
    }

    /// Returns a change of a common kind, or of a kind with a difficult payload.
    fn change(&mut self) -> String {
        self.slot += self.rng.u64(1..40);
        let (head, slot, hash) = (self.head.clone(), self.slot, hex(&mut self.rng, 32));
        match self.rng.u8(..20) {
            0 => {
                self.snapshot += 1;
                let (snapshot, utxo) = (self.snapshot, self.utxo(30));
                let signature = hex(&mut self.rng, 64);
                format!(
                    r#"{{"headId":"{head}","signatures":{{"multiSignature":["{signature}"]}},"snapshot":{{"confirmed":[],"headId":"{head}","number":{snapshot},"utxo":{utxo},"version":0}},"tag":"SnapshotConfirmed"}}"#
                )
            }
            1..=6 => {
                let (utxo, cbor) = (self.utxo(3), hex(&mut self.rng, 180));
                format!(
                    r#"{{"headId":"{head}","newLocalUTxO":{utxo},"tag":"TransactionAppliedToLocalUTxO","tx":{{"cborHex":"{cbor}","description":"Ledger Cddl Format","txId":"{hash}","type":"Tx ConwayEra"}}}}"#
                )
            }
            7..=10 => {
                let cbor = hex(&mut self.rng, 180);
                format!(
                    r#"{{"tag":"TransactionReceived","tx":{{"cborHex":"{cbor}","description":"","txId":"{hash}","type":"Tx ConwayEra"}}}}"#
                )
            }
            11 => r#"{"peer":{"hostname":"héad-🎲.example","port":5001},"tag":"PeerConnected"}"#.to_owned(),
            // Numbers that a `Value` would rewrite, and characters that a careless writer would break.
            12 => r#"{"drift":1e400,"exact":9007199254740993,"half":1.0,"note":"a \"quote\",\n a break \u0000, } and ]","tag":"NodeUnsynced"}"#.to_owned(),
            _ => format!(
                r#"{{"chainPoint":{{"blockHash":"{hash}","slot":{slot},"tag":"ChainPoint"}},"tag":"TickObserved"}}"#
            ),
        }
    }

    fn utxo(&mut self, outputs: usize) -> String {
        let mut utxo = String::from("{");
        for index in 0..self.rng.usize(1..=outputs) {
            let (id, address, lovelace) = (
                hex(&mut self.rng, 32),
                hex(&mut self.rng, 29),
                self.rng.u64(1_000_000..45_000_000_000_000_000),
            );
            let comma = if index == 0 { "" } else { "," };
            write!(
                utxo,
                r#"{comma}"{id}#{index}":{{"address":"addr_test1{address}","datum":null,"referenceScript":null,"value":{{"lovelace":{lovelace}}}}}"#
            )
            .expect("a String takes everything");
        }
        utxo.push('}');
        utxo
    }
}

fn hex(rng: &mut Rng, bytes: usize) -> String {
    (0..bytes * 2).map(|_| rng.digit(16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydrant::EventId;
    use hydrant::store::envelope;

    #[test]
    fn a_log_has_growing_ids_with_gaps_and_every_line_is_canonical() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = HydraNode::new(dir.path(), 1);
        node.write(500);
        node.rotate();
        node.write(500);
        let (mut last, mut gaps, mut snapshots) = (None, 0, 0);
        for line in node.lines() {
            let event = envelope::decode_hydra(line.clone().into_bytes().into(), 0).unwrap();
            // The mark of a snapshot is in the envelope; hydra-node's is in the change.
            assert_eq!(event.to_string().replace(",\"isSnapshot\":true}", "}"), *line);
            gaps += usize::from(last.is_some_and(|last: EventId| last.get() + 1 < event.id().get()));
            snapshots += usize::from(event.is_snapshot());
            assert!(last < Some(event.id()));
            last = Some(event.id());
        }
        assert!(gaps > 0);
        assert_eq!(snapshots, 1);
        let written = std::fs::read_to_string(node.state()).unwrap();
        assert_eq!(written.lines().collect::<Vec<_>>(), node.lines()[500..]);
    }
}
