use proptest::prelude::*;

use super::*;

fn request(preset: &str, devices: &str) -> Request {
    Request {
        preset: preset.to_owned(),
        n_vocab: None,
        batch_tokens: None,
        tokens: None,
        devices: Devices::parse(devices).unwrap(),
        peak_flops: 989e12,
        utilisation: 0.4,
    }
}

/// Brown et al. 2020, tables 2.1 and D.1: parameters in millions, batch in millions of tokens, FLOPs, PF-days.
#[test]
fn gpt3_figures_are_the_papers() {
    for (preset, params, batch, flops, pf_days) in [
        ("gpt3-125m", 125.0, 0.5, 2.25e20, 2.60),
        ("gpt3-350m", 356.0, 0.5, 6.41e20, 7.42),
        ("gpt3-760m", 760.0, 0.5, 1.37e21, 15.8),
        ("gpt3-1.3b", 1320.0, 1.0, 2.38e21, 27.5),
        ("gpt3-2.7b", 2650.0, 1.0, 4.77e21, 55.2),
        ("gpt3-6.7b", 6660.0, 2.0, 1.20e22, 139.0),
        ("gpt3-13b", 12_850.0, 2.0, 2.31e22, 268.0),
        ("gpt3-175b", 174_600.0, 3.2, 3.14e23, 3640.0),
    ] {
        let plan = plan(&request(preset, "1024x80GB")).unwrap();
        let near = |found: f64, expected: f64, within: f64| {
            assert!((found / expected - 1.0).abs() < within, "{preset}: {found} is not {expected}");
        };
        near(plan.n_params as f64 / 1e6, params, 0.005);
        near(plan.total_flops_6nd, flops, 0.01);
        near(plan.total_flops_6nd / PF_DAY, pf_days, 0.01);
        near(plan.batch_tokens as f64 / 1e6, batch, 0.32);
        assert_eq!(plan.tokens, 300_000_000_000);
        assert!(plan.fits, "{plan}");
        // What the count with attention adds is small and positive for wide models.
        assert!(plan.total_flops > 0.93 * plan.total_flops_6nd && plan.total_flops < 1.4 * plan.total_flops_6nd);
    }
}

