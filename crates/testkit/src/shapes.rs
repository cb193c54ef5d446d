//! Lengths that are awkward for kernels: one, below, at and above the widths of vectors, tiles and blocks.

/// Lengths around the usual vector and tile widths.
pub const LENGTHS: &[usize] = &[1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129, 257];

/// Row counts, from a decode step's one to more than a tile.
pub const ROWS: &[usize] = &[1, 2, 3, 4, 5, 7, 17, 33, 65];

/// Head widths of real models, and two small ones.
pub const HEAD_WIDTHS: &[usize] = &[8, 16, 64, 80, 96, 128];

/// `(rows, d_in, d_out)` of linear layers.
pub const LINEAR: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 3, 2),
    (3, 1, 5),
    (2, 17, 1),
    (1, 64, 64),
    (1, 129, 257),
    (3, 17, 33),
    (4, 33, 63),
    (5, 65, 17),
    (6, 16, 16),
    (7, 63, 129),
    (8, 64, 48),
    (9, 100, 65),
    (13, 257, 31),
    (17, 31, 64),
    (33, 129, 65),
    (63, 65, 3),
    (64, 64, 64),
    (65, 80, 127),
    (100, 300, 33),
    (129, 33, 257),
    (130, 600, 130),
];

/// Ways to give neighbouring rows to calls: `(first, count)` out of 66 rows.
pub const ROW_RANGES: &[(usize, usize)] = &[
    (0, 1),
    (1, 1),
    (17, 1),
    (65, 1),
    (0, 2),
    (3, 3),
    (5, 4),
    (2, 5),
    (8, 8),
    (1, 9),
    (20, 16),
    (30, 17),
    (0, 33),
    (2, 64),
];
