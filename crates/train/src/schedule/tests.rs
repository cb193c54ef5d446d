use proptest::prelude::*;

use super::*;

const PEAK: f64 = 6e-4;

/// GPT-3 Small: warm-up over 375M tokens, cosine to a tenth at 260B.
fn gpt3() -> LrSchedule {
    LrSchedule {
        peak: PEAK,
        floor: 0.1 * PEAK,
        warmup_tokens: 375_000_000,
        shape: LrShape::Cosine { end: 260_000_000_000 },
    }
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-15, "{found} instead of {expected}");
}

#[test]
fn gpt3_learning_rate_at_exact_points() {
    let lr = gpt3();
    close(lr.at(0), 0.0);
    close(lr.at(187_500_000), PEAK / 2.0);
    close(lr.at(375_000_000), PEAK);
    // Halfway between the end of the warm-up and 260B: the mean of peak and floor.
    close(lr.at((375_000_000 + 260_000_000_000) / 2), 0.55 * PEAK);
    // A quarter: cos(pi / 4).
    let quarter = 375_000_000 + (260_000_000_000 - 375_000_000) / 4;
    close(lr.at(quarter), PEAK * (0.1 + 0.9 * 0.5 * (1.0 + 0.5f64.sqrt())));
    close(lr.at(260_000_000_000), 0.1 * PEAK);
    close(lr.at(300_000_000_000), 0.1 * PEAK);
}

#[test]
fn warm_up_stable_decay_at_exact_points() {
    let of = |curve| LrSchedule {
        peak: 1.0,
        floor: 0.0,
        warmup_tokens: 100,
        shape: LrShape::WarmupStableDecay { start: 800, end: 1000, curve },
    };
    for curve in [DecayCurve::Linear, DecayCurve::OneMinusSqrt] {
        let lr = of(curve);
        for (tokens, expected) in [(50, 0.5), (100, 1.0), (799, 1.0), (800, 1.0), (1000, 0.0), (2000, 0.0)] {
            close(lr.at(tokens), expected);
        }
    }
    close(of(DecayCurve::Linear).at(850), 0.75);
    close(of(DecayCurve::OneMinusSqrt).at(850), 0.5);
}

#[test]
fn constant_after_warm_up_and_no_warm_up() {
    let lr = LrSchedule { peak: 2.0, floor: 0.0, warmup_tokens: 0, shape: LrShape::Constant };
    close(lr.at(1), 2.0);
    close(lr.at(u64::MAX), 2.0);
    let cosine = LrSchedule { shape: LrShape::Cosine { end: 10 }, ..lr };
    close(cosine.at(0), 2.0);
    close(cosine.at(10), 0.0);
}

/// GPT-3 Small: 0.5M tokens in the end, from 32k over the first 4B.
fn ramp() -> BatchSchedule {
    BatchSchedule { micro_batch: 16, n_ctx: 2048, first: 1, full: 16, ramp_tokens: 4_000_000_000 }
}

#[test]
fn batch_ramp_at_exact_points() {
    let batch = ramp();
    assert_eq!(batch.micro_tokens(), 32_768);
    assert_eq!(batch.full_tokens(), 524_288);
    assert_eq!(batch.micro_batches(0), 1);
    // 15 further micro-batches over 4B tokens: one each 266,666,666.7.
    assert_eq!(batch.micro_batches(266_666_666), 1);
    assert_eq!(batch.micro_batches(266_666_667), 2);
    assert_eq!(batch.micro_batches(2_000_000_000), 8);
    assert_eq!(batch.micro_batches(3_999_999_999), 15);
    assert_eq!(batch.micro_batches(4_000_000_000), 16);
    assert_eq!(batch.micro_batches(u64::MAX), 16);
}

#[test]
fn without_ramp_the_llm_c_run_has_its_number_of_steps() {
    let batch = BatchSchedule { first: 16, ramp_tokens: 0, ..ramp() };
    assert_eq!(batch.steps_for(300_000_000_000), 572_205);
    assert_eq!(batch.tokens_after(572_204), 572_204 * 524_288);
    assert_eq!(batch.steps_for(375_000_000), 716);
    assert_eq!(batch.steps_for(0), 0);
}

proptest! {
    #[test]
    fn closed_forms_equal_stepping(
        micro_batch in 1_usize..5, n_ctx in 1_usize..9, first in 1_u64..5, more in 0_u64..20,
        ramp_tokens in 0_u64..3000, steps in 0_u64..200,
    ) {
        let batch = BatchSchedule { micro_batch, n_ctx, first, full: first + more, ramp_tokens };
        let mut tokens = 0;
        for step in 0..steps {
            prop_assert_eq!(batch.tokens_after(step), tokens);
            let before = batch.steps_for(tokens);
            prop_assert_eq!(before, step);
            let now = batch.micro_batches(tokens);
            prop_assert!(now >= first && now <= first + more);
            prop_assert_eq!(batch.steps_for(tokens + 1), step + 1);
            tokens += now * batch.micro_tokens();
        }
        prop_assert_eq!(batch.tokens_after(steps), tokens);
    }

    #[test]
    fn rates_stay_between_floor_and_peak(tokens: u64) {
        let rate = gpt3().at(tokens);
        prop_assert!((0.0..=PEAK).contains(&rate));
        prop_assert!(tokens < 375_000_000 || rate >= 0.1 * PEAK);
    }
}
