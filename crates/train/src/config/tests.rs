use super::*;
use crate::schedule::LrShape;

fn known() -> Known<'static> {
    Known {
        n_vocab: 512,
        train_tokens: 1_000_000,
        held_out_tokens: 50_000,
        available_memory: u64::MAX,
        other_memory: &|_, _, _| Vec::new(),
    }
}

fn parse(text: &str) -> Result<RunConfig> {
    RunConfig::parse(text, "run.toml")
}

fn plan(text: &str) -> RunPlan {
    parse(text).unwrap().resolve(&known()).unwrap()
}

fn message(text: &str) -> String {
    match parse(text) {
        Err(error) => error.to_string(),
        Ok(config) => config.resolve(&known()).unwrap_err().to_string(),
    }
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    for (text, expected) in [
        ("[optimiser]\nlr = 1e-3", "did you mean [optimizer]?"),
        ("[optimizer]\nlr_peak = 1e-3", "key `lr_peak` in section [optimizer]"),
        ("[batch]\nmicrobatch = 3", "did you mean `micro_batch`?"),
        ("[run]\nlr = 1e-3", "it belongs into section [optimizer]"),
        ("[model]\npreset = 'tini'\n[budget]\nsteps = 1", "did you mean \"tiny\""),
        ("[model]\nd_modle = 3", "did you mean `d_model`?"),
        ("[budget]\nsteps = 'many'", "steps"),
    ] {
        let found = message(text);
        assert!(found.contains(expected), "{text:?} says {found}");
    }
}

#[test]
fn impossible_and_contradictory_values_are_refused() {
    for (text, expected) in [
        ("", "give one of steps, tokens and minutes"),
        ("[budget]\nsteps = 0", "[budget] steps = 0"),
        ("[budget]\nsteps = 5\nminutes = 1.0", "these contradict each other"),
        ("[budget]\nsteps = 5\n[optimizer]\nlr = nan", "[optimizer] lr"),
        ("[budget]\nsteps = 5\n[batch]\nbatch_tokens = 100", "a row has 256 tokens"),
        ("[budget]\nsteps = 5\n[batch]\nbatch_tokens = 512\nmicro_batch = 4", "is more than batch_tokens = 512 hold"),
        ("[budget]\nsteps = 5\n[batch]\nramp_start_tokens = 512", "also needs ramp_tokens"),
        ("[budget]\nsteps = 5\n[schedule]\nwarmup_steps = 6", "reaches beyond the end of the cosine"),
        ("[budget]\nsteps = 5\n[schedule]\ndecay_share = 0.1", "only a warmup_stable_decay schedule has it"),
        (
            "[budget]\nsteps = 5\n[model]\npreset = 'tiny'\nn_vocab = 300",
            "vocabulary of 512 tokens, the model only 300",
        ),
        ("[budget]\nsteps = 5\n[model]\npreset = 'tiny'\nn_ctx = 2000000", "1000000"),
    ] {
        let found = message(text);
        assert!(found.contains(expected), "{text:?} says {found}");
    }
}

#[test]
fn everything_is_chosen_and_choosing_again_changes_nothing() {
    for text in [
        "[budget]\nsteps = 1000",
        "[budget]\ntokens = 500000\n[model]\npreset = 'nano'",
        "[budget]\nsteps = 300\n[schedule]\nkind = 'warmup_stable_decay'",
        "[budget]\nsteps = 300\n[schedule]\nkind = 'constant'\n[batch]\nbatch_tokens = 10000\nramp_start_tokens = 2000\nramp_tokens = 100000",
        "[budget]\nsteps = 20\n[model]\npreset = 'gpt3-125m'\nn_ctx = 128",
    ] {
        let first = plan(text);
        let written = parse(&first.config.to_toml().unwrap()).unwrap();
        assert_eq!(written, first.config, "{text}");
        let second = written.resolve(&known()).unwrap();
        assert_eq!(second.config, first.config, "{text}");
        assert_eq!(second.schedule, first.schedule);
        assert_eq!((second.batch, second.micro_batch), (first.batch, first.micro_batch));
        let schedule = first.schedule.unwrap();
        assert!(schedule.lr.warmup_tokens < schedule.tokens && schedule.eval_every > 0);
    }
}

