//! AdamW against the formula written out for one number.

use verve_ops::args::AdamW;
use verve_ops::reference::{HostBuf, Reference};
use verve_ops::{AdamWStep, Backend};
use verve_testkit::Data;

/// Some steps of one number with exact moments, as the paper has them.
struct OneNumber {
    w: f64,
    m: f64,
    v: f64,
}

impl OneNumber {
    fn step(&mut self, grad: f64, t: i32, lr: f64, decay: f64) {
        let (beta1, beta2, eps) = (f64::from(0.9f32), f64::from(0.95f32), f64::from(1e-3f32));
        self.m = beta1 * self.m + (1.0 - beta1) * grad;
        self.v = beta2 * self.v + (1.0 - beta2) * grad * grad;
        let (m_hat, v_hat) = (self.m / (1.0 - beta1.powi(t)), self.v / (1.0 - beta2.powi(t)));
        self.w = self.w - lr * decay * self.w - lr * m_hat / (v_hat.sqrt() + eps);
    }
}

#[test]
fn adamw_follows_the_formula() {
    let backend = Reference::<f64>::new();
    for with_master in [false, true] {
        let mut data = Data::new(1);
        let start = data.normal(10);
        let mut numbers: Vec<_> = start.iter().map(|&w| OneNumber { w, m: 0.0, v: 0.0 }).collect();
        // With a master the weight is only ever written.
        let mut weight: HostBuf<f64> = if with_master { vec![f64::NAN; 10] } else { start.clone() }.into();
        let mut master: HostBuf<f64> = start.into();
        let (mut m, mut v): (HostBuf<f64>, HostBuf<f64>) = (vec![0.0; 10].into(), vec![0.0; 10].into());
        for t in 1..=4 {
            let grads = data.normal(10);
            let (lr, decay, scale) = (0.125f32 / t as f32, 0.25f32, 0.5f32);
            let step = AdamWStep {
                lr,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-3,
                weight_decay: decay,
                bias_correction1: 1.0 - 0.9f32.powi(t),
                bias_correction2: 1.0 - 0.95f32.powi(t),
                grad_scale: scale,
            };
            backend.adamw(AdamW {
                weight: &mut weight,
                master: with_master.then_some(&mut master),
                grad: &grads.clone().into(),
                m: &mut m,
                v: &mut v,
                step,
            });
            for (i, number) in numbers.iter_mut().enumerate() {
                number.step(grads[i] * f64::from(scale), t, lr.into(), decay.into());
                // The bias corrections are given in f32, so the weight agrees to its precision; the moments to f64's.
                assert!((weight.as_slice()[i] - number.w).abs() < 2e-7, "weight {i} after step {t}");
                assert!((m.as_slice()[i] - number.m).abs() < 1e-15, "m {i} after step {t}");
                assert!((v.as_slice()[i] - number.v).abs() < 1e-15, "v {i} after step {t}");
            }
            if with_master {
                assert_eq!(weight, master);
            }
        }
    }
}

#[test]
fn sum_squares_of_some_buffers() {
    let bufs: [HostBuf<f32>; 3] = [vec![3.0, -4.0].into(), vec![].into(), vec![0.5].into()];
    let mut out = [f64::NAN; 3];
    Reference::<f32>::new().sum_squares(bufs.iter(), &mut out).unwrap();
    assert_eq!(out, [25.0, 0.0, 0.25]);
}

#[test]
#[should_panic(expected = "sum_squares: 1 buffers for 2 places of out")]
fn sum_squares_into_too_many_places() {
    let buf: HostBuf<f32> = vec![1.0].into();
    Reference::<f32>::new().sum_squares([buf].iter(), &mut [0.0, 0.0]).unwrap();
}