#[test]
fn the_readmes_plan() {
    let mut request = request("gpt3-1.3b", "8x80GB");
    request.batch_tokens = Some(1_000_000);
    let plan = plan(&request).unwrap();
    assert!(plan.fits);
    assert_eq!(plan.layout, Layout { tensor: 1, pipeline: 1, data: 8 });
    assert_eq!(plan.memory[0].bytes, 2 * 1_315_723_264);
    assert_eq!(plan.memory[1].bytes, 4 * 1_315_723_264);
    assert_eq!(plan.memory[2].bytes + plan.memory[3].bytes, 12 * 1_315_723_264 / 8);
    assert!((plan.batch_tokens as f64 / 1e6 - 1.0).abs() < 0.05, "{}", plan.batch_tokens);
    assert_eq!(plan.batch_tokens, plan.micro_batch * plan.micro_batches * plan.layout.data * 2048);
    assert_eq!(plan.steps, 300_000_000_000u64.div_ceil(plan.batch_tokens));
    let seconds = plan.total_flops / (8.0 * 989e12 * 0.4);
    assert!((plan.seconds.unwrap() / seconds - 1.0).abs() < 1e-9);
    let text = plan.to_string();
    for part in ["1,315,723,264", "8 data x 1 tensor x 1 pipeline", "optimizer moments", "days"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(serde_json::to_string(&plan).unwrap().contains("\"fits\":true"));
}

#[test]
fn the_micro_batch_is_the_largest_that_fits() {
    let model = ModelConfig::preset("gpt3-1.3b", None).unwrap();
    let sizes = Sizes::of(&model);
    let devices = Devices::parse("1x40GB").unwrap();
    let fit = layout::choose(&sizes, devices, 512).unwrap();
    let total = |fit: &layout::Fit| fit.memory.iter().map(|item| item.bytes).sum::<u64>();
    assert!(total(&fit) <= devices.bytes && total(&fit) > devices.bytes / 2);
}

#[test]
fn what_does_not_fit_says_what_would() {
    let large = plan(&request("gpt3-175b", "8x80GB")).unwrap();
    assert!(!large.fits && large.seconds.is_none());
    // 18 bytes a parameter on 76 GB devices.
    let fewest = large.fewest_devices.unwrap();
    assert!((42..64).contains(&fewest), "{fewest}");
    assert_eq!(large.largest_preset.as_deref(), Some("gpt3-13b"));
    assert!(large.to_string().contains("It does not fit. gpt3-175b needs at least"), "{large}");
    assert!(plan(&request("gpt3-175b", &format!("{fewest}x80GB"))).unwrap().fits);
    assert!(!plan(&request("gpt3-175b", &format!("{}x80GB", fewest - 1))).unwrap().fits);
    let none = plan(&request("gpt3-175b", "1x1MB")).unwrap();
    assert_eq!((none.fewest_devices, none.largest_preset.as_deref()), (None, None));
    assert!(none.to_string().contains("no number of such devices"));
}

#[test]
fn descriptions_of_devices() {
    for (text, count, bytes) in [
        ("8x80GB", 8, 80_000_000_000),
        ("1x24GiB", 1, 24 << 30),
        ("96x80gb", 96, 80_000_000_000),
        (" 4 X 0.5 TB ", 4, 500_000_000_000),
        ("24GiB", 1, 24 << 30),
    ] {
        assert_eq!(Devices::parse(text).unwrap(), Devices { count, bytes }, "{text}");
    }
    for text in [
        "", "8x", "x80GB", "8x80", "0x80GB", "-1x80GB", "8x-80GB", "8xnanGB", "8xinfGB", "8x80PB", "8x80GB!",
        "1e9x1GB", "8x0GB", "8x1e9GB",
    ] {
        let message = Devices::parse(text).unwrap_err().to_string();
        assert!(message.contains("8x80GB"), "{message}");
    }
}

#[test]
fn bad_requests_are_errors() {
    let good = request("gpt3-125m", "1x80GB");
    for bad in [
        Request { preset: "gpt3-125".to_owned(), ..good.clone() },
        Request { peak_flops: 0.0, ..good.clone() },
        Request { peak_flops: f64::NAN, ..good.clone() },
        Request { utilisation: 1.5, ..good.clone() },
        Request { tokens: Some(0), ..good.clone() },
        Request { batch_tokens: Some(0), ..good.clone() },
        Request { n_vocab: Some(0), ..good.clone() },
    ] {
        assert!(plan(&bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn plans_fit_what_they_say(preset in prop::sample::select(presets::names().collect::<Vec<_>>()), count in 1u64..3000, gb in 1u64..200, batch in 1u64..1 << 24) {
        let request = Request {
            batch_tokens: Some(batch),
            devices: Devices { count, bytes: gb * 1_000_000_000 },
            ..request(preset, "1x1GB")
        };
        let plan = plan(&request).unwrap();
        prop_assert_eq!(plan.memory_total <= plan.devices.bytes, plan.fits);
        prop_assert!(plan.layout.devices() <= count);
        prop_assert_eq!(plan.batch_tokens, plan.micro_batch * plan.micro_batches * plan.layout.data * plan.model.n_ctx as u64);
        prop_assert_eq!(plan.model.n_layers as u64 % plan.layout.pipeline, 0);
        if plan.fits {
            prop_assert!(plan.fewest_devices.is_some_and(|fewest| fewest <= count));
        }
        prop_assert!(!plan.to_string().is_empty());
    }

    #[test]
    fn any_description_is_a_value_or_an_error(text in ".*") {
        let _ = Devices::parse(&text);
    }
}
