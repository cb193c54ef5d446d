//! The op test table on the reference itself.

use verve_ops::reference::Reference;
use verve_testkit::ops_suite;

mod reference_f32 {
    verve_testkit::backend_tests!(verve_ops::reference::Reference::<f32>::new());
}

mod reference_f64 {
    verve_testkit::backend_tests!(verve_ops::reference::Reference::<f64>::new());
}

#[test]
fn threads() {
    ops_suite::threads(|_| Reference::<f32>::new());
}
