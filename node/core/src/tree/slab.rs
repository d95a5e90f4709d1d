//! Slots that are numbered by a `u32` and never move. They lie in chunks, so growing never copies what is there: no
//! write ever pays for the size of the tree.

/// Slots in a chunk.
const CHUNK: usize = 1024;

/// Numbered slots.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
        }
    }

    /// One more than the largest number ever given out.
    pub(super) fn end(&self) -> u32 {
        match self.chunks.last() {
            None => 0,
            Some(last) => ((self.chunks.len() - 1) * CHUNK + last.len()) as u32,
        }
    }

    pub(super) fn get(&self, slot: u32) -> &T {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut T {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// Puts a value into a free slot.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            *self.get_mut(slot) = value;
            return slot;
        }
        let slot = self.end();
        assert!(
            slot < u32::MAX - 1,
            "the tree has more nodes than can be numbered"
        );
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(value),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(value);
                self.chunks.push(chunk);
            }
        }
        slot
    }

    /// Takes the value out of a slot and leaves `vacant` there.
    pub(super) fn remove(&mut self, slot: u32, vacant: T) -> T {
        self.free.push(slot);
        std::mem::replace(self.get_mut(slot), vacant)
    }
}
