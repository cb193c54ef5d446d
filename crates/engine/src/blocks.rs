//! Who has which block of the KV cache, and which blocks hold a known beginning of a text.

use std::collections::{BTreeSet, HashMap, hash_map::RandomState};
use std::hash::BuildHasher;

use verve_ops::KV_BLOCK;

/// The blocks of a KV cache, shared by all sequences.
///
/// A block is free, held by one or more sequences, or idle: held by none, but full of the keys and values of tokens that
/// may come again. Full blocks are *published* as nodes of a tree whose edges are [`KV_BLOCK`] tokens each: the path from
/// the root to a block spells the whole text up to its end, which is what its keys and values depend on. A sequence that
/// begins with the same tokens holds the same blocks. When no block is free, idle ones are given up, the longest unused
/// first, leaves before what they hang on.
#[derive(Debug)]
pub struct BlockCache {
    /// The next one to be handed out is the last.
    free: Vec<u32>,
    blocks: Vec<Block>,
    /// [`KV_BLOCK`] for each block: what it holds, if it is published.
    tokens: Vec<u32>,
    /// Published blocks by the hash of parent and tokens. Keyed by chance, so that no one can make many fall together;
    /// what is found is compared, and of two with one hash only the first is published.
    published: HashMap<u64, u32>,
    hasher: RandomState,
    /// Published blocks without holders and children, by the time of their last use.
    idle_leaves: BTreeSet<(u64, u32)>,
    n_idle: usize,
    clock: u64,
}

#[derive(Debug, Default)]
struct Block {
    holders: u32,
    node: Option<Node>,
}

#[derive(Debug)]
struct Node {
    parent: Option<u32>,
    n_children: u32,
    hash: u64,
    last_used: u64,
}

impl BlockCache {
    /// All of `n_blocks` blocks free.
    ///
    /// # Panics
    /// When block numbers do not fit in 32 bits.
    pub fn new(n_blocks: usize) -> Self {
        assert!(u32::try_from(n_blocks).is_ok(), "{n_blocks} blocks do not fit in 32 bits");
        Self {
            free: (0..n_blocks as u32).rev().collect(),
            blocks: (0..n_blocks).map(|_| Block::default()).collect(),
            tokens: vec![0; n_blocks * KV_BLOCK],
            published: HashMap::with_capacity(n_blocks),
            hasher: RandomState::new(),
            idle_leaves: BTreeSet::new(),
            n_idle: 0,
            clock: 0,
        }
    }

    /// All blocks.
    pub fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that [`Self::take`] can hand out: free and idle ones.
    pub fn n_available(&self) -> usize {
        self.free.len() + self.n_idle
    }

    /// Blocks that no sequence holds and that hold a text which may come again.
    pub fn n_idle(&self) -> usize {
        self.n_idle
    }

    /// Bytes for bookkeeping, at most.
    pub fn bytes(n_blocks: usize) -> usize {
        // Some more for the map and the set.
        n_blocks * (KV_BLOCK * size_of::<u32>() + size_of::<Block>() + 64)
    }

    /// The published block that holds `tokens` behind `parent`.
    fn child(&self, parent: Option<u32>, tokens: &[u32]) -> Option<u32> {
        let block = *self.published.get(&self.hasher.hash_one((parent, tokens)))?;
        let node = self.blocks[block as usize].node.as_ref()?;
        (node.parent == parent && self.tokens_of(block) == tokens).then_some(block)
    }

    fn tokens_of(&self, block: u32) -> &[u32] {
        &self.tokens[block as usize * KV_BLOCK..][..KV_BLOCK]
    }

    /// How many blocks hold the beginning of `tokens`, and how many of those are idle.
    pub fn find(&self, tokens: &[u32]) -> (usize, usize) {
        let (mut parent, mut found, mut idle) = (None, 0, 0);
        for tokens in tokens.chunks_exact(KV_BLOCK) {
            let Some(block) = self.child(parent, tokens) else { break };
            found += 1;
            idle += usize::from(self.blocks[block as usize].holders == 0);
            parent = Some(block);
        }
        (found, idle)
    }

