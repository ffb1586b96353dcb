//! Which row of the table of hostile guests (`engine` 11) is tested where. A test that was renamed or taken out fails
//! here, so that a row never loses its last one unseen.

use std::fs;
use std::path::Path;

/// What the guest does, and where that is tested: `file::test`, or the file of a scenario. Row 1 comes first.
const ROWS: [(&str, &[&str]); 35] = [
    ("loops in `check`", &["tests/tests/hostile.rs::spin"]),
    (
        "loops in `describe`, `configure` or the start function",
        &[
            "tests/tests/hostile.rs::describe_spins",
            "tests/tests/hostile.rs::configure_spins",
            "tests/tests/hostile.rs::start_spins",
            "host/core/src/supervision/scenarios.rs::p_23_p_47_a_death_in_a_start_leaves_the_good_one_answering",
        ],
    ),
    (
        "loops or traps only on one node",
        &[
            "tests/tests/hostile.rs::self_check_traps",
            "host/core/src/supervision/scenarios.rs::p_43_p_80_a_lone_pair_of_a_pure_plugin_is_held_until_the_node_changes",
        ],
    ),
    ("calls a cheap import a million times", &["tests/tests/hostile.rs::many_calls"]),
    ("passes 900 KiB keys a thousand times", &["tests/tests/hostile.rs::big_keys"]),
    (
        "sleeps for an hour through WASI",
        &["host/engine/tests/it/wasi.rs::a_sleeping_guest_is_ended_after_its_call_deadline"],
    ),
    (
        "asks a slow server",
        &[
            "host/engine/tests/it/capabilities.rs::p_21_a_silent_server_is_an_error_and_the_fifth_request_is_one_at_once",
        ],
    ),
    (
        "asks an unlisted host, is redirected, asks for a file",
        &[
            "host/engine/tests/it/capabilities.rs::what_is_not_listed_is_refused_and_counted_without_a_packet",
            "host/engine/tests/it/capabilities.rs::a_listed_server_is_asked_and_a_redirect_is_not_followed",
        ],
    ),
    (
        "is sent an endless body or endless headers",
        &[
            "host/engine/tests/it/capabilities.rs::an_endless_body_is_cut_and_its_connection_closed",
            "host/engine/tests/it/capabilities.rs::endless_headers_are_an_error_and_their_connection_closed",
        ],
    ),
    ("grows memory without end", &["tests/tests/hostile.rs::grow"]),
    (
        "declares too much memory, or grows a table without end",
        &[
            "tests/tests/hostile.rs::memory_minimum",
            "tests/tests/hostile.rs::memory_maximum",
            "tests/tests/hostile.rs::table_grows",
        ],
    ),
    (
        "recurses, panics, divides by zero",
        &[
            "tests/tests/hostile.rs::recurse",
            "tests/tests/hostile.rs::recurse_wide",
            "tests/tests/hostile.rs::panic",
            "tests/tests/hostile.rs::divide",
        ],
    ),
    ("exits", &["host/engine/tests/it/wasi.rs::a_clean_exit_is_a_death_too"]),
    (
        "returns 4 MiB, invalid UTF-8, pointers out of bounds",
        &[
            "tests/tests/hostile.rs::huge_reason",
            "tests/tests/hostile.rs::bad_utf8",
            "tests/tests/hostile.rs::bad_pointer",
            "tests/tests/hostile/answers.rs::random_bytes_for_a_verdict_are_one_or_a_death",
        ],
    ),
    (
        "gives a reason that is long, empty or full of control characters",
        &[
            "tests/tests/hostile.rs::big_reason",
            "tests/tests/hostile.rs::empty_reason",
            "tests/tests/hostile.rs::control_chars",
        ],
    ),
    (
        "gives ten thousand reasons",
        &["tests/tests/hostile/answers.rs::ten_thousand_reasons_are_sixteen_labels_and_other"],
    ),
    (
        "gives a threshold of 0, of ages, or a new one each time",
        &[
            "tests/tests/hostile.rs::threshold_zero",
            "tests/tests/hostile.rs::threshold_max",
            "tests/tests/hostile/answers.rs::one_that_throws_dice_has_loaded_ones_unless_it_was_granted_the_clock",
        ],
    ),
    (
        "flips, or answers at random",
        &[
            "tests/tests/hostile/answers.rs::one_that_flips_is_reported_as_it_flips_and_never_remembered",
            "tests/tests/hostile/answers.rs::one_that_throws_dice_has_loaded_ones_unless_it_was_granted_the_clock",
            "tests/scenarios/a-flapping-disk.txt",
        ],
    ),
    (
        "describes itself with an empty, huge, duplicate or foreign name",
        &[
            "tests/tests/hostile/answers.rs::what_a_guest_says_of_itself_is_cut_and_never_its_name",
            "tests/tests/hostile/answers.rs::a_foreign_or_a_duplicate_name_takes_nobodys_place",
            "tests/tests/hostile/answers.rs::what_a_plugin_keeps_belongs_to_the_stem_of_its_file",
        ],
    ),
    ("floods the log, forges lines", &["tests/tests/hostile.rs::flood_log", "tests/tests/hostile.rs::forge_log"]),
    (
        "stores too much, or what crashes its next run",
        &[
            "host/engine/tests/it/capabilities.rs::a_blob_that_is_too_large_is_an_error",
            "host/engine/src/memory.rs::two_deaths_in_a_row_with_a_blob_are_its_end",
        ],
    ),
    (
        "imports what was not granted, is unknown or newer",
        &[
            "tests/tests/hostile.rs::imports_http",
            "tests/tests/hostile.rs::imports_pods",
            "tests/tests/hostile.rs::imports_unknown",
            "tests/tests/hostile.rs::imports_newer",
            "tests/tests/hostile.rs::imports_newer_function",
            "tests/tests/hostile.rs::imports_newer_patch",
        ],
    ),
    (
        "is garbage, empty, cut off, a core module, compiled code",
        &[
            "tests/tests/hostile.rs::garbage",
            "tests/tests/hostile.rs::empty",
            "tests/tests/hostile.rs::truncated",
            "tests/tests/hostile.rs::core_module",
            "tests/tests/hostile/files.rs::compiled_code_by_a_components_name_is_refused",
        ],
    ),
    (
        "is no file",
        &[
            "host/engine/src/directory.rs::what_would_hang_a_reader_is_refused",
            "host/engine/src/directory.rs::what_can_be_no_plugin_is_refused_once_and_takes_nothing_away",
        ],
    ),
    (
        "is written in pieces, renamed, swapped",
        &[
            "host/engine/src/directory.rs::a_configmap_swap_is_one_change",
            "tests/tests/daemon/main.rs::checkers_come_and_go_without_a_restart_and_bad_ones_change_nothing",
            "tests/tests/reload.rs::a_file_written_in_every_way_beside_twenty_checkers_costs_no_check_and_serves_nothing_torn",
        ],
    ),
    (
        "is rewritten with the same bytes",
        &[
            "host/engine/src/directory.rs::a_file_is_found_once_and_again_when_it_changes",
            "tests/tests/reload.rs::a_file_written_in_every_way_beside_twenty_checkers_costs_no_check_and_serves_nothing_torn",
        ],
    ),
    (
        "arrives with 999 others",
        &[
            "tests/tests/hostile/files.rs::of_a_thousand_files_as_many_as_there_is_room_for_are_loaded",
            "host/engine/tests/worker.rs::one_compiles_at_a_time_and_the_others_judge_on",
        ],
    ),
    (
        "takes the compiler minutes or gigabytes",
        &["host/engine/tests/worker.rs::a_bomb_ends_its_worker_and_the_daemon_does_not_feel_it"],
    ),
    (
        "is composed of a thousand core instances or a hundred memories",
        &[
            "tests/tests/hostile.rs::core_instances_1000",
            "tests/tests/hostile.rs::core_instances_composed",
            "tests/tests/hostile.rs::memories_100",
            "host/engine/tests/it/loading.rs::a_component_with_more_parts_than_the_pool_has_room_for_is_a_death_in_linking",
        ],
    ),
    (
        "passes the self-check and crashes on real nodes",
        &[
            "host/core/src/supervision/scenarios.rs::p_87_p_88_three_crashes_on_probation_give_it_up",
            "tests/tests/daemon/supervision.rs::p_47_p_87_p_88_p_90_p_67_a_bad_version_is_taken_back_and_the_good_one_outlives_its_file",
        ],
    ),
    (
        "crashes the day after",
        &[
            "host/core/src/supervision/scenarios.rs::p_08_saturated_after_the_cap_whatever_the_number_of_nodes",
            "host/core/src/supervision/scenarios.rs::p_37_p_38_p_39_ten_minutes_of_service_forgive",
        ],
    ),
    (
        "is deleted while it checks",
        &[
            "host/core/src/scenarios.rs::an_answer_of_a_checker_that_stopped_meanwhile_is_dropped",
            "host/core/src/supervision/scenarios.rs::p_70_a_removed_plugin_leaves_only_its_last_number",
        ],
    ),
    (
        "spins together with 39 others",
        &[
            "tests/tests/hostile/crowd.rs::a_check_beside_forty_spinning_guests_is_late_by_three_wall_limits_at_most",
            "tests/tests/hostile/crowd.rs::those_who_only_waited_for_their_turn_are_not_blamed",
            "host/core/src/supervision/scenarios.rs::p_29_a_starved_host_is_held_against_nobody",
        ],
    ),
    (
        "makes one of our imports panic",
        &[
            "host/engine/src/engine.rs::a_panic_of_ours_ends_one_check_and_nothing_else",
            "host/engine/src/engine.rs::a_panic_of_ours_in_a_start_is_a_death_of_that_start",
        ],
    ),
    (
        "appears, and then the directory is unreadable or empty",
        &[
            "host/engine/src/directory.rs::a_lost_directory_removes_nothing",
            "host/engine/src/directory.rs::the_only_file_may_go_but_two_do_not_vanish_at_once",
            "tests/tests/daemon/main.rs::p_63_a_directory_that_is_suddenly_empty_keeps_all_until_a_person_says_otherwise",
        ],
    ),
];

#[test]
fn every_row_is_tested_where_the_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (row, (what, tests)) in (1..).zip(ROWS) {
        assert!(!tests.is_empty(), "row {row}: no test of a guest that {what}");
        for place in tests {
            let (file, test) = place.split_once("::").unwrap_or((place, ""));
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("row {row}, {file}: {error}"));
            let found = test.is_empty() || text.lines().any(|line| makes(line.trim_start(), test));
            assert!(found, "row {row}: a guest that {what} is not tested by {place}");
        }
    }
}

/// True for the line of a function of that name, or for one of the tables that tests are made of.
fn makes(line: &str, test: &str) -> bool {
    let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
    match function {
        Some(function) => function.strip_prefix(test).is_some_and(|rest| rest.starts_with('(')),
        None => line.strip_prefix(test).is_some_and(|rest| rest.starts_with(": ") && rest.contains(" => ")),
    }
}
