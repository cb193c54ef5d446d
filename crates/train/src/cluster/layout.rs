//! Which layout fits.

use verve_model::{ElementSizes, ModelConfig, Recompute, activation_bytes};

use super::{DeviceMemory, Devices, Layout};

/// Bytes of a parameter in every copy (bf16 weight, f32 gradient) and over all copies (f32 master, two f32 moments).
const WEIGHT: u64 = 2;
const GRADIENT: u64 = 4;
const MASTER: u64 = 4;
const MOMENTS: u64 = 8;
/// Share of a device kept for its runtime, communication buffers and fragmentation: 1/20.
const RESERVE: u64 = 20;
/// Devices that are close enough to share matrices.
const MOST_TENSOR: u64 = 8;
/// Largest micro-batch that is looked at, in rows.
const MOST_ROWS: u64 = 1024;
const LEVELS: [Recompute; 3] = [Recompute::None, Recompute::Activations, Recompute::ActivationsAndNorms];

/// What the memory of a model depends on.
pub(super) struct Sizes<'a> {
    model: &'a ModelConfig,
    embeddings: u64,
    blocks: u64,
}

/// A layout with its memory.
pub(super) struct Fit {
    pub layout: Layout,
    pub recompute: Recompute,
    pub micro_batch: u64,
    pub memory: [DeviceMemory; 6],
}

impl Fit {
    fn total(&self) -> u64 {
        self.memory.iter().map(|item| item.bytes).sum()
    }
}

impl<'a> Sizes<'a> {
    pub fn of(model: &'a ModelConfig) -> Self {
        let table = verve_model::layout(model);
        let embeddings = table.tok_embed.len() + table.pos_embed.as_ref().map_or(0, |spec| spec.len());
        Self { model, embeddings: embeddings as u64, blocks: (table.n_params() - embeddings) as u64 }
    }

    /// Parameters on the fullest device.
    fn params(&self, layout: Layout) -> u64 {
        (self.blocks.div_ceil(layout.pipeline) + self.embeddings).div_ceil(layout.tensor)
    }

    /// Activations of one device, or `None` for a micro-batch that cannot be.
    fn activations(&self, tensor: u64, recompute: Recompute, rows: u64) -> Option<u64> {
        let sizes = ElementSizes { elem: 2, acc: 4 };
        let rows = usize::try_from(rows).ok()?;
        let items = activation_bytes(self.model, rows, self.model.n_ctx, recompute, sizes).ok()?;
        Some(items.iter().map(|item| item.bytes).sum::<u64>().div_ceil(tensor))
    }

    fn fit(&self, layout: Layout, recompute: Recompute, micro_batch: u64, device: u64) -> Option<Fit> {
        let params = self.params(layout);
        let item = |purpose, bytes| DeviceMemory { purpose, bytes };
        let memory = [
            item("weights (bf16)", params * WEIGHT),
            item("gradients (f32)", params * GRADIENT),
            item("master weights (f32)", (params * MASTER).div_ceil(layout.data)),
            item("optimizer moments (f32)", (params * MOMENTS).div_ceil(layout.data)),
            item("activations", self.activations(layout.tensor, recompute, micro_batch)?),
            item("reserve", device / RESERVE),
        ];
        Some(Fit { layout, recompute, micro_batch, memory })
    }

    /// Ways to divide one copy: fewest devices first, and of equals the most tensor parallelism.
    fn splits(&self) -> Vec<(u64, u64)> {
        let (heads, layers) = (self.model.n_kv_heads as u64, self.model.n_layers as u64);
        let tensors = [1, 2, 4, MOST_TENSOR].into_iter().filter(|t| heads.is_multiple_of(*t));
        let mut splits: Vec<(u64, u64)> =
            tensors.flat_map(|t| (1..=layers).filter(|p| layers.is_multiple_of(*p)).map(move |p| (t, p))).collect();
        splits.sort_by_key(|&(t, p)| (t * p, p));
        splits
    }

    /// Layouts on `count` devices, a copy having at least one row of a batch of `rows`.
    fn layouts(&self, count: u64, rows: u64) -> impl Iterator<Item = Layout> {
        self.splits().into_iter().filter_map(move |(tensor, pipeline)| {
            let data = (count / (tensor * pipeline)).min(rows);
            (data > 0).then_some(Layout { tensor, pipeline, data })
        })
    }
}

/// The layout by the rule of this module's parent; `None` if nothing fits.
pub(super) fn choose(sizes: &Sizes<'_>, devices: Devices, rows: u64) -> Option<Fit> {
    let fits = |layout, level, micro| {
        sizes.fit(layout, level, micro, devices.bytes).filter(|fit| fit.total() <= devices.bytes)
    };
    for levels in [LEVELS.as_slice(), &[Recompute::Blocks]] {
        for layout in sizes.layouts(devices.count, rows) {
            for &level in levels {
                let Some(mut best) = fits(layout, level, 1) else { continue };
                while 2 * best.micro_batch <= MOST_ROWS.min(rows / layout.data)
                    && let Some(more) = fits(layout, level, 2 * best.micro_batch)
                {
                    best = more;
                }
                return Some(best);
            }
        }
    }
    None
}

/// The layout that needs least memory, where nothing fits.
pub(super) fn least(sizes: &Sizes<'_>, devices: Devices, rows: u64) -> Fit {
    let alone = Layout { tensor: 1, pipeline: 1, data: 1 };
    sizes
        .layouts(devices.count, rows)
        .chain([alone])
        .filter_map(|layout| sizes.fit(layout, Recompute::Blocks, 1, devices.bytes))
        .filter(|fit| fit.layout.devices() <= devices.count)
        .min_by_key(Fit::total)
        .unwrap_or(Fit {
            layout: alone,
            recompute: Recompute::Blocks,
            micro_batch: 1,
            memory: [DeviceMemory { purpose: "more than can be counted", bytes: 0 }; 6],
        })
}

/// The fewest devices of `bytes` each on which a micro-batch of one row fits.
pub(super) fn fewest_devices(sizes: &Sizes<'_>, bytes: u64, rows: u64) -> Option<u64> {
    let needed = |(tensor, pipeline): (u64, u64)| {
        let one = Layout { tensor, pipeline, data: 1 };
        let params = sizes.params(one);
        let fixed = params * (WEIGHT + GRADIENT) + sizes.activations(tensor, Recompute::Blocks, 1)? + bytes / RESERVE;
        let room = bytes.checked_sub(fixed).filter(|room| *room > 0)?;
        // Rounding of the two shares may need a byte each more.
        let first = (params * (MASTER + MOMENTS)).div_ceil(room);
        (first..=first + 1)
            .map(|data| Layout { data: data.max(1), ..one })
            .find(|&layout| sizes.fit(layout, Recompute::Blocks, 1, bytes).is_some_and(|fit| fit.total() <= bytes))
            .filter(|layout| layout.data <= rows)
            .map(Layout::devices)
    };
    sizes.splits().into_iter().filter_map(needed).min()
}
