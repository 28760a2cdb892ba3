//! Programs that must not compile: each leaves out a step, or makes evidence by hand (INVARIANT Evidence).

#[test]
fn leaving_out_a_step_is_a_type_error() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
