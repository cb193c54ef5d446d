//! What training changes: weights and moments.

use std::collections::BTreeMap;
use std::path::Path;

use verve_model::formats::ModelFile;
use verve_model::formats::tensor_file::TensorFile;
use verve_model::{ModelConfig, ModelError, Moments, ParamSpec, Params, Weights, init, layout};
use verve_ops::{Backend, Real};

use crate::error::{Result, TrainError};

/// Everything that a step changes, and that a checkpoint holds.
pub(crate) struct State<B: Backend> {
    /// What the model computes with.
    pub weights: Weights<B>,
    /// The exact weights, where those of the model are rounded.
    pub master: Option<Moments<B>>,
    /// First moments.
    pub m: Moments<B>,
    /// Second moments.
    pub v: Moments<B>,
}

/// Where the first weights come from.
pub(crate) enum Origin<'a> {
    /// Random numbers of a seed.
    Seed(u64),
    /// A model on disk, for weights alone.
    Model(&'a ModelFile),
    /// A checkpoint of a run.
    Resume {
        /// Weights.
        model: &'a ModelFile,
        /// Moments.
        moments: &'a TensorFile,
    },
}

/// The moments of AdamW with their names in files.
pub(crate) const MOMENTS: [&str; 2] = ["m", "v"];

/// Name of a moment of a tensor.
pub(crate) fn moment_name(moment: &str, spec: &ParamSpec) -> String {
    format!("{moment}.{}", spec.name)
}

impl Origin<'_> {
    fn weight<T: Real>(&self, spec: &ParamSpec, out: &mut [T]) -> std::result::Result<(), ModelError> {
        match self {
            Self::Seed(seed) => {
                init::fill(spec, *seed, out);
                Ok(())
            }
            Self::Model(model) | Self::Resume { model, .. } => model.read(spec, out),
        }
    }

    fn moment<T: Real>(&self, name: &str, spec: &ParamSpec, out: &mut [T]) -> std::result::Result<(), ModelError> {
        match self {
            Self::Seed(_) | Self::Model(_) => out.fill(T::default()),
            Self::Resume { moments, .. } => {
                let name = moment_name(name, spec);
                moments.check(&name, &spec.shape)?;
                moments.numbers(&name)?.each(0, spec.len(), |i, value| out[i] = T::from_f32(value));
            }
        }
        Ok(())
    }
}

impl<B: Backend> State<B> {
    /// Allocates and fills everything.
    pub fn new(backend: &B, table: &Params<ParamSpec>, origin: &Origin<'_>) -> Result<Self> {
        let master = (size_of::<B::Elem>() < size_of::<B::Acc>())
            .then(|| table.build(backend, |spec, out: &mut [B::Acc]| origin.weight(spec, out)))
            .transpose()?;
        let [m, v] =
            MOMENTS.map(|name| table.build(backend, |spec, out: &mut [B::Acc]| origin.moment(name, spec, out)));
        Ok(Self { weights: table.build(backend, |spec, out| origin.weight(spec, out))?, master, m: m?, v: v? })
    }
}

/// Opens a model folder or GGUF file to start from and checks that it is the model of the settings.
pub(crate) fn open_model(folder: &Path, model: &ModelConfig) -> Result<ModelFile> {
    let checkpoint = ModelFile::open(folder)?;
    // How it was initialised does not matter any more.
    let found = ModelConfig { init_std: model.init_std, ..checkpoint.config().clone() };
    if found == *model {
        return Ok(checkpoint);
    }
    let [found, wanted] = [fields(&found), fields(model)];
    let differing = wanted.iter().find(|(key, value)| found.get(*key) != Some(*value));
    let (key, wanted) = differing.map_or(("", ""), |(key, value)| (key.as_str(), value.as_str()));
    Err(TrainError::Data {
        problem: format!(
            "the model to start from, {}, has {key} = {}, the settings say {wanted}: leave [model] out to take the model as \
             it is",
            folder.display(),
            found.get(key).map_or("nothing", String::as_str),
        ),
    })
}

fn fields(model: &ModelConfig) -> BTreeMap<String, String> {
    match toml::Table::try_from(model) {
        Ok(table) => table.into_iter().map(|(key, value)| (key, value.to_string())).collect(),
        Err(_) => BTreeMap::new(),
    }
}

/// The parameter table with its tensors' names in canonical order.
pub(crate) struct Table {
    /// The table.
    pub params: Params<ParamSpec>,
    /// Its tensors.
    pub specs: Vec<ParamSpec>,
}

impl Table {
    /// The table of a model.
    pub fn new(model: &ModelConfig) -> Self {
        let params = layout(model);
        Self { specs: params.iter().cloned().collect(), params }
    }
}