    /// Holds the blocks of [`Self::find`], appending them to `out`.
    pub fn hold(&mut self, tokens: &[u32], out: &mut Vec<u32>) {
        let mut parent = None;
        for tokens in tokens.chunks_exact(KV_BLOCK) {
            let Some(block) = self.child(parent, tokens) else { break };
            self.add_holder(block);
            out.push(block);
            parent = Some(block);
        }
    }

    fn add_holder(&mut self, block: u32) {
        let state = &mut self.blocks[block as usize];
        state.holders += 1;
        if state.holders == 1
            && let Some(node) = &state.node
        {
            self.n_idle -= 1;
            self.idle_leaves.remove(&(node.last_used, block));
        }
    }

    /// Appends `count` blocks to `out`, or does nothing and returns false when there are not as many.
    #[must_use]
    pub fn take(&mut self, count: usize, out: &mut Vec<u32>) -> bool {
        if count > self.n_available() {
            return false;
        }
        for _ in 0..count {
            if self.free.is_empty() {
                self.give_up_oldest();
            }
            let Some(block) = self.free.pop() else { unreachable!("counted above") };
            self.blocks[block as usize].holders = 1;
            out.push(block);
        }
        true
    }

    /// Frees the idle leaf that has been unused for longest.
    fn give_up_oldest(&mut self) {
        // A held block's parents are held; so where a block is idle, a leaf is.
        let Some((_, block)) = self.idle_leaves.pop_first() else { unreachable!("an idle block without idle leaf") };
        let Some(node) = self.blocks[block as usize].node.take() else { unreachable!("idle blocks are published") };
        self.published.remove(&node.hash);
        self.n_idle -= 1;
        if let Some(parent) = node.parent {
            let state = &mut self.blocks[parent as usize];
            let Some(above) = &mut state.node else { unreachable!("parents are published") };
            above.n_children -= 1;
            if above.n_children == 0 && state.holders == 0 {
                self.idle_leaves.insert((above.last_used, parent));
            }
        }
        self.free.push(block);
    }

    /// Makes a full block known that a sequence holds: it holds `tokens` behind the published block `parent`. Returns the
    /// block to go on with: where another one holds the same, that one is held instead and this one let go.
    ///
    /// # Panics
    /// When the block is not full, not held, or published already.
    pub fn publish(&mut self, parent: Option<u32>, block: u32, tokens: &[u32]) -> u32 {
        assert!(tokens.len() == KV_BLOCK, "block {block} is published with {} tokens", tokens.len());
        let state = &self.blocks[block as usize];
        assert!(state.holders == 1 && state.node.is_none(), "block {block} cannot be published: {state:?}");
        if let Some(same) = self.child(parent, tokens) {
            self.add_holder(same);
            self.release_one(block);
            return same;
        }
        let hash = self.hasher.hash_one((parent, tokens));
        if self.published.contains_key(&hash) {
            return block;
        }
        self.published.insert(hash, block);
        if let Some(parent) = parent {
            let Some(above) = &mut self.blocks[parent as usize].node else { panic!("block {parent} is not published") };
            above.n_children += 1;
        }
        self.tokens[block as usize * KV_BLOCK..][..KV_BLOCK].copy_from_slice(tokens);
        self.blocks[block as usize].node = Some(Node { parent, n_children: 0, hash, last_used: self.clock });
        block
    }

    /// Whether others can find the block.
    pub fn is_published(&self, block: u32) -> bool {
        self.blocks[block as usize].node.is_some()
    }

    /// Lets a sequence's blocks go and empties the list.
    ///
    /// # Panics
    /// When a block is not held.
    pub fn release(&mut self, blocks: &mut Vec<u32>) {
        self.clock += 1;
        // In reverse, so that the same sequence taken again gets the same blocks.
        while let Some(block) = blocks.pop() {
            self.release_one(block);
        }
    }

