//! Cases of the embedding.

use verve_ops::args::{Embed, EmbedBackward};
use verve_ops::{Backend, EmbedShape};

use super::case::{Case, Draw, Outputs};
use crate::Host;
use crate::tolerance::Class;

pub struct EmbedCase {
    shape: EmbedShape,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    table: Vec<f64>,
    pos_table: Vec<f64>,
    d_out: Vec<f64>,
    d_table: Vec<f64>,
    d_pos_table: Vec<f64>,
}

pub fn cases<B: Backend>() -> Vec<EmbedCase> {
    let shapes = [
        (1, 1, 1, 1),
        (1, 17, 5, 0),
        (3, 8, 2, 4),
        (17, 33, 7, 0),
        (33, 64, 100, 40),
        (64, 65, 11, 64),
        (129, 129, 50, 33),
        (200, 96, 3, 0),
    ];
    let case = |(seed, (rows, d_model, n_vocab, n_positions)): (usize, (usize, usize, usize, usize))| {
        let mut draw = Draw::<B>::new(100 + seed as u64);
        EmbedCase {
            shape: EmbedShape { rows, d_model, n_vocab, n_positions },
            tokens: draw.data.ids(rows, n_vocab),
            // Without a table, positions are not looked at.
            positions: if n_positions > 0 { draw.data.ids(rows, n_positions) } else { vec![u32::MAX; rows] },
            table: draw.elems(n_vocab * d_model),
            pos_table: draw.elems(n_positions * d_model),
            d_out: draw.elems(rows * d_model),
            d_table: draw.accs(n_vocab * d_model),
            d_pos_table: draw.accs(n_positions * d_model),
        }
    };
    shapes.into_iter().enumerate().map(case).collect()
}

impl Case for EmbedCase {
    fn label(&self) -> String {
        format!("embed {:?}", self.shape)
    }

    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs {
        let shape = self.shape;
        let mut outputs = Outputs::default();
        let has_positions = shape.n_positions > 0;
        let (table, pos_table) = (host.elems(&self.table), host.elems(&self.pos_table));
        let mut out = host.unset_long(shape.rows * shape.d_model);
        host.0.embed(Embed {
            tokens: &host.long_ids(&self.tokens),
            positions: &host.long_ids(&self.positions),
            table: &table,
            pos_table: has_positions.then_some(&pos_table),
            out: &mut out,
            shape,
        });
        outputs.elem("out", host.read_long("embed", &out), Class::Few);

        let (mut d_table, mut d_pos_table) = (host.accs(&self.d_table), host.accs(&self.d_pos_table));
        host.0.embed_backward(EmbedBackward {
            tokens: &host.buffer(&self.tokens),
            positions: &host.buffer(&self.positions),
            d_out: &host.elems(&self.d_out),
            d_table: &mut d_table,
            d_pos_table: has_positions.then_some(&mut d_pos_table),
            shape,
        });
        outputs.acc("d_table", host.read(&d_table), Class::Product(shape.rows));
        outputs.acc("d_pos_table", host.read(&d_pos_table), Class::Product(shape.rows));
        outputs
    }
}
