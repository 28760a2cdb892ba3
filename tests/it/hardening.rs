//! Every rule of the hardening list by its id, with the tests that name it or the reason why none does.
//!
//! The list itself is kept with the sources that it cites; here it is made sure that no rule is forgotten and no test
//! claims a rule that it is not listed for.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use Coverage::{Partly, Tested, Untested};

/// How a rule is held.
enum Coverage {
    /// By these tests.
    Tested(&'static [&'static str]),
    /// By these tests as far as they go, and what is owed beyond.
    Partly(&'static [&'static str], &'static str),
    /// By none that names it: why.
    Untested(&'static str),
}

impl Coverage {
    fn tests(&self) -> &'static [&'static str] {
        match self {
            Tested(tests) | Partly(tests, _) => tests,
            Untested(_) => &[],
        }
    }

    fn reason(&self) -> Option<&'static str> {
        match self {
            Partly(_, reason) | Untested(reason) => Some(reason),
            Tested(_) => None,
        }
    }
}

#[test]
fn every_rule_has_its_tests_or_a_reason_why_it_has_none() {
    let written = all_tests();
    let mut listed = BTreeSet::new();
    for (id, coverage) in RULES {
        assert!(!coverage.tests().is_empty() || matches!(coverage, Untested(_)), "{id} lists no test");
        for test in coverage.tests() {
            assert!(written.contains(*test), "{id}: there is no test `{test}`");
            listed.insert((*test).to_owned());
        }
        let Some(reason) = coverage.reason() else { continue };
        assert!(reason.len() > 10, "{id} needs a reason");
        for named in reason.split('`').skip(1).step_by(2).filter(|named| is_name_of_a_test(named)) {
            assert!(written.contains(named), "{id}: there is no test `{named}`");
        }
    }
    let unlisted: Vec<_> = written.difference(&listed).filter(|name| names_a_rule(name)).collect();
    assert!(unlisted.is_empty(), "tests that name a rule and are not listed for one: {unlisted:#?}");
    let ids: Vec<&str> = RULES.iter().map(|(id, _)| *id).collect();
    let all: Vec<String> = [('a', 22), ('b', 10), ('c', 16), ('d', 15), ('e', 7), ('f', 36)]
        .into_iter()
        .flat_map(|(family, last)| (1..=last).map(move |n| format!("{family}{n:02}")))
        .collect();
    assert_eq!(ids, all, "each id once, in order");
}

/// `.ci/run` asks it of the repository's own lock files; here it is asked whether it can say no.
#[test]
fn f02_a_locked_version_with_an_advisory_fails_the_build() {
    let Some((tested, told)) = advisories(&["--self-test"]) else { return };
    assert!(tested, "{told}");
    let (passed, told) = advisories(&["--lock", "tests/fixtures/advisories/Cargo.lock"]).unwrap();
    assert!(!passed && told.contains("advisory fault: time 0.1.43: RUSTSEC-2020-0071 "), "{told}");
    assert!(!told.contains("time 0.3.55"), "{told}");
}

/// Whether the script of that name is content, and what it says; `None` where there is no Python to run it.
fn advisories(arguments: &[&str]) -> Option<(bool, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new("python3").arg("--version").output().ok()?;
    let script = Command::new("python3")
        .arg(root.join(".ci/advisories"))
        .args(arguments)
        .current_dir(root)
        .env_remove("ADVISORY_DB")
        .output()
        .unwrap();
    Some((script.status.success(), String::from_utf8_lossy(&script.stdout).into_owned()))
}

#[test]
fn only_functions_that_run_as_tests_count() {
    let text = "fn a01_helper() {}\n#[test]\nfn a02_one() {}\nfn a03_helper() {}\n// #[test]\nfn a04_helper() {}\n\
                #[tokio::test(start_paused = true)]\n#[expect(\n    lint,\n)]\n/// fn a05_prose()\nasync fn a06_two() {}\n\
                proptest! {\n    #[test]\n    fn a07_three(n in 0..3) {}\n}\n#[test]\n#[ignore]\nfn a08_never() {}\n";
    assert_eq!(tests_of(text).collect::<Vec<_>>(), ["a02_one", "a06_two", "a07_three"]);
}

/// Names of all tests in the sources.
fn all_tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["src", "tests/it"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut names);
    }
    names
}

fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(tests_of(&fs::read_to_string(&path).unwrap()).map(str::to_owned));
        }
    }
}