#[test]
fn choices_follow_gpt3_at_its_sizes_and_common_sense_below() {
    let small = plan("[budget]\nsteps = 3000");
    assert_eq!((small.model.d_model, small.batch.full_tokens()), (192, 8192));
    let lr = small.config.optimizer.lr.unwrap();
    assert!((1.5e-3..3e-3).contains(&lr), "{lr}");
    let schedule = small.schedule.unwrap();
    assert_eq!(schedule.lr.warmup_tokens, 100 * 8192);
    assert_eq!(schedule.lr.shape, LrShape::Cosine { end: 3000 * 8192 });
    assert!(small.notes.iter().any(|note| note.contains("read 24.6 times")), "{:?}", small.notes);

    let gpt3 = plan("[budget]\ntokens = 300000000000\n[model]\npreset = 'gpt3-125m'\nn_vocab = 50257");
    assert_eq!((gpt3.batch.full_tokens(), gpt3.config.optimizer.lr), (524_288, Some(6e-4)));
    assert_eq!(gpt3.schedule.unwrap().lr.warmup_tokens, 375_000_000);
}

#[test]
fn replaced_keys_of_a_preset_carry_what_follows_from_them() {
    let model = plan("[budget]\nsteps = 5\n[model]\npreset = 'tiny'\nd_model = 128\nn_heads = 4\nn_ctx = 64").model;
    assert_eq!((model.d_ff, model.d_head, model.n_kv_heads), (512, 32, 4));
    assert_eq!(model.window(1), Some(32));
    assert_eq!(model.n_vocab, 512);
}

#[test]
fn minutes_wait_for_a_measurement() {
    let mut plan = plan("[budget]\nminutes = 2.0");
    assert!(plan.schedule.is_none());
    plan.decide_for_minutes(77, &known()).unwrap();
    assert_eq!(plan.config.budget.steps, Some(77));
    assert_eq!(plan.config.budget.chosen_for_minutes, Some(2.0));
    assert_eq!(plan.config.resolve(&known()).unwrap().schedule, plan.schedule);
}

#[test]
fn memory_decides_what_is_left_open_and_the_message_names_what_fits() {
    let text = "[budget]\nsteps = 10\n[model]\npreset = 'mini'";
    let free = plan(text);
    assert_eq!((free.recompute, free.write, free.micro_batch), (Recompute::None, WriteMode::Background, 16));
    let within =
        |config: &str, bytes: u64| parse(config).unwrap().resolve(&Known { available_memory: bytes, ..known() });
    let total = free.memory.total();
    // A little less: cheap recomputation. Much less: smaller micro-batches, and so on.
    let tighter = within(text, total - 1).unwrap();
    assert_eq!((tighter.recompute, tighter.micro_batch), (Recompute::Activations, 16));
    let tight = within(text, total / 2).unwrap();
    assert!(tight.memory.total() <= total / 2 && tight.micro_batch < 16);
    assert_eq!(tight.batch.full_tokens(), free.batch.full_tokens());

    let fixed = "[budget]\nsteps = 10\n[model]\npreset = 'mini'\n[batch]\nmicro_batch = 16\n[run]\nrecompute = 'none'";
    let error = within(fixed, total / 2).unwrap_err().to_string();
    assert!(error.contains("the largest setting that fits is [batch] micro_batch = "), "{error}");
    let error = within(text, 80 << 20).unwrap_err().to_string();
    assert!(error.contains("the largest preset that does is \"tiny\""), "{error}");
    let error = within(text, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("not even the smallest preset fits"), "{error}");
}
