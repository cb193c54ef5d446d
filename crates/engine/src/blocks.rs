//! Which blocks of the KV cache are free.

/// Hands out the blocks `0..n_blocks` of a KV cache. The order depends only on the calls made.
#[derive(Debug, Clone)]
pub struct BlockAllocator {
    /// Free blocks; the next one is the last.
    free: Vec<u32>,
    /// For each block, whether it is handed out.
    used: Vec<bool>,
}

impl BlockAllocator {
    /// All of `n_blocks` blocks free.
    ///
    /// # Panics
    /// When block numbers do not fit in 32 bits.
    pub fn new(n_blocks: usize) -> Self {
        assert!(u32::try_from(n_blocks).is_ok(), "{n_blocks} blocks do not fit in 32 bits");
        Self { free: (0..n_blocks as u32).rev().collect(), used: vec![false; n_blocks] }
    }

    /// Blocks that are free.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// All blocks, free or not.
    pub fn n_blocks(&self) -> usize {
        self.used.len()
    }

    /// Appends `count` blocks to `out`, or does nothing and returns false when there are not as many.
    #[must_use]
    pub fn take(&mut self, count: usize, out: &mut Vec<u32>) -> bool {
        if count > self.free.len() {
            return false;
        }
        for _ in 0..count {
            let Some(block) = self.free.pop() else { unreachable!("counted above") };
            self.used[block as usize] = true;
            out.push(block);
        }
        true
    }

    /// Takes blocks back and empties the list.
    ///
    /// # Panics
    /// When a block is not handed out: a block that two sequences believe to own is a bug.
    pub fn give_back(&mut self, blocks: &mut Vec<u32>) {
        // In reverse, so that the same sequence taken again gets the same blocks.
        while let Some(block) = blocks.pop() {
            let used = self.used.get_mut(block as usize);
            assert!(used.is_some_and(std::mem::take), "block {block} was given back, but is not handed out");
            self.free.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_handed_out_once_and_none_is_lost(
            n_blocks in 0usize..20,
            actions in prop::collection::vec((any::<bool>(), 0usize..8), 0..60),
        ) {
            let mut allocator = BlockAllocator::new(n_blocks);
            let mut held: Vec<Vec<u32>> = Vec::new();
            for (take, number) in actions {
                if take {
                    let mut blocks = Vec::new();
                    let free = allocator.n_free();
                    prop_assert_eq!(allocator.take(number, &mut blocks), number <= free);
                    prop_assert_eq!(blocks.len(), if number <= free { number } else { 0 });
                    held.push(blocks);
                } else if number < held.len() {
                    let mut blocks = held.swap_remove(number);
                    allocator.give_back(&mut blocks);
                    prop_assert!(blocks.is_empty());
                }
                let mut all: Vec<u32> = held.iter().flatten().copied().collect();
                prop_assert_eq!(all.len() + allocator.n_free(), n_blocks);
                all.sort_unstable();
                prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(all.iter().all(|&block| (block as usize) < n_blocks));
            }
        }
    }

    #[test]
    #[should_panic(expected = "block 3 was given back, but is not handed out")]
    fn a_block_given_back_twice_is_a_bug() {
        let mut allocator = BlockAllocator::new(8);
        let mut blocks = Vec::new();
        assert!(allocator.take(4, &mut blocks));
        allocator.give_back(&mut blocks.clone());
        allocator.give_back(&mut blocks);
    }
}
