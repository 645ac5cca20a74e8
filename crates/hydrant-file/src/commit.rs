//! The structure of a file: which lines form a commit, and whether they are all there.

use hydrant::{Error, Result};

use crate::wire::{Flags, Line};

/// What is known about the place of the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing: somewhere in a file.
    Anywhere,
    /// Between two commits; whether the line before is a foreign one, where that is known.
    Between { behind_foreign: Option<bool> },
    /// Inside of the commit that starts at this offset.
    Inside(u64),
}

/// Follows the lines of a file, and checks that each is in the place that it was written for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Structure {
    place: Place,
}

impl Structure {
    /// From the beginning of a file.
    pub(crate) fn from_start() -> Self {
        Self { place: Place::Between { behind_foreign: Some(false) } }
    }

    /// From between two commits of a file.
    pub(crate) fn between() -> Self {
        Self { place: Place::Between { behind_foreign: None } }
    }

    /// From any line of a file.
    pub(crate) fn anywhere() -> Self {
        Self { place: Place::Anywhere }
    }

    /// Takes the line at `offset`; returns whether a commit ends with it.
    ///
    /// # Errors
    /// `Corrupt` if the line cannot be there: a line before it is missing, or does not belong there.
    #[inline]
    pub(crate) fn take(&mut self, offset: u64, line: &Line) -> Result<bool> {
        let Line::Ours(ours) = line else {
            if matches!(self.place, Place::Inside(_)) {
                return Err(Error::corrupt("a line that Hydrant did not write is inside a commit"));
            }
            self.place = Place::Between { behind_foreign: Some(true) };
            return Ok(true);
        };
        if ours.opens.is_some() != (offset == 0) {
            return Err(Error::corrupt("the line belongs to the beginning of a file, or lost its own"));
        }
        let start = match (self.place, ours.marks) {
            (Place::Inside(start), None) => start,
            (Place::Inside(start), Some(marks)) if marks.start == start => start,
            (Place::Between { behind_foreign }, Some(marks)) if marks.start == offset => {
                let written_behind = ours.flags.has(Flags::AFTER_FOREIGN);
                if behind_foreign.is_some_and(|foreign| foreign != written_behind) {
                    return Err(Error::corrupt("the line before it is not the one that was written there"));
                }
                offset
            }
            (Place::Anywhere, Some(marks)) if marks.start <= offset => marks.start,
            // Where its commit starts is known at its last line.
            (Place::Anywhere, None) => return Ok(false),
            _ => {
                return Err(Error::corrupt(
                    "the line was not written for this place: bytes before it are missing, or were added",
                ));
            }
        };
        self.place = if ours.flags.has(Flags::ENDS) {
            Place::Between { behind_foreign: Some(false) }
        } else {
            Place::Inside(start)
        };
        Ok(!matches!(self.place, Place::Inside(_)))
    }

    /// Returns whether every commit so far is complete.
    pub(crate) fn is_complete(&self) -> bool {
        !matches!(self.place, Place::Inside(_))
    }
}
