//! Moving, clearing, rounding and measuring buffers.

use verve_ops::{Backend, Buffer, Real};

use super::case::{Draw, Outputs};
use crate::tolerance::Class;
use crate::{Bound, Host, assert_bits, assert_close, shapes};

/// Upload, download, copy, fill.
pub fn moves<B: Backend>(backend: &B) {
    let host = Host(backend);
    let mut draw = Draw::<B>::new(1);
    for &len in shapes::LENGTHS {
        let fresh = backend.alloc::<B::Elem>(len).unwrap_or_else(|e| panic!("alloc of {len}: {e}"));
        assert_eq!(fresh.len(), len);
        assert_bits("a new buffer is zeros", &host.download(&fresh), &vec![B::Elem::default(); len]);

        let elems: Vec<B::Elem> = draw.elems(len).into_iter().map(B::Elem::from_f64).collect();
        let mut first = host.buffer(&elems);
        assert_bits("upload and download", &host.download(&first), &elems);
        let mut second = host.unset::<B::Elem>(len);
        backend.copy(&first, &mut second);
        backend.fill_zero(&mut first);
        assert_bits("copy", &host.download(&second), &elems);
        assert_bits("fill_zero", &host.download(&first), &vec![B::Elem::default(); len]);

        let ids = draw.data.ids(len, 1 << 31);
        assert_bits("ids", &host.download(&host.buffer(&ids)), &ids);
    }
    assert!(backend.alloc::<u32>(0).unwrap_or_else(|e| panic!("alloc of 0: {e}")).is_empty());
    backend.synchronize().unwrap_or_else(|e| panic!("synchronize: {e}"));
    assert!(!backend.describe().is_empty());
}

/// Rounding to nearest, ties to even, of every kind of number but the subnormal.
pub fn round<B: Backend>(backend: &B) {
    let host = Host(backend);
    let mut values = Draw::<B>::new(2).accs(4099);
    // One eighth of the distance between neighbours of bf16 at 1, so that ties and near-ties are met, on both sides of even.
    values.extend((0..4096).map(|i| (1.0 + f64::from(i) / 1024.0) * if i % 2 == 0 { 1.0 } else { -1.0 }));
    values.extend([0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 1e30, -1e-30, 3.39e38, -3.4e38, 65504.0]);
    let src: Vec<B::Acc> = values.into_iter().map(B::Acc::from_f64).collect();
    for len in shapes::LENGTHS.iter().copied().chain([src.len()]) {
        let src = &src[src.len() - len..];
        let mut dst = host.unset(len);
        backend.round(&host.buffer(src), &mut dst);
        let expected: Vec<B::Elem> = src.iter().map(|x| B::Elem::from_f64(x.to_f64())).collect();
        assert_bits("round", &host.download(&dst), &expected);
    }
    let mut dst = host.elems(&[0.0; 9]);
    backend.round(&host.accs(&[f64::NAN; 9]), &mut dst);
    assert!(host.read(&dst).iter().all(|x| x.is_nan()), "round: NaN must stay NaN");
}

/// The sums of squares of some buffers.
fn sums<B: Backend>(backend: &B) -> Vec<f64> {
    let host = Host(backend);
    let mut draw = Draw::<B>::new(3);
    let bufs: Vec<_> = shapes::LENGTHS.iter().chain(&[100_003]).map(|&len| host.accs(&draw.accs(len))).collect();
    let mut out = vec![f64::NAN; bufs.len()];
    backend.sum_squares(bufs.iter(), &mut out).unwrap_or_else(|e| panic!("sum_squares: {e}"));
    out
}

/// Sums of squares against sums in index order, and that nothing infinite is lost.
pub fn sum_squares<B: Backend>(backend: &B) {
    let host = Host(backend);
    let expected = sums_in_order::<B>();
    for (found, expected) in sums(backend).iter().zip(&expected) {
        assert_close("sum_squares", &[*found], &[*expected], Bound::new(1e-12));
    }
    for len in [1, 17, 1000] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut values = Draw::<B>::new(4).accs(len);
            values[len / 2] = bad;
            let mut out = [0.0; 2];
            let bufs = [host.accs(&[1.5]), host.accs(&values)];
            backend.sum_squares(bufs.iter(), &mut out).unwrap_or_else(|e| panic!("sum_squares: {e}"));
            assert!(out[0] == 2.25 && !out[1].is_finite(), "sum_squares of {len} elements, one of them {bad}: {out:?}");
        }
    }
    // The square does not fit in f32, its sum does in f64.
    let mut out = [0.0];
    backend.sum_squares([host.accs(&[1e25; 33])].iter(), &mut out).unwrap_or_else(|e| panic!("sum_squares: {e}"));
    assert_close("sum_squares of large numbers", &out, &[33e50], Bound::new(1e-6));
}

/// The sums of squares, for comparison of bits.
pub fn outputs<B: Backend>(backend: &B) -> Vec<(String, Outputs)> {
    let mut outputs = Outputs::default();
    outputs.acc("sums", sums(backend), Class::Exact);
    vec![("sum_squares".to_owned(), outputs)]
}

fn sums_in_order<B: Backend>() -> Vec<f64> {
    let mut draw = Draw::<B>::new(3);
    let lengths = shapes::LENGTHS.iter().chain(&[100_003]);
    lengths.map(|&len| draw.accs(len).iter().map(|x| x * x).sum()).collect()
}
