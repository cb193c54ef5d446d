//! Cases of the rotary position embedding.

use verve_ops::args::Rope;
use verve_ops::{Backend, RopeShape};

use super::case::{Case, Draw, Outputs};
use crate::tolerance::Class;
use crate::{Host, rounded};

pub struct RopeCase {
    shape: RopeShape,
    x: Vec<f64>,
    table: Vec<f64>,
    positions: Vec<u32>,
}

/// Cosines, then sines, of `position * 10000^(-2i / d_rot)`, as `B::Acc` holds them.
pub fn table<B: Backend>(n_positions: usize, d_rot: usize) -> Vec<f64> {
    let mut table = Vec::with_capacity(n_positions * d_rot);
    for position in 0..n_positions {
        let angle = |i: usize| position as f64 * 10_000f64.powf(-2.0 * i as f64 / d_rot as f64);
        table.extend((0..d_rot / 2).map(|i| angle(i).cos()));
        table.extend((0..d_rot / 2).map(|i| angle(i).sin()));
    }
    rounded::<B::Acc>(table)
}

pub fn cases<B: Backend>() -> Vec<RopeCase> {
    let mut cases = Vec::new();
    // rows, heads to rotate, heads left alone, d_head, d_rot, n_positions
    let sizes = [
        (1, 1, 0, 2, 2, 1),
        (1, 3, 1, 8, 8, 9),
        (5, 2, 2, 16, 6, 40),
        (17, 6, 2, 64, 64, 20),
        (3, 5, 1, 80, 80, 100),
        (9, 2, 1, 96, 32, 64),
        (65, 3, 1, 128, 128, 65),
        (130, 4, 2, 10, 10, 130),
        (2, 3, 1, 16, 0, 5),
    ];
    for (i, (rows, n_heads, others, d_head, d_rot, n_positions)) in sizes.into_iter().enumerate() {
        let mut draw = Draw::<B>::new(800 + i as u64);
        let row_width = (n_heads + others) * d_head;
        cases.push(RopeCase {
            shape: RopeShape { rows, row_width, n_heads, d_head, d_rot, n_positions },
            x: draw.elems(rows * row_width),
            table: table::<B>(n_positions, d_rot),
            positions: draw.data.ids(rows, n_positions),
        });
    }
    cases
}

impl Case for RopeCase {
    fn label(&self) -> String {
        format!("rope {:?}", self.shape)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let shape = self.shape;
        let table = host.accs(&self.table);
        let positions = host.long_ids(&self.positions);
        let mut outputs = Outputs::default();
        for name in ["forward", "backward"] {
            let mut x = host.long_in_place(&self.x);
            let args = Rope { x: &mut x, table: &table, positions: &positions, shape };
            if name == "forward" {
                host.0.rope(args)
            } else {
                host.0.rope_backward(args)
            }
            let x = host.read_long("rope", &x);
            // What does not rotate keeps its bits.
            for (i, (found, before)) in x.iter().zip(&self.x).enumerate() {
                let column = i % shape.row_width;
                let rotates = column < shape.n_heads * shape.d_head && column % shape.d_head < shape.d_rot;
                assert!(rotates || found == before, "{}: {name} changed [{i}], which does not rotate", self.label());
            }
            outputs.elem(name, x, Class::Few);
        }
        outputs
    }
}
