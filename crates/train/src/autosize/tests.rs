use proptest::prelude::*;

use super::*;

fn wish(text: u64, minutes: f64, gflops: f64) -> Wish {
    Wish {
        amount: Amount::TextBytes(text),
        budget: Budget::Minutes(minutes),
        flops_per_second: gflops * 1e9,
        available_memory: 16 << 30,
        dtype: Dtype::Bf16,
        n_vocab: None,
        n_ctx: None,
    }
}

/// What the rule gives for a book's worth of text on two slow cores; also what the user guide says.
#[test]
fn sizes_for_usual_runs() {
    for (minutes, low, high) in [(2.0, 0.3e6, 1.5e6), (5.0, 0.5e6, 3e6), (30.0, 2e6, 8e6), (600.0, 8e6, 20e6)] {
        let choice = choose(&wish(2_881_498, minutes, 150.0)).unwrap();
        assert!((low..high).contains(&(choice.n_params as f64)), "{minutes} minutes: {}", choice.why);
        assert!(choice.steps >= 300, "{minutes} minutes: {} steps", choice.steps);
        assert!(choice.n_vocab <= 2048);
    }
    let large = choose(&wish(10_000_000_000, 24.0 * 60.0, 100_000.0)).unwrap();
    assert!(large.n_params > 100_000_000 && large.n_vocab >= 16_384, "{}", large.why);
    let tiny_text = choose(&wish(20_000, 60.0, 200.0)).unwrap();
    assert!(tiny_text.n_params < 600_000, "{}", tiny_text.why);
}

#[test]
fn tokens_for_each_parameter_where_tokens_are_given() {
    let mut wish = wish(1 << 30, 1.0, 100.0);
    wish.budget = Budget::Tokens(100_000_000);
    let choice = choose(&wish).unwrap();
    assert_eq!((choice.model.n_layers, choice.model.d_model), (6, 384), "8 tokens each: at most 12.5M in blocks");
    assert_eq!(choice.tokens, 100_000_000);
    wish.budget = Budget::Steps(10);
    assert_eq!(choose(&wish).unwrap().model.d_model, 64);
    assert_eq!(choose(&wish).unwrap().steps, 10);
}

#[test]
fn bad_wishes_are_errors() {
    for (text, minutes, gflops) in [
        (0, 1.0, 1.0),
        (10, 1.0, 1.0),
        (1 << 20, 0.0, 1.0),
        (1 << 20, f64::NAN, 1.0),
        (1 << 20, 1.0, -1.0),
        (1 << 20, 1.0, f64::INFINITY),
    ] {
        assert!(choose(&wish(text, minutes, gflops)).is_err(), "{text} {minutes} {gflops}");
    }
    let mut poor = wish(1 << 20, 1.0, 1.0);
    poor.available_memory = 1000;
    let message = choose(&poor).unwrap_err().to_string();
    assert!(message.contains("1000 bytes"), "{message}");
}

#[test]
fn the_sentence_names_what_was_chosen() {
    let choice = choose(&wish(2_881_498, 5.0, 150.0)).unwrap();
    for part in [format!("{} layers", choice.model.n_layers), "in 5 minutes at half of 150 GFLOP/s".to_owned()] {
        assert!(choice.why.contains(&part), "{}", choice.why);
    }
}

#[test]
fn vocabulary_grows_with_text() {
    assert_eq!(vocabulary(0, None), 512);
    assert_eq!(vocabulary(2_881_498, None), 2048);
    assert_eq!(vocabulary(2_881_498, Some(64)), 1024);
    assert_eq!(vocabulary(u64::MAX, None), 65_536);
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let budget = prop_oneof![
        (0.001f64..1e6).prop_map(Budget::Minutes),
        (1u64..1 << 48).prop_map(Budget::Tokens),
        (1u64..1 << 40).prop_map(Budget::Steps),
    ];
    (
        prop_oneof![
            (8u32..45).prop_map(|b| Amount::TextBytes(1 << b)),
            (6u32..45).prop_map(|b| Amount::Tokens(1 << b))
        ],
        budget,
        1e6f64..1e16,
        24u32..44,
        any::<bool>(),
        prop::option::of(257usize..60_000),
        prop::option::of(1usize..3000),
    )
        .prop_map(|(amount, budget, flops_per_second, memory, f32, n_vocab, n_ctx)| Wish {
            amount,
            budget,
            flops_per_second,
            available_memory: 1 << memory,
            dtype: if f32 { Dtype::F32 } else { Dtype::Bf16 },
            n_vocab,
            n_ctx,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn choices_are_valid_and_fit(wish in any_wish()) {
        match choose(&wish) {
            Err(TrainError::Memory { .. } | TrainError::Data { .. }) => {}
            Err(e) => prop_assert!(false, "{e}"),
            Ok(choice) => {
                choice.model.validate().unwrap();
                prop_assert_eq!(choice.model.d_head, 64);
                prop_assert_eq!(choice.batch_tokens % (choice.micro_batch * choice.model.n_ctx) as u64, 0);
                prop_assert!(choice.batch_tokens > 0 && choice.steps > 0 && choice.epochs.is_finite());
                if let Some(n_vocab) = wish.n_vocab { prop_assert_eq!(n_vocab, choice.n_vocab); }
                if let Some(n_ctx) = wish.n_ctx { prop_assert_eq!(n_ctx, choice.model.n_ctx); }
                let needed = memory(&choice.model, choice.micro_batch, Recompute::ActivationsAndNorms, wish.dtype).unwrap();
                prop_assert!(needed <= wish.available_memory);
                prop_assert_eq!(&choose(&wish).unwrap(), &choice);
            }
        }
    }

    #[test]
    fn more_time_or_speed_never_gives_a_smaller_model(text in 12u32..40, minutes in 0.1f64..1e4, speed in 1f64..1e5, more in 1f64..100.0) {
        let size = |minutes, speed| choose(&wish(1 << text, minutes, speed)).unwrap().n_params;
        let base = size(minutes, speed);
        prop_assert!(size(minutes * more, speed) >= base);
        prop_assert!(size(minutes, speed * more) >= base);
    }
}
