//! Finding stop strings in a text that arrives in parts: the automaton of Aho and Corasick (1975).

/// The automaton's place: the longest end of the text that is a beginning of a stop string.
pub(crate) type State = u32;

/// The place at the beginning of a text.
pub(crate) const START: State = 0;

#[derive(Debug, Clone, Default)]
struct Node {
    /// Next nodes by byte, in order of bytes.
    next: Vec<(u8, State)>,
    /// The node of the longest proper end of this one that is a beginning of a stop string.
    fail: State,
    /// Bytes from the start to here.
    depth: u32,
    /// Length of the longest stop string that ends here; 0 if none does.
    matched: u32,
}

impl Node {
    fn next(&self, byte: u8) -> Option<State> {
        self.next.binary_search_by_key(&byte, |&(b, _)| b).ok().map(|at| self.next[at].1)
    }
}

/// A set of stop strings. Searching takes time linear in the text, however many there are.
#[derive(Debug, Clone)]
pub struct StopSet {
    nodes: Vec<Node>,
    /// Next nodes of the start, where most bytes are looked up; [`START`] where there is none.
    first: Box<[State; 256]>,
}

impl StopSet {
    /// Empty strings are left out: they would stop everything.
    pub fn new<S: AsRef<str>>(strings: &[S]) -> Self {
        let mut nodes = vec![Node::default()];
        for string in strings {
            let mut at = START;
            for &byte in string.as_ref().as_bytes() {
                let new = nodes.len() as State;
                let depth = nodes[at as usize].depth + 1;
                let next = &mut nodes[at as usize].next;
                at = match next.binary_search_by_key(&byte, |&(b, _)| b) {
                    Ok(place) => next[place].1,
                    Err(place) => {
                        next.insert(place, (byte, new));
                        nodes.push(Node { depth, ..Node::default() });
                        new
                    }
                };
            }
            nodes[at as usize].matched = nodes[at as usize].depth;
        }
        let mut first = Box::new([START; 256]);
        for &(byte, node) in &nodes[START as usize].next {
            first[usize::from(byte)] = node;
        }
        let mut set = Self { nodes, first };
        set.link();
        set
    }

    /// Sets `fail` and hands matches down, nodes in order of depth.
    fn link(&mut self) {
        let mut queue: Vec<State> = self.nodes[START as usize].next.iter().map(|&(_, node)| node).collect();
        let mut done = 0;
        while done < queue.len() {
            let at = queue[done] as usize;
            done += 1;
            for place in 0..self.nodes[at].next.len() {
                let (byte, child) = self.nodes[at].next[place];
                let fail = self.step(self.nodes[at].fail, byte);
                let inherited = self.nodes[fail as usize].matched;
                let child_node = &mut self.nodes[child as usize];
                child_node.fail = fail;
                if child_node.matched == 0 {
                    child_node.matched = inherited;
                }
                queue.push(child);
            }
        }
    }

    /// True when nothing can ever match.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// The place after one more byte.
    pub(crate) fn step(&self, mut state: State, byte: u8) -> State {
        while state != START {
            let node = &self.nodes[state as usize];
            match node.next(byte) {
                Some(next) => return next,
                None => state = node.fail,
            }
        }
        self.first[usize::from(byte)]
    }

    /// Length of the longest stop string that ends at this place.
    pub(crate) fn matched(&self, state: State) -> Option<usize> {
        match self.nodes[state as usize].matched {
            0 => None,
            length => Some(length as usize),
        }
    }

    /// How many bytes at the end of the text may be the beginning of a stop string.
    pub(crate) fn pending(&self, state: State) -> usize {
        self.nodes[state as usize].depth as usize
    }
}
