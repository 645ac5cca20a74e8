//! Which shards are read, and when each may begin: parents to their end before their children.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use aws_sdk_kinesis::types;
use hydrant::{Error, Result};

/// The name of a shard.
pub(crate) type ShardId = std::sync::Arc<str>;

/// A shard as the stream lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    /// One parent behind a split, two behind a merge, none for a shard that the stream was made with.
    pub(crate) parents: Vec<ShardId>,
    pub(crate) hashes: RangeInclusive<u128>,
    /// Whether it takes no more records.
    pub(crate) closed: bool,
}

impl Shard {
    /// # Errors
    /// `Corrupt` for a hash range that is none.
    pub(crate) fn listed(shard: &types::Shard) -> Result<Self> {
        let range = shard.hash_key_range();
        let hash = |text: Option<&str>| text.and_then(|text| text.parse::<u128>().ok());
        let bounds = (
            hash(range.map(types::HashKeyRange::starting_hash_key)),
            hash(range.map(types::HashKeyRange::ending_hash_key)),
        );
        let (Some(start), Some(end)) = bounds else {
            return Err(Error::corrupt(format!("the shard {} has no hash range", shard.shard_id())));
        };
        let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
        Ok(Self {
            id: shard.shard_id().into(),
            parents: parents.into_iter().flatten().map(ShardId::from).collect(),
            hashes: start..=end,
            closed: shard
                .sequence_number_range()
                .is_some_and(|range| range.ending_sequence_number().is_some()),
        })
    }
}

/// What became of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Not begun.
    Waiting,
    /// Begun once; it is never begun again.
    Reading,
    /// Read to its end, or not wanted at all.
    Done,
}

/// The shards in scope, their parents, and how far each is.
///
/// A shard may begin when all its parents are read to their end. A parent that is not known is either out of
/// scope or has expired with its records, so nothing waits for it: that holds only for *whole* listings, which
/// is why the child shards that a page names are never taken alone. (Of two parents, the one that was itself
/// split off since the last listing would pass for expired.)
#[derive(Clone, Debug)]
pub(crate) struct Lineage {
    /// Only shards that hold this hash; all shards where there is none.
    hash: Option<u128>,
    shards: BTreeMap<ShardId, (Shard, Progress)>,
}

impl Lineage {
    pub(crate) fn new(hash: Option<u128>) -> Self {
        Self { hash, shards: BTreeMap::new() }
    }

    /// Takes a whole listing: learns new shards, and forgets those that were read and are gone.
    pub(crate) fn learn(&mut self, listing: Vec<Shard>) {
        let listed: BTreeSet<_> = listing.iter().map(|shard| shard.id.clone()).collect();
        self.shards.retain(|id, (_, progress)| *progress == Progress::Reading || listed.contains(id));
        for shard in listing {
            if self.hash.is_none_or(|hash| shard.hashes.contains(&hash)) {
                self.shards.entry(shard.id.clone()).or_insert((shard, Progress::Waiting));
            }
        }
    }

    /// The shards that wait and may begin now. From here on they are being read.
    pub(crate) fn begin(&mut self) -> Vec<ShardId> {
        let may_begin = |shard: &Shard| {
            let done =
                |parent| self.shards.get(parent).is_none_or(|(_, progress)| *progress == Progress::Done);
            shard.parents.iter().all(done)
        };
        let ready: Vec<_> = self
            .shards
            .values()
            .filter(|(shard, progress)| *progress == Progress::Waiting && may_begin(shard))
            .map(|(shard, _)| shard.id.clone())
            .collect();
        for id in &ready {
            self.set(id, Progress::Reading);
        }
        ready
    }

    /// A shard was read to its end, and everything of it is disposed of.
    pub(crate) fn finish(&mut self, id: &str) {
        self.set(id, Progress::Done);
    }

    /// Returns whether a child of this shard is known. A closed shard always has one.
    pub(crate) fn has_child(&self, id: &str) -> bool {
        self.shards.values().any(|(shard, _)| shard.parents.iter().any(|parent| **parent == *id))
    }

