//! `cargo xtask tidy` as a test.

#[test]
fn the_repository_is_tidy() {
    if let Err(error) = xtask::tidy::run(&xtask::root()) {
        panic!("{error:#}");
    }
}
