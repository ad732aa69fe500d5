// SPDX-License-Identifier: MPL-2.0

//! What was made for the sizes that were asked for last.

/// How many sizes are kept: those of some faces, each of which keeps its size for a while.
const KEPT: usize = 12;

/// Values by size in pixels, the last ones used first.
pub struct Recent<V> {
    entries: Vec<((u32, u32), V)>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<V> Recent<V> {
    /// The value for a size; `make` makes one where there is none.
    ///
    /// # Errors
    /// As `make`.
    pub fn get<E>(&mut self, size: (u32, u32), make: impl FnOnce() -> Result<V, E>) -> Result<&mut V, E> {
        let entry = match self.entries.iter().position(|(kept, _)| *kept == size) {
            Some(at) => self.entries.remove(at),
            None => (size, make()?),
        };
        self.entries.truncate(KEPT - 1);
        self.entries.insert(0, entry);
        Ok(&mut self.entries[0].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_used_are_kept() {
        let mut recent = Recent::default();
        let mut made = 0;
        let mut get = |side: u32| {
            let value = recent.get((side, side), || {
                made += 1;
                Ok::<u32, ()>(side)
            });
            assert_eq!(value, Ok(&mut side.clone()));
            made
        };
        for side in 0..KEPT as u32 {
            assert_eq!(get(side), side + 1);
        }
        assert_eq!(get(0), KEPT as u32, "it is kept");
        assert_eq!(get(100), KEPT as u32 + 1);
        assert_eq!(get(0), KEPT as u32 + 1, "it was used after 1");
        assert_eq!(get(1), KEPT as u32 + 2, "it was not");
        assert_eq!(recent.get((7, 8), || Err("no")), Err("no"));
        assert_eq!(recent.entries.len(), KEPT);
    }
}