    /// Passes over all ancestors of a shard, because a saved position lies in it.
    pub(crate) fn skip_ancestors(&mut self, id: &str) {
        let mut parents = self.parents(id);
        while let Some(parent) = parents.pop() {
            parents.extend(self.parents(&parent));
            self.set(&parent, Progress::Done);
        }
    }

    /// Passes over all shards that take no more records, because only what is new is wanted.
    pub(crate) fn skip_closed(&mut self) {
        for (shard, progress) in self.shards.values_mut() {
            if shard.closed {
                *progress = Progress::Done;
            }
        }
    }

    fn parents(&self, id: &str) -> Vec<ShardId> {
        self.shards.get(id).map(|(shard, _)| shard.parents.clone()).unwrap_or_default()
    }

    fn set(&mut self, id: &str, to: Progress) {
        if let Some((_, progress)) = self.shards.get_mut(id) {
            *progress = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str], hashes: RangeInclusive<u128>) -> Shard {
        let parents = parents.iter().map(|&parent| parent.into()).collect();
        Shard { id: id.into(), parents, hashes, closed: false }
    }

    fn begun(lineage: &mut Lineage) -> Vec<String> {
        lineage.begin().iter().map(ToString::to_string).collect()
    }

    /// a and b; b splits into c and d; a and c merge into m.
    fn family() -> Vec<Shard> {
        vec![
            shard("a", &[], 0..=49),
            shard("b", &[], 50..=99),
            shard("c", &["b"], 50..=74),
            shard("d", &["b"], 75..=99),
            shard("m", &["a", "c"], 0..=74),
        ]
    }

    #[test]
    fn a_child_waits_for_both_of_its_parents_and_begins_once() {
        let mut lineage = Lineage::new(None);
        lineage.learn(family());
        assert_eq!(begun(&mut lineage), ["a", "b"]);
        lineage.finish("a");
        assert!(begun(&mut lineage).is_empty());
        lineage.finish("b");
        assert_eq!(begun(&mut lineage), ["c", "d"]);
        lineage.learn(family());
        assert!(begun(&mut lineage).is_empty());
        lineage.finish("c");
        assert_eq!(begun(&mut lineage), ["m"]);
        lineage.finish("m");
        lineage.learn(family());
        assert!(begun(&mut lineage).is_empty());
    }

    #[test]
    fn only_shards_of_the_key_are_read_in_order() {
        let mut lineage = Lineage::new(Some(60));
        lineage.learn(family());
        for wanted in ["b", "c", "m"] {
            assert_eq!(begun(&mut lineage), [wanted]);
            assert!(begun(&mut lineage).is_empty());
            lineage.finish(wanted);
        }
        assert!(begun(&mut lineage).is_empty());
    }

    #[test]
    fn parents_that_have_expired_hold_nothing_up() {
        let mut lineage = Lineage::new(None);
        lineage.learn(family().split_off(3));
        assert_eq!(begun(&mut lineage), ["d", "m"]);
    }

    #[test]
    fn a_parent_that_expires_while_it_is_read_is_waited_for() {
        let mut lineage = Lineage::new(None);
        lineage.learn(family());
        assert_eq!(begun(&mut lineage), ["a", "b"]);
        lineage.learn(family().split_off(2));
        assert!(begun(&mut lineage).is_empty());
        lineage.finish("b");
        assert_eq!(begun(&mut lineage), ["c", "d"]);
    }

    #[test]
    fn a_saved_position_skips_exactly_what_came_before_it() {
        let mut lineage = Lineage::new(None);
        lineage.learn(family());
        lineage.skip_ancestors("c");
        assert_eq!(begun(&mut lineage), ["a", "c", "d"]);
        lineage.skip_ancestors("m");
        lineage.finish("m");
        assert!(begun(&mut lineage).is_empty());
    }
}
