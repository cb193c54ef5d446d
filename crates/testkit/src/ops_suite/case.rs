//! One test case of an operation, run the same way on the backend under test and on the reference.

use std::marker::PhantomData;

use verve_ops::Backend;
use verve_ops::reference::Reference;

use crate::tolerance::{Class, Stored, bound};
use crate::{Data, Host, compare, rounded};

/// One result of an operation.
pub struct Output {
    name: &'static str,
    values: Vec<f64>,
    stored: Stored,
    class: Class,
    /// As in [`bound`].
    slack: f64,
}

/// All results of an operation.
#[derive(Default)]
pub struct Outputs(Vec<Output>);

impl Outputs {
    /// Adds a result stored in `Elem`.
    pub fn elem(&mut self, name: &'static str, values: Vec<f64>, class: Class) {
        self.0.push(Output { name, values, stored: Stored::Elem, class, slack: 1.0 });
    }

    /// Adds a result stored in `Acc`.
    pub fn acc(&mut self, name: &'static str, values: Vec<f64>, class: Class) {
        self.0.push(Output { name, values, stored: Stored::Acc, class, slack: 1.0 });
    }

    /// Sets the slack of all results, see [`bound`].
    pub fn with_slack(mut self, slack: f64) -> Self {
        self.0.iter_mut().for_each(|output| output.slack = slack);
        self
    }

    /// The values of one result.
    pub fn values(&self, name: &str) -> &[f64] {
        let output = self.0.iter().find(|output| output.name == name);
        &output.unwrap_or_else(|| panic!("no output {name}")).values
    }

    /// Panics unless all results have the same bits.
    pub fn assert_same_bits(&self, what: &str, other: &Self) {
        for (found, expected) in self.0.iter().zip(&other.0) {
            crate::assert_bits(&format!("{what}: {}", found.name), &found.values, &expected.values);
        }
    }
}

/// A test case: inputs, and how to run an operation on them.
pub trait Case {
    /// The operation and its shape, for messages.
    fn label(&self) -> String;
    /// Runs the operation on any backend.
    fn run<X: Backend>(&self, host: Host<'_, X>) -> Outputs;
}

/// Runs each case on the backend and in `f64` and compares.
pub fn check<B: Backend>(backend: &B, cases: &[impl Case]) {
    for case in cases {
        let found = case.run(Host(backend));
        let expected = case.run(Host(&Reference::<f64>::new()));
        compare_outputs::<B>(&format!("{} on {}", case.label(), backend.describe()), &found, &expected);
    }
}

/// Compares all results, each with its own tolerance for the types of `B`.
pub fn compare_outputs<B: Backend>(what: &str, found: &Outputs, expected: &Outputs) {
    assert!(found.0.len() == expected.0.len(), "{what}: number of outputs");
    for (found, expected) in found.0.iter().zip(&expected.0) {
        let bound = bound::<B::Elem, B::Acc>(found.class, found.stored, found.slack);
        if let Err(mismatch) = compare(&found.values, &expected.values, bound) {
            panic!("{what}: {}: {mismatch}", found.name);
        }
    }
}

/// Runs each case, for comparison of bits.
pub fn run_all<B: Backend>(backend: &B, cases: &[impl Case]) -> Vec<(String, Outputs)> {
    cases.iter().map(|case| (case.label(), case.run(Host(backend)))).collect()
}

/// Random inputs in the types of `B`.
pub struct Draw<B> {
    /// Unrounded data.
    pub data: Data,
    types: PhantomData<B>,
}

impl<B: Backend> Draw<B> {
    /// Inputs of a seed.
    pub fn new(seed: u64) -> Self {
        Self { data: Data::new(seed), types: PhantomData }
    }

    /// Normal numbers that `Elem` can hold.
    pub fn elems(&mut self, len: usize) -> Vec<f64> {
        rounded::<B::Elem>(self.data.normal(len))
    }

    /// Normal numbers times `scale` plus `offset` that `Elem` can hold.
    pub fn scaled_elems(&mut self, len: usize, scale: f64, offset: f64) -> Vec<f64> {
        rounded::<B::Elem>(self.data.normal(len).into_iter().map(|x| offset + scale * x).collect())
    }

    /// Normal numbers that `Acc` can hold.
    pub fn accs(&mut self, len: usize) -> Vec<f64> {
        rounded::<B::Acc>(self.data.normal(len))
    }

    /// Uniform numbers that `Acc` can hold.
    pub fn uniform_accs(&mut self, len: usize, low: f64, high: f64) -> Vec<f64> {
        rounded::<B::Acc>(self.data.uniform(len, low, high))
    }
}

/// Rounds to `Elem`.
pub fn to_elem<B: Backend>(values: Vec<f64>) -> Vec<f64> {
    rounded::<B::Elem>(values)
}