/// The functions under `#[test]` and `#[tokio::test]`, those of `proptest!` among them; not those under `#[ignore]`.
fn tests_of(text: &str) -> impl Iterator<Item = &str> {
    let (mut is_test, mut is_ignored) = (false, false);
    text.lines().map(str::trim).filter(|line| !line.starts_with("//")).filter_map(move |line| {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        is_ignored |= is_test && line.starts_with("#[ignore");
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
        let counts = std::mem::take(&mut is_test) && !std::mem::take(&mut is_ignored);
        counts
            .then(|| name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
    })
}

/// Whether a word in a reason is a test's name: long, in lower case and underscores.
fn is_name_of_a_test(word: &str) -> bool {
    word.matches('_').count() >= 2
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn names_a_rule(name: &str) -> bool {
    let bytes = name.as_bytes();
    matches!(bytes, [b'a'..=b'f', b'0'..=b'9', b'0'..=b'9', b'_', ..])
}

#[rustfmt::skip]
const RULES: &[(&str, Coverage)] = &[
    ("a01", Tested(&["a01_a_token_signed_with_the_public_key_as_its_secret_is_refused", "a01_none_and_other_families_are_refused"])),
    ("a02", Tested(&["a02_a_fetched_key_that_two_algorithms_fit_is_not_used", "a02_a_key_for_something_else_verifies_nothing", "a02_a_key_has_one_algorithm_of_ours", "a02_a_key_that_two_algorithms_fit_is_asked_about"])),
    ("a03", Tested(&["a03_a_key_set_that_holds_a_secret_is_a_fault", "a03_weak_and_mismatched_keys_are_faults"])),
    ("a04", Tested(&["a04_unknown_crit_is_refused"])),
    ("a05", Tested(&["a05_keys_in_the_header_are_never_used"])),
    ("a06", Tested(&["a06_a_key_id_is_compared_byte_by_byte_in_the_issuers_own_set", "a06_a_token_without_key_id_needs_the_only_key_that_fits", "a06_one_key_id_at_two_issuers_is_two_keys"])),
    ("a07", Tested(&["a07_an_issuer_belongs_to_one_tenant_or_names_a_claim", "a07_records_of_one_issuer_are_told_apart_by_their_tenant_value", "a07_the_issuer_is_required_and_exact", "a07_the_tenant_claim_must_name_this_tenant"])),
    ("a08", Tested(&["a08_the_audience_is_required_and_ours"])),
    ("a09", Tested(&["a09_the_type_is_required_and_one_of_the_issuers"])),
    ("a10", Tested(&["a10_expired_immature_and_long_lived_tokens_are_refused", "a10_leeway_is_the_issuers", "a10_without_max_lifetime_a_token_may_lack_iat_and_lives_a_day_at_most"])),
    ("a11", Tested(&["a11_a_time_of_another_type_is_refused"])),
    ("a12", Tested(&["a12_a_name_twice_is_refused_in_header_and_claims"])),
    ("a13", Tested(&["a13_a_token_has_one_form_within_bounds"])),
    ("a14", Tested(&["a14_the_token_is_in_one_authorization_header_and_nowhere_else"])),
    ("a15", Tested(&["a15_every_bad_token_gets_one_answer_and_its_reason_is_recorded", "a15_only_a_request_without_credential_has_offered_none"])),
    ("a16", Tested(&["a16_a17_a_binding_that_cannot_be_kept_is_a_fault", "a16_a_bound_token_is_refused_where_nothing_is_said_of_bindings", "a16_a_bound_token_is_served_after_the_nonce_was_asked_for", "a16_a_bound_token_is_served_with_a_proof_and_the_nonce_that_was_told", "a16_a_nonce_is_good_in_its_epoch_and_the_next", "a16_a_nonce_is_renewed_before_it_ends_and_asked_for_when_it_has_ended", "a16_a_nonce_of_another_process_is_answered_with_one_of_this", "a16_a_nonce_of_another_process_or_of_nobody_is_none", "a16_a_proof_is_for_the_origin_that_is_configured_whatever_the_host_header_says", "a16_a_proof_is_good_once_also_for_a_token_in_the_cache_and_after_a_reload", "a16_a_proof_is_used_once_for_as_long_as_its_nonce_is_good", "a16_a_reply_that_tells_a_nonce_is_kept_by_nobody", "a16_a_tenant_without_room_for_proofs_sheds_and_serves_again_later", "a16_any_bytes_are_no_proof_and_one_changed_byte_is_another", "a16_at_a_tenants_host_a_proof_is_for_that_host", "a16_each_deviation_gets_the_one_answer_and_its_own_record", "a16_each_deviation_of_a_proof_is_refused_for_its_reason", "a16_of_fifty_calls_at_once_with_one_proof_one_is_served", "a16_of_many_who_send_one_proof_at_once_one_is_served", "a16_only_who_holds_the_token_and_its_key_hears_a_nonce", "a16_the_examples_of_rfc_9449_are_read_verified_and_hashed_as_it_says", "a16_what_is_bound_and_how_it_comes_must_agree", "a16_what_is_full_refuses_and_forgets_nothing_early"])),
    ("a17", Tested(&["a16_a17_a_binding_that_cannot_be_kept_is_a_fault", "a17_a_token_is_served_to_the_certificate_that_it_is_bound_to_and_to_no_other", "a17_a_token_that_is_bound_to_a_certificate_needs_that_of_this_connection", "a17_the_example_of_rfc_8705_has_the_thumbprint_that_it_says"])),
    ("a18", Tested(&["a18_a_new_key_is_found_and_an_old_one_ends_at_the_next_good_fetch", "a18_a_used_key_set_is_refreshed_in_the_background_until_its_tenant_is_gone", "a18_addresses_inside_are_not_public", "a18_an_address_inside_is_not_fetched", "a18_an_uneventful_refresh_keeps_cached_verdicts", "a18_keys_are_fetched_when_first_needed_and_then_kept", "a18_last_good_keys_serve_while_fetches_fail_but_not_for_ever", "a18_neither_private_addresses_nor_strange_certificates_are_trusted", "a18_only_plain_https_urls_are_fetched", "a18_requests_that_come_together_share_one_fetch", "a18_revisions_and_tenants_share_the_key_set_of_an_issuer", "a18_unknown_key_ids_cause_one_fetch_a_minute", "a18_what_is_no_key_set_never_becomes_one_and_is_asked_for_again_later", "a18_when_one_revision_ends_the_next_keeps_its_key_sets_fresh"])),
    ("a19", Tested(&["a19_an_issuer_of_rfc_8414_is_discovered_too", "a19_the_discovery_document_must_be_the_issuers_own"])),
    ("a20", Tested(&["a20_a_faulty_list_of_revocations_is_refused_with_its_line", "a20_a_list_of_revocations_that_cannot_be_read_leaves_everything_revoked", "a20_a_revocation_holds_for_a_token_that_is_in_the_cache", "a20_revoked_tokens_are_refused_by_id_subject_key_and_issuer"])),
    ("a21", Tested(&["a21_a_cached_token_expires_and_is_not_valid_before_its_time", "a21_a_known_token_is_the_same_caller", "a21_a_tenants_verdict_is_no_other_tenants", "a21_refusals_are_not_cached", "a21_the_cache_is_bounded", "a21_the_whole_token_is_the_key"])),
    ("a22", Tested(&["a22_nothing_that_is_printed_holds_the_token"])),
    ("b01", Tested(&["b01_older_versions_and_weaker_suites_are_refused", "b01_the_suite_is_the_servers_choice_and_not_the_clients", "b01_tls_1_3_comes_first_and_1_2_has_ecdhe_and_aead_only"])),
    ("b02", Tested(&["b02_early_data_is_never_taken"])),
    ("b03", Tested(&["b03_the_hybrid_group_comes_first_and_the_old_ones_are_kept"])),
    ("b04", Tested(&["b04_a_client_has_so_many_handshakes_under_way", "b04_handshakes_that_do_not_end_are_bounded_and_hold_nobody_else_up", "b04_who_says_nothing_or_only_hello_does_not_keep_others_from_their_turn"])),
    ("b05", Tested(&["b05_a_name_and_an_authority_that_disagree_are_misdirected_before_anybody_is_asked_who_they_are", "b05_a_tenants_host_serves_that_tenant_alone_with_its_own_certificate", "b05_requests_for_another_host_on_one_connection_are_sent_elsewhere_one_by_one", "b05_strict_sni_can_be_turned_on_and_off", "b05_strict_sni_refuses_names_that_nobody_here_has"])),
    ("b06", Tested(&["b06_without_a_common_protocol_there_is_no_connection"])),
    ("b07", Tested(&["b07_a_host_lets_in_whoever_its_tenants_authorities_vouch_for", "b07_an_authority_that_has_ended_vouches_for_nobody", "b07_where_no_token_is_bound_to_certificates_none_is_needed", "b07_whoever_is_revoked_is_out_and_so_are_their_connections"])),
    ("b08", Tested(&["b08_a_certificate_for_another_name_than_the_origins_is_refused", "b08_a_host_that_is_taken_out_is_served_no_more_and_its_connections_neither", "b08_a_host_without_a_pair_is_told_and_not_served_and_one_that_had_a_pair_keeps_it", "b08_a_hosts_certificate_is_swapped_when_it_is_good_and_kept_when_the_next_is_not", "b08_a_new_pair_is_for_new_handshakes_and_a_broken_one_for_none", "b08_check_tells_an_expired_certificate_and_one_that_is_about_to", "b08_doctor_tells_what_ends_and_what_has_ended", "b08_metrics_say_until_when_the_certificate_is_good", "b08_when_the_certificate_expires_is_a_metric_and_an_expired_one_is_refused"])),
    ("b09", Tested(&["b09_a_session_is_resumed_by_the_host_that_began_it_and_by_no_other", "b09_ticket_keys_are_a_hosts_own_and_outlive_reloads_of_other_things", "b09_where_certificates_are_asked_for_no_session_is_resumed"])),
    ("b10", Tested(&["b10_a_gateway_of_any_user_is_closed_to_that_users_other_processes_and_compiles_all_the_same", "b10_a_gateway_that_crashes_leaves_no_core", "b10_a_key_is_read_whole_and_of_its_owner_alone_or_not_at_all", "b10_a_key_that_others_can_read_is_refused", "b10_keys_are_their_owners_alone", "b10_of_keys_that_were_read_no_text_is_left_in_memory"])),
    ("c01", Tested(&["c01_a_body_that_trickles_is_refused_after_the_grace_and_a_slow_one_gets_its_time", "c01_a_connection_with_nothing_under_way_is_closed", "c01_a_head_that_does_not_come_whole_in_time_is_answered_408", "c01_a_preface_or_a_head_that_does_not_come_whole_is_cut_in_time", "c01_a_reply_that_nobody_takes_is_not_waited_for_though_the_library_has_taken_it", "c01_a_reply_that_the_library_holds_for_a_closed_window_has_its_time_as_others_have", "c01_a_request_that_begins_on_a_quiet_connection_has_no_more_time_than_others", "c01_a_request_without_end_is_cut_with_its_connection", "c01_nothing_under_way_is_idle_and_a_request_without_end_is_overdue", "c01_who_never_reads_is_cut_after_the_grace", "c01_who_reads_a_byte_now_and_then_is_cut_and_who_reads_at_the_rate_is_not"])),
    ("c02", Tested(&["c02_c04_c16_every_bad_head_is_refused_on_the_wire_however_it_is_cut_and_no_good_one"])),
    ("c03", Tested(&["c03_a_bad_head_is_answered_in_its_turn_and_nothing_after_it_is_read", "c03_a_body_ends_where_its_length_says_whatever_it_looks_like", "c03_a_chunked_request_is_the_last_of_its_connection", "c03_a_good_head_reads_the_same_to_the_parser_behind_us", "c03_a_good_head_with_any_bytes_changed_has_one_reading", "c03_a_refusal_in_place_of_100_continue_is_the_last_of_its_connection", "c03_a_request_that_no_check_has_seen_is_refused", "c03_any_bytes_in_any_cut_have_one_verdict_and_one_reading", "c03_every_byte_in_every_place_is_read_alike_or_refused", "c03_heads_of_the_corpus_bent_and_in_rows_are_read_alike_or_refused", "c03_the_library_reads_what_was_checked_whatever_comes_in_whatever_pieces"])),
    ("c04", Tested(&["c02_c04_c16_every_bad_head_is_refused_on_the_wire_however_it_is_cut_and_no_good_one", "c04_c16_every_head_of_the_corpus_has_its_verdict_however_it_is_cut"])),
    ("c05", Tested(&["c05_authorities_agree_by_host_and_effective_port", "c05_c09_http2_requests_have_one_https_authority_and_a_method_for_us"])),
    ("c06", Tested(&["c06_encoded_separators_and_dot_segments_are_refused", "c06_hostile_paths_are_refused_and_never_normalised", "c06_hostile_paths_are_refused_and_never_normalised_on_the_wire", "c06_no_path_gets_out_of_its_function"])),
    ("c07", Partly(&["c07_a_component_is_told_where_it_is_by_configuration_and_never_by_its_caller", "c07_credentials_hop_by_hop_and_identity_headers_cannot_be_listed"], "stricter than the rule: such headers are believed of nobody, of a listed proxy neither, which speaks by the PROXY protocol")),
    ("c08", Tested(&["c08_a_client_that_makes_the_gate_reset_streams_is_cut", "c08_after_floods_of_each_kind_memory_is_back_where_it_was", "c08_each_kind_of_flood_is_told_and_cut_however_it_is_cut_into_pieces", "c08_floods_of_frames_are_cut_and_the_next_client_is_served", "c08_opening_and_resetting_streams_is_cut_and_requests_alone_are_not", "c08_what_is_cut_depends_on_the_frames_alone_and_not_on_their_pieces", "c08_what_the_library_refuses_is_read_off_the_frames_that_it_sends_however_it_writes_them"])),
    ("c09", Tested(&["c05_c09_http2_requests_have_one_https_authority_and_a_method_for_us", "c09_a_method_that_is_not_listed_is_told_only_to_those_who_may_call", "c09_connect_and_trace_cannot_be_offered"])),
    ("c10", Tested(&["c10_a_content_coding_is_refused"])),
    ("c11", Tested(&["c11_d14_a_reply_may_be_kept_by_its_callers_own_cache_and_by_no_other", "c11_d14_no_reply_invites_a_shared_cache", "c11_a_listed_origin_may_ask_without_a_token_and_call_with_one", "c11_an_origin_is_listed_as_a_browser_sends_it_and_none_stands_for_many", "c11_any_other_origin_is_told_nothing_by_which_it_could_read_a_reply", "c11_every_reply_bears_the_headers_of_discipline_and_no_banner", "c11_what_a_preflight_asks_for_is_sent_back_only_if_it_is_a_list_of_names"])),
    ("c12", Tested(&["c12_every_error_of_the_contract_has_its_status_headers_and_body", "c12_f29_a_panic_in_a_stage_is_answered_counted_and_recorded_with_who_called", "c12_f29_a_panic_outside_of_the_stages_is_answered_counted_and_recorded"])),
    ("c13", Tested(&["c13_a_preflight_does_not_tell_which_functions_and_tenants_exist", "c13_nobody_learns_what_another_tenant_has"])),
    ("c14", Untested("owed by: the door out (quotas)")),
    ("c15", Tested(&["c15_a_client_gets_so_many_connections_and_each_that_ends_makes_room", "c15_a_client_has_so_many_places_and_leaves_no_trace", "c15_a_client_has_so_many_requests_under_way_and_all_together_have_so_many", "c15_connections_leave_open_files_for_the_rest_of_the_process", "c15_requests_beyond_what_there_is_room_for_are_shed_and_other_clients_served", "c15_there_are_as_many_connections_as_files_are_left_for"])),
    ("c16", Tested(&["c02_c04_c16_every_bad_head_is_refused_on_the_wire_however_it_is_cut_and_no_good_one", "c04_c16_every_head_of_the_corpus_has_its_verdict_however_it_is_cut", "c16_an_authority_is_a_name_or_an_address_and_a_port"])),
    ("d01", Tested(&["d01_a_body_that_never_comes_is_refused_in_time", "d01_chunks_without_end_are_refused_at_the_limit", "d01_refusals_come_in_the_order_of_the_contract"])),
    ("d02", Tested(&["d02_exactly_one_listed_type_and_no_charset_but_utf_8", "d02_media_types_and_codings_are_exact"])),
    ("d03", Tested(&["d03_a_query_with_two_readings_is_refused", "d03_d05_d06_every_hostile_fixture_is_refused_for_its_reason"])),
    ("d04", Tested(&["d04_each_bound_holds_and_not_one_less", "d04_json_nested_100_000_deep_is_refused"])),
    ("d05", Tested(&["d03_d05_d06_every_hostile_fixture_is_refused_for_its_reason", "d05_every_double_as_shortest_text_is_read", "d05_numbers_that_stay_themselves_are_read", "d05_numbers_that_would_be_rounded_are_refused", "d05_wide_integers_are_taken_where_the_schema_says_so", "d05_wide_integers_need_a_wide_bound"])),
    ("d06", Tested(&["d03_d05_d06_every_hostile_fixture_is_refused_for_its_reason", "d06_a_header_value_has_no_control_character_and_is_utf_8", "d06_a_string_that_is_no_identifier_is_told_by_its_place", "d06_an_identifier_has_no_invisible_or_look_alike_spelling", "d06_controls_and_bidirectional_controls_are_refused", "d06_normal_form_makes_no_refused_character", "d06_the_pattern_that_others_read_says_the_same"])),
    ("d07", Tested(&["d07_decomposed_text_becomes_composed", "d07_normal_form_is_idempotent"])),
    ("d08", Tested(&["d08_a_property_that_the_schema_does_not_know_is_told_by_place_alone", "d08_an_object_open_to_extra_members_is_told"])),
    ("d09", Tested(&["d09_a_cycle_on_one_value_is_a_fault", "d09_branches_that_multiply_are_a_fault", "d09_patterns_that_need_backtracking_are_a_fault", "d09_references_stay_in_the_file", "d09_sizes_are_bounded"])),
    ("d10", Tested(&["d10_a_format_that_nobody_asserts_is_a_fault", "d10_formats_are_asserted"])),
    ("d11", Tested(&["d11_a_breach_of_the_schema_is_told_by_place_and_never_by_value", "d11_a_fault_tells_its_place_and_never_a_value", "d11_violations_tell_place_keyword_and_limit_and_never_the_value"])),
    ("d12", Tested(&["d12_at_most_one_of_a_hundred_harmless_texts_has_a_signal", "d12_attacks_are_told_by_kind", "d12_names_formulas_and_quotations_are_not_told", "d12_signals_of_a_cloudevent_are_those_of_its_data", "d12_signals_are_recorded_or_refused_as_the_manifest_says", "d12_signals_are_told_or_block_as_the_manifest_says", "d12_signals_tell_the_place_and_are_bounded"])),
    ("d13", Tested(&["d13_a_function_is_given_the_same_event_in_both_modes_and_over_both_protocols", "d13_a_timestamp_has_the_form_of_rfc_3339_and_no_other", "d13_any_text_survives_its_header", "d13_both_modes_give_the_same_event", "d13_check_tells_an_unknown_envelope_and_attributes_that_are_listed_by_hand", "d13_d15_cloudevents_keep_their_promises_over_their_corpus", "d13_damaged_events_are_refused_or_the_same_in_both_modes", "d13_data_is_validated_as_if_it_had_come_alone_and_told_by_its_place", "d13_each_rule_of_an_attribute_is_told_by_place_and_keyword_in_both_modes", "d13_header_values_are_decoded_as_the_binding_says", "d13_headers_may_repeat_a_structured_event_and_not_contradict_it", "d13_no_attribute_comes_twice", "d13_raw_is_what_was_received", "d13_the_context_is_bounded_in_size_and_number", "d13_the_specifications_examples_are_one_event_in_either_mode", "d13_values_of_extensions_have_one_canonical_text", "d13_what_is_no_cloudevent_is_refused_by_the_contracts_table", "d13_what_is_no_event_or_is_two_is_malformed"])),
    ("d14", Tested(&["d14_a_content_type_of_a_reply_is_well_formed", "d14_a_reply_that_breaks_its_schema_or_its_form_is_a_failed_function", "d14_a_response_schema_holds_for_every_body", "d14_only_headers_of_content_can_be_set", "d14_status_size_and_media_type_are_checked"])),
    ("d15", Tested(&["d13_d15_cloudevents_keep_their_promises_over_their_corpus", "d15_any_text_is_read_alike_or_refused", "d15_damaged_json_is_read_alike_or_refused", "d15_manifests_keep_their_promises_over_their_corpus", "d15_path_and_query_keep_their_promises_over_their_corpus", "d15_strict_json_keeps_its_promises_over_its_corpus", "d15_what_is_accepted_serde_json_reads_alike"])),
    ("e01", Tested(&["e01_a_forbid_that_fails_to_evaluate_denies", "e01_a_forbid_wins_over_a_permit", "e01_a_guardrail_that_fails_to_evaluate_denies", "e01_a_permit_that_fails_to_evaluate_denies_though_another_permits", "e01_an_attribute_of_a_thing_outside_the_request_fails_and_denies", "e01_nothing_is_permitted_by_default"])),
    ("e02", Tested(&["e02_a_caller_that_breaks_the_schema_is_refused", "e02_a_policy_is_judged_by_the_schema_and_its_fault_has_a_place", "e02_a_request_that_breaks_the_schema_is_refused", "e02_a_schema_may_grow_but_not_shrink", "e02_text_that_is_no_policy_is_refused_where_it_goes_wrong"])),
    ("e03", Tested(&["e03_a_caller_of_another_tenant_is_refused_before_cedar_is_asked"])),
    ("e04", Tested(&["e04_a_permit_among_the_guardrails_is_a_fault", "e04_a_tenants_permit_cannot_widen_past_a_guardrail", "e04_templates_are_refused_everywhere"])),
    ("e05", Untested("owed by: policy authoring (proofs, diff, shadow, rollback); the swap is covered by `a_faulty_platform_part_is_refused_whole`")),
    ("e06", Untested("owed by: policy authoring (signed bundles)")),
    ("e07", Tested(&["e07_a_checkpoint_is_signed_and_any_change_is_seen", "e07_a_disk_that_is_full_refuses_and_the_chain_goes_on_when_it_is_not", "e07_a_start_appends_nothing_to_a_chain_that_was_edited", "e07_a_tenants_extract_verifies_alone", "e07_an_edit_an_insertion_a_move_and_a_removal_are_each_found", "e07_an_insertion_with_hashes_that_fit_is_found_where_the_chain_goes_on", "e07_any_single_byte_that_changes_is_found", "e07_every_record_is_chained_and_verifies_after_a_restart", "e07_redacted_values_are_keyed_hashes_and_the_key_stays", "e07_with_a_checkpoint_a_cut_tail_and_a_rewritten_chain_are_found"])),
    ("f01", Tested(&["f01_the_engine_is_a_current_release_of_a_long_term_line"])),
    ("f02", Partly(&["f02_a_locked_version_with_an_advisory_fails_the_build"], "how soon an advisory is heard of depends on who runs `.ci/advisories` daily: tests/README.md")),
    ("f03", Untested("a statement about platforms: x86-64 Linux is what is built and tested")),
    ("f04", Tested(&["f04_f07_f17_nothing_is_compiled_in_that_is_not_needed", "f04_what_is_told_as_compiled_out_is"])),
    ("f05", Tested(&["f05_proposals_that_no_guest_needs_are_refused"])),
    ("f06", Tested(&["f06_a_component_that_imports_more_is_told_at_once_and_its_tenant_alone_suffers", "f06_every_import_is_refused_by_name", "f06_f27_the_base_leads_nowhere", "f06_the_base_is_what_design_says_and_no_more", "f06_what_is_beyond_the_base_is_refused_by_name", "f06_what_runtimes_import_without_use_is_denied_when_it_is_called"])),
    ("f07", Tested(&["f04_f07_f17_nothing_is_compiled_in_that_is_not_needed"])),
    ("f08", Tested(&["f08_a_compiler_that_takes_too_much_is_stopped_and_says_of_what", "f08_a_program_that_is_no_compiler_is_not_believed", "f08_a_refused_component_that_is_only_touched_is_refused_from_memory", "f08_a_reload_does_not_wait_for_one_tenants_compiler", "f08_a_tenant_has_a_second_slot_only_while_nobody_else_waits", "f08_an_answer_is_whole_or_none", "f08_cut_off_and_foreign_bytes_are_refused", "f08_deep_nesting_is_refused", "f08_each_wall_around_the_compile_process_stands_alone", "f08_every_bomb_ends_as_a_refusal_and_the_neighbour_is_served", "f08_f35_a_refusal_is_made_printable_again", "f08_sizes_are_bounded_before_anything_is_parsed", "f08_tenants_take_turns_at_the_compiler", "f08_the_compile_process_reaches_no_file_no_network_and_no_process", "f08_the_engine_that_serves_has_no_compiler", "f08_the_filter_lets_through_computing_and_answering_and_nothing_else", "f08_what_drives_the_compiler_is_counted_first", "f08_what_failed_is_not_compiled_again_while_a_tenants_other_components_are", "f08_what_the_machine_or_somebody_else_caused_is_not_remembered", "f08_what_was_refused_is_not_compiled_again_only_to_be_refused_again", "f08_what_would_be_refused_again_is_remembered_within_a_bound", "f08_who_waits_for_a_turn_gets_it_when_one_is_over"])),
    ("f09", Tested(&["f09_a_stored_component_is_loaded_when_it_is_first_called", "f09_a_stored_component_that_was_changed_is_compiled_anew_or_refused", "f09_an_artefact_is_found_again_by_the_same_engine_only", "f09_an_artefact_of_another_component_or_key_is_refused", "f09_an_artefact_that_could_not_be_read_is_kept", "f09_f36_a_changed_artefact_is_refused_wherever_it_was_changed", "f09_key_and_artefacts_are_for_their_owner_alone", "f09_what_is_sealed_cannot_be_changed_by_anybody"])),
    ("f10", Tested(&["f10_equal_bytes_are_one_component"])),
    ("f11", Tested(&["f11_one_linked_component_serves_the_empty_capability_set"])),
    ("f12", Tested(&["f12_a_guest_whose_caller_has_gone_is_stopped", "f12_a_thousand_failures_of_each_kind_leave_the_pool_whole", "f12_a_trap_after_the_answer_is_a_trap", "f12_guests_that_compute_let_others_run", "f12_traps_are_told_apart", "f12_what_a_guest_holds_is_had_once_and_given_back_in_order_or_it_traps", "f12_who_stops_waiting_stops_the_guest_and_frees_its_place"])),
    ("f13", Tested(&["f13_a_component_beyond_the_pools_caps_is_refused", "f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated"])),
    ("f14", Tested(&["f14_a_full_queue_sheds", "f14_a_function_has_so_many_invocations_in_flight_and_no_more", "f14_f24_what_all_guests_have_together_is_bounded_and_of_one_tenant_to_half", "f14_guests_that_sleep_leave_places_to_other_tenants", "f14_no_tenant_holds_more_places_than_it_leaves", "f14_no_tenant_takes_more_memory_than_it_leaves", "f14_tenants_that_act_together_leave_room_in_the_queue", "f14_without_an_instance_a_call_is_shed", "f14_without_room_for_heavy_calls_they_are_shed_and_others_served"])),
    ("f15", Tested(&["f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated"])),
    ("f16", Tested(&["f16_every_invocation_finds_what_the_first_one_found", "f16_f36_a_guest_comes_to_the_same_in_a_used_slot_as_in_a_fresh_one", "f16_no_invocation_sees_what_another_left"])),
    ("f17", Tested(&["f04_f07_f17_nothing_is_compiled_in_that_is_not_needed"])),
    ("f18", Tested(&["f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated"])),
    ("f19", Tested(&["f19_every_store_has_a_deadline_of_one_tick_and_the_engine_one_ticker"])),
    ("f20", Tested(&["f20_a_small_budget_is_measured_from_the_start", "f20_an_instance_that_takes_long_to_make_is_made_on_a_cpu_thread", "f20_f21_a_cpu_limit_below_a_slice_holds_on_the_io_thread", "f20_loops_meet_their_cpu_limit_wherever_they_are", "f20_loops_meet_their_wall_limit", "f20_nobody_is_stopped_on_an_estimate", "f20_the_deadline_holds_from_the_first_tick", "f20_who_goes_early_is_charged_for_what_was_computed", "f20_who_is_quick_answers_at_once_and_who_computes_leaves_the_thread_of_its_request", "f20_who_stops_waiting_stops_the_guest", "f20_who_waits_for_ever_meets_the_wall_and_who_computes_for_ever_the_budget"])),
    ("f21", Tested(&["f20_f21_a_cpu_limit_below_a_slice_holds_on_the_io_thread"])),
    ("f22", Tested(&["f22_a_guest_of_much_memory_is_tried_again_off_the_thread_of_its_request", "f22_bulk_instructions_on_large_memories_stay_off_io_threads"])),
    ("f23", Tested(&["f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated"])),
    ("f24", Tested(&["f14_f24_what_all_guests_have_together_is_bounded_and_of_one_tenant_to_half", "f24_a_tables_slot_is_told_from_what_the_guest_declared", "f24_memories_and_tables_count_together", "f24_memories_of_several_core_instances_are_summed", "f24_memory_is_bounded_as_in_the_narrow_world", "f24_memory_meets_its_limit", "f24_tables_count_as_memory", "f24_the_pools_own_slot_is_a_memory_limit_too"])),
    ("f25", Tested(&["f25_f34_numbers_are_bounded_and_of_the_invocation", "f25_resource_handles_are_bounded", "f25_resources_headers_and_single_calls_are_bounded"])),
    ("f26", Tested(&["f26_an_endless_reply_ends_at_the_limit", "f26_answers_beyond_their_limit_are_refused_before_they_are_copied", "f26_f27_a_component_that_misbehaves_meets_its_limit_and_its_neighbour_is_unharmed", "f26_no_call_makes_the_host_take_what_the_guest_only_names"])),
    ("f27", Tested(&["f06_f27_the_base_leads_nowhere", "f26_f27_a_component_that_misbehaves_meets_its_limit_and_its_neighbour_is_unharmed", "f27_with_nothing_granted_a_guest_costs_its_memory_and_no_more"])),
    ("f28", Tested(&["f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated", "f28_at_the_end_of_its_stack_a_guest_leaves_the_host_enough", "f28_f35_a_denial_takes_values_as_deep_as_types_may_be_and_tells_no_name_without_end", "f28_recursion_meets_the_stack_limit"])),
    ("f29", Tested(&["c12_f29_a_panic_in_a_stage_is_answered_counted_and_recorded_with_who_called", "c12_f29_a_panic_outside_of_the_stages_is_answered_counted_and_recorded", "f29_a_job_that_panics_costs_no_thread", "f29_a_panic_is_caught_and_told_without_what_a_terminal_obeys"])),
    ("f30", Partly(&["f30_a_call_that_nobody_waits_for_ends_and_its_worker_lives_on", "f30_a_changed_function_reaches_its_worker_and_a_changed_setting_its_tenant", "f30_a_kind_that_nobody_knows_is_garbled", "f30_a_length_is_bounded_before_anything_is_kept_for_it", "f30_a_worker_has_one_socket_and_nothing_else", "f30_a_worker_reaches_no_file_no_network_and_no_process", "f30_a_worker_that_dies_fails_its_calls_and_nobody_elses", "f30_a_worker_that_does_not_stop_a_call_is_ended", "f30_a_worker_that_goes_takes_its_calls_with_it_and_says_how", "f30_a_worker_that_lies_is_ended_and_its_calls_fail", "f30_a_worker_that_stops_a_call_late_but_in_time_lives_on", "f30_a_worker_with_nothing_to_do_ends", "f30_an_answer_that_cannot_be_true_is_none", "f30_an_event_reaches_a_worker_as_it_is", "f30_answers_reach_those_who_asked_in_whatever_order_they_come", "f30_every_guest_comes_to_the_same_in_a_worker", "f30_f31_an_answer_is_checked_as_if_the_guest_had_given_it", "f30_f32_an_isolated_tenant_runs_in_a_process_of_its_own", "f30_f35_what_a_worker_quotes_is_made_printable", "f30_frames_arrive_as_they_were_sent_however_they_are_cut", "f30_many_calls_share_one_worker", "f30_the_filter_lets_through_running_and_answering_and_nothing_else", "f30_there_are_so_many_workers_and_no_more", "f30_whatever_a_function_does_is_answered_and_recorded_the_same_in_a_worker", "f30_workers_that_die_one_after_the_other_are_not_started_without_end"], "memory is bounded by the kernel's limits and threads by the filter: a control group is the service manager's to make")),
    ("f31", Tested(&["f30_f31_an_answer_is_checked_as_if_the_guest_had_given_it", "f31_a_component_is_given_a_request_of_validated_values_alone", "f31_a_plain_answer_is_taken", "f31_a_reply_is_taken_by_the_rules_of_the_narrow_world", "f31_a_reply_out_of_form_is_a_broken_contract", "f31_a_request_is_built_of_what_was_validated", "f31_an_allocator_that_lies_harms_itself", "f31_an_answer_out_of_form_is_a_breach", "f31_f36_what_is_taken_as_a_header_is_one_to_whoever_sends_it", "f31_lengths_that_lie_are_refused", "f31_status_and_headers_out_of_form_break_the_contract"])),
    ("f32", Tested(&["f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated", "f30_f32_an_isolated_tenant_runs_in_a_process_of_its_own"])),
    ("f33", Tested(&["f13_f15_f18_f23_f28_f32_f33_the_engine_is_set_as_stated"])),
    ("f34", Tested(&["f25_f34_numbers_are_bounded_and_of_the_invocation", "f34_the_clock_is_coarse_begins_at_zero_and_waits"])),
    ("f35", Tested(&["f28_f35_a_denial_takes_values_as_deep_as_types_may_be_and_tells_no_name_without_end", "f30_f35_what_a_worker_quotes_is_made_printable", "f35_control_characters_of_authors_do_not_reach_terminal_or_log", "f35_what_a_component_says_is_escaped_and_cut", "f35_what_is_shown_cannot_act_on_a_terminal"])),
    ("f36", Partly(&["f09_f36_a_changed_artefact_is_refused_wherever_it_was_changed", "f16_f36_a_guest_comes_to_the_same_in_a_used_slot_as_in_a_fresh_one", "f31_f36_what_is_taken_as_a_header_is_one_to_whoever_sends_it"], "the artefact loader meets bad bytes, and hostile guests meet every limit (`f12_a_thousand_failures_of_each_kind_leave_the_pool_whole`, `f16_no_invocation_sees_what_another_left`); owed by: the door out: fuzzing of manifest to linker, and of its host functions")),
];