    fn release_one(&mut self, block: u32) {
        let clock = self.clock;
        let state = self.blocks.get_mut(block as usize).filter(|state| state.holders > 0);
        let Some(state) = state else { panic!("block {block} was given back, but is not handed out") };
        state.holders -= 1;
        if state.holders > 0 {
            return;
        }
        match &mut state.node {
            None => self.free.push(block),
            Some(node) => {
                node.last_used = clock;
                self.n_idle += 1;
                if node.n_children == 0 {
                    self.idle_leaves.insert((clock, block));
                }
            }
        }
    }

    /// Forgets all idle blocks.
    pub fn forget_idle(&mut self) {
        while self.n_idle > 0 {
            self.give_up_oldest();
        }
    }

    /// Checks that what the parts say agrees with each other and with the blocks that sequences say they hold.
    ///
    /// # Panics
    /// When it does not: a bug.
    pub fn check<'a>(&self, held: impl Iterator<Item = &'a [u32]>) {
        let mut holders = vec![0u32; self.n_blocks()];
        held.flatten().for_each(|&block| holders[block as usize] += 1);
        let mut children = vec![0u32; self.n_blocks()];
        for node in self.blocks.iter().filter_map(|block| block.node.as_ref()) {
            if let Some(parent) = node.parent {
                children[parent as usize] += 1;
            }
        }
        let mut is_free = vec![false; self.n_blocks()];
        for &block in &self.free {
            assert!(!std::mem::replace(&mut is_free[block as usize], true), "block {block} is free twice");
        }
        let mut n_idle = 0;
        for (number, block) in (0u32..).zip(&self.blocks) {
            let at = number as usize;
            assert!(block.holders == holders[at], "block {number} has {} holders, not {}", holders[at], block.holders);
            assert!(
                is_free[at] == (block.holders == 0 && block.node.is_none()),
                "block {number} is free or lost: {block:?}"
            );
            let Some(node) = &block.node else { continue };
            assert!(node.n_children == children[at], "block {number} has {} children", children[at]);
            assert!(self.published.get(&node.hash) == Some(&number), "block {number} cannot be found");
            let idle = block.holders == 0;
            n_idle += usize::from(idle);
            let listed = self.idle_leaves.contains(&(node.last_used, number));
            assert!(listed == (idle && node.n_children == 0), "block {number} is listed as idle: {listed}");
        }
        assert!(n_idle == self.n_idle && self.idle_leaves.len() <= n_idle, "{n_idle} blocks are idle");
        assert!(self.published.len() == self.blocks.iter().filter(|block| block.node.is_some()).count());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Action {
        /// A sequence that begins with these block-sized texts, to be filled and published.
        Begin(Vec<u32>),
        Take(usize),
        Release(usize),
        Forget,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => prop::collection::vec(0u32..3, 1..6).prop_map(Action::Begin),
            2 => (0usize..6).prop_map(Action::Take),
            4 => (0usize..8).prop_map(Action::Release),
            1 => Just(Action::Forget),
        ]
    }

    /// A block's worth of tokens.
    fn text(letters: &[u32]) -> Vec<u32> {
        letters.iter().flat_map(|&letter| (0..KV_BLOCK as u32).map(move |i| letter * 1000 + i)).collect()
    }

    proptest! {
        #[test]
        fn blocks_are_shared_kept_and_never_lost(
            n_blocks in 0usize..20,
            actions in prop::collection::vec(action(), 0..60),
        ) {
            let mut cache = BlockCache::new(n_blocks);
            // What sequences hold, and the text that each block must stand for.
            let mut held: Vec<Vec<u32>> = Vec::new();
            let mut contents: Vec<Vec<u32>> = vec![Vec::new(); n_blocks];
            for action in actions {
                match action {
                    Action::Begin(letters) => {
                        let tokens = text(&letters);
                        let (found, idle) = cache.find(&tokens);
                        let missing = letters.len() - found;
                        if missing + idle > cache.n_available() {
                            continue;
                        }
                        let mut blocks = Vec::new();
                        cache.hold(&tokens, &mut blocks);
                        prop_assert_eq!(blocks.len(), found);
                        for (n, &block) in (1..).zip(&blocks) {
                            prop_assert_eq!(&contents[block as usize], &letters[..n].to_vec());
                        }
                        prop_assert!(cache.take(missing, &mut blocks));
                        for n in found..letters.len() {
                            let parent = n.checked_sub(1).map(|above| blocks[above]);
                            let block = cache.publish(parent, blocks[n], &tokens[n * KV_BLOCK..][..KV_BLOCK]);
                            prop_assert_eq!(block, blocks[n], "nothing else was found");
                            contents[block as usize] = letters[..=n].to_vec();
                        }
                        prop_assert_eq!(cache.find(&tokens), (letters.len(), 0));
                        held.push(blocks);
                    }
                    Action::Take(count) => {
                        let mut blocks = Vec::new();
                        let available = cache.n_available();
                        prop_assert_eq!(cache.take(count, &mut blocks), count <= available);
                        prop_assert_eq!(blocks.len(), if count <= available { count } else { 0 });
                        held.push(blocks);
                    }
                    Action::Release(number) if number < held.len() => {
                        let mut blocks = held.swap_remove(number);
                        cache.release(&mut blocks);
                        prop_assert!(blocks.is_empty());
                    }
                    Action::Release(_) => {}
                    Action::Forget => {
                        cache.forget_idle();
                        prop_assert_eq!(cache.n_idle(), 0);
                    }
                }
                cache.check(held.iter().map(Vec::as_slice));
            }
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_leaves_before_their_parents() {
        let mut cache = BlockCache::new(4);
        let sequence = |cache: &mut BlockCache, letters: &[u32]| {
            let tokens = text(letters);
            let mut blocks = Vec::new();
            cache.hold(&tokens, &mut blocks);
            let found = blocks.len();
            assert!(cache.take(letters.len() - found, &mut blocks));
            for n in found..letters.len() {
                let parent = n.checked_sub(1).map(|above| blocks[above]);
                cache.publish(parent, blocks[n], &tokens[n * KV_BLOCK..][..KV_BLOCK]);
            }
            cache.release(&mut blocks);
        };
        sequence(&mut cache, &[1, 2]);
        sequence(&mut cache, &[3]);
        sequence(&mut cache, &[1]);
        let found = |cache: &BlockCache, letters: &[u32]| cache.find(&text(letters)).0;
        // One is free; of the idle ones, [1, 2] was used before [3] and [1].
        sequence(&mut cache, &[4, 5]);
        assert_eq!([found(&cache, &[1, 2]), found(&cache, &[3])], [1, 1]);
        sequence(&mut cache, &[6]);
        assert_eq!([found(&cache, &[1]), found(&cache, &[3]), found(&cache, &[4, 5])], [1, 0, 2]);
    }

    #[test]
    fn two_that_computed_the_same_go_on_with_one_block() {
        let mut cache = BlockCache::new(3);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        assert!(cache.take(1, &mut first) && cache.take(1, &mut second));
        let tokens = text(&[7]);
        assert_eq!(cache.publish(None, first[0], &tokens), first[0]);
        second[0] = cache.publish(None, second[0], &tokens);
        assert_eq!(first, second);
        assert_eq!(cache.n_available(), 2);
        cache.check([&*first, &*second].into_iter());
    }

    #[test]
    #[should_panic(expected = "block 3 was given back, but is not handed out")]
    fn a_block_given_back_twice_is_a_bug() {
        let mut cache = BlockCache::new(8);
        let mut blocks = Vec::new();
        assert!(cache.take(4, &mut blocks));
        cache.release(&mut blocks.clone());
        cache.release(&mut blocks);
    }
}
