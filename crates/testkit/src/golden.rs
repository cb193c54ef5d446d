//! Golden files: tensors that PyTorch computed, in `tests/golden/<case>/golden.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// The folder of one golden case, which also holds the model (`config.json`, `model.safetensors`).
pub fn golden_dir(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(case)
}

struct Tensor {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

/// The tensors of one golden case.
pub struct Golden {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Golden {
    /// Reads `golden.safetensors` of a case; panics with the path if that fails.
    pub fn load(case: &str) -> Self {
        Self::read(golden_dir(case).join("golden.safetensors"))
    }

    /// Reads any safetensors file; panics with the path if that fails.
    pub fn read(path: PathBuf) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("cannot parse {}: {e}", path.display()));
        let tensors = file.iter().map(|(name, view)| {
            let tensor = Tensor { shape: view.shape().to_vec(), dtype: view.dtype(), bytes: view.data().to_vec() };
            (name.to_owned(), tensor)
        });
        Self { tensors: tensors.collect(), path }
    }

    /// The folder of the file.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names and prefix-less names of the tensors whose name starts with `prefix`, for example `grad.`.
    pub fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.names().filter_map(move |name| Some((name, name.strip_prefix(prefix)?)))
    }

    /// Dimensions of a tensor.
    #[track_caller]
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensor(name).shape
    }

    /// A tensor of `f32`.
    #[track_caller]
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.typed(name, Dtype::F32).bytes)
    }

    /// A tensor of bytes.
    #[track_caller]
    pub fn u8s(&self, name: &str) -> &[u8] {
        &self.typed(name, Dtype::U8).bytes
    }

    /// A tensor of `i64` that holds ids; -100, PyTorch's ignored target, becomes [`verve_ops::IGNORE_TARGET`].
    #[track_caller]
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let values: Vec<i64> = bytemuck::pod_collect_to_vec(&self.typed(name, Dtype::I64).bytes);
        let id = |value: i64| match value {
            -100 => verve_ops::IGNORE_TARGET,
            _ => u32::try_from(value).unwrap_or_else(|_| panic!("{name} holds {value}, which is no id")),
        };
        values.into_iter().map(id).collect()
    }

    #[track_caller]
    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| {
            panic!("{} has no tensor {name}; it has {:?}", self.path.display(), self.names().collect::<Vec<_>>())
        })
    }

    #[track_caller]
    fn typed(&self, name: &str, dtype: Dtype) -> &Tensor {
        let tensor = self.tensor(name);
        assert!(tensor.dtype == dtype, "{name} in {} is {:?}, not {dtype:?}", self.path.display(), tensor.dtype);
        tensor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_case() {
        let golden = Golden::load("gpt2");
        assert_eq!(golden.shape("input_ids"), [2, 24]);
        assert_eq!(golden.ids("input_ids").len(), 48);
        assert!(golden.ids("input_ids").iter().all(|&id| id < 97));
        let (name, short) = golden.with_prefix("grad.").next().unwrap();
        assert_eq!(name, format!("grad.{short}"));
        let gradient = golden.f32s(name);
        assert_eq!(gradient.len(), golden.shape(name).iter().product::<usize>());
        assert!(gradient.iter().all(|x| x.is_finite()) && gradient.iter().any(|&x| x != 0.0));
        assert!(golden.dir().join("config.json").is_file());
    }

    #[test]
    #[should_panic(expected = "has no tensor nonsense; it has [")]
    fn names_what_there_is() {
        Golden::load("gpt2").f32s("nonsense");
    }
}
