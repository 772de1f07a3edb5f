//! The contracts of the store and of the halting counters: one suite each, over every implementation, on real servers.

#![expect(clippy::disallowed_methods, reason = "tests wait in real time")]

/// Any owner that has not beaten by now is gone.
#[cfg(test)]
const PATIENCE: std::time::Duration = std::time::Duration::ZERO;

/// Runs and epochs of claims.
#[cfg(test)]
fn claims(found: Vec<mar_session::store::Claimed>) -> Vec<(mar_session::store::RunRow, i64)> {
    found.into_iter().map(|claimed| (claimed.run, claimed.epoch)).collect()
}

/// Makes a test of each case for one implementation.
#[cfg(test)]
macro_rules! suite {
    ($open:path, $cases:ident: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                // Nothing to run on, where a tool is missing and none is required.
                let subject: Option<_> = $open().await.into();
                if let Some(subject) = subject {
                    crate::$cases::$case(subject).await;
                }
            }
        )*
    };
}

/// The store's whole suite.
#[cfg(test)]
macro_rules! store_suite {
    ($open:path) => {
        suite!($open, session_cases:
            answers_a_ping sessions_are_started_and_read a_request_id_works_once identical_requests_at_a_time_start_one
            request_ids_have_a_scope sessions_change_by_version a_change_can_carry_a_request_id sessions_are_paged
            the_log_of_a_session_chains);
        suite!($open, run_cases:
            a_run_is_admitted_whole an_admission_is_repeated runs_need_an_open_session serial_runs_exclude_each_other
            parallel_runs_do_not a_child_is_admitted_whole a_child_is_admitted_once children_need_an_open_session
            serial_admissions_at_a_time_admit_one a_first_event_is_first runs_change_until_they_end
            runs_are_paged open_runs_are_claimed claims_respect_the_log_version claims_at_a_time_are_disjoint);
        suite!($open, holding_cases:
            a_parked_run_is_claimed_at_its_time only_its_holder_parks_a_run a_command_wakes_a_parked_run
            a_command_keeps_a_run_from_parking who_has_lost_a_run_reads_its_commands_without_a_trace
            only_its_holder_leaves_a_run a_run_is_left_past_an_epoch_and_for_a_while
            commands_are_read_until_they_are_dropped commands_carry_request_ids commands_need_an_open_run
            commands_and_parking_at_a_time_lose_nothing what_a_replica_leaves_is_claimed
            who_has_just_come_back_takes_nothing_over a_claim_knows_for_how_long_nobody_was_there
            approvals_are_kept_as_they_stand approvals_are_paged);
        suite!($open, event_cases:
            events_are_appended_and_read a_repeated_append_is_done another_event_fences gaps_are_refused
            appends_at_a_time_have_one_writer a_conflict_stores_nothing large_contents_are_stored_once
            contents_come_back_whole reads_stop_at_bytes storage_per_event_stays_flat);
        suite!($open, erasure_cases:
            an_erasure_is_recorded_once only_what_has_ended_goes an_erasure_carries_a_request_id
            nothing_goes_that_no_log_records an_open_run_loses_nothing an_erasure_leaves_the_chain
            pruning_takes_payloads_alone approvals_go_too no_request_of_an_erased_session_is_known_by_its_body
            an_unfinished_erasure_comes_back timers_at_a_time_are_claimed_once);
        suite!($open, blob_cases:
            an_upload_is_whole_or_not_there equal_bytes_are_one_blob uploads_at_a_time_make_one_blob
            an_upload_carries_a_request_id uploads_need_an_open_session a_session_holds_so_many_bytes
            what_no_run_names_expires what_a_run_names_is_kept what_is_given_up_goes an_erasure_takes_uploads
            uploads_are_apart);
        suite!($open, slice_cases:
            a_window_has_generations slices_are_stored_in_their_generation no_slice_slips_past_a_rebuild);
        suite!($open, expiry_cases:
            idle_timeouts_are_kept an_idle_session_expires what_calls_name_is_not_idle an_open_run_keeps_its_session
            the_end_of_a_run_is_something_that_happens only_what_was_read_expires an_end_that_nobody_completes_comes_back
            what_is_past_retention_is_found_once);
        suite!($open, hook_cases:
            everything_that_happens_is_marked tenants_without_hooks_are_not_marked what_was_told_is_kept
            what_happens_meanwhile_is_told_next claims_of_hooks_at_a_time_are_disjoint dead_notices_are_kept_and_paged
            leaves_are_read_without_payloads);
        suite!($open, tenant_cases:
            another_tenant_sees_nothing another_tenant_changes_nothing);
    };
}

/// The counters' whole suite.
#[cfg(test)]
macro_rules! counter_suite {
    ($open:path) => {
        suite!($open, counter_cases:
            a_fresh_run_starts_at_its_totals settle_then_reserve limits_are_checked_in_order a_refusal_still_settles
            nothing_reserved_is_never_refused a_change_is_repeated_without_effect a_lower_epoch_is_stale
            lost_counters_are_rebuilt stale_counters_are_rebuilt a_forgotten_run_is_gone runs_are_apart
            of_two_owners_at_one_position_the_log_says_whose_counts
            a_late_copy_after_a_loss_is_not_what_the_log_took
            large_amounts_are_exact what_cannot_be_counted_is_refused);
        suite!($open, pool_cases:
            a_child_draws_in_its_own_trip a_refusal_draws_nothing what_a_child_leaves_goes_to_its_siblings
            a_draw_is_repeated_without_effect an_uncommitted_draw_comes_back_when_the_log_has_gone_on
            a_refused_successor_frees_nothing_of_its_predecessor a_successor_that_is_behind_the_log_frees_nothing
            an_end_is_final_for_the_pool a_closed_pool_gives_nothing
            a_reopened_pool_is_another a_lost_pool_is_rebuilt_once a_pool_behind_a_childs_log_is_lost
            a_parent_carves_what_it_has bad_pools_are_refused);
        suite!($open, budget_cases:
            a_window_begins_with_a_rebuild slices_are_granted_until_the_end a_grant_is_repeated_without_effect
            what_is_given_back_can_be_granted thresholds_are_crossed_once another_generation_is_lost
            the_first_rebuild_of_a_generation_wins budgets_are_apart bad_slices_are_refused);
    };
}

#[cfg(test)]
mod batches;
#[cfg(test)]
mod blob_cases;
#[cfg(test)]
mod budget_cases;
#[cfg(test)]
mod counter_cases;
#[cfg(test)]
mod erasure_cases;
#[cfg(test)]
mod event_cases;
#[cfg(test)]
mod expiry_cases;
#[cfg(test)]
mod holding_cases;
#[cfg(test)]
mod hook_cases;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod migrating;
#[cfg(test)]
mod pool_cases;
#[cfg(test)]
mod pool_histories;
#[cfg(test)]
mod pooled;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod postgres_18;
#[cfg(test)]
mod promotion;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod redis_servers;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod run_cases;
#[cfg(test)]
mod session_cases;
#[cfg(test)]
mod signals;
#[cfg(test)]
mod slice_cases;
#[cfg(test)]
mod sqlite;
#[cfg(test)]
mod tenant_cases;
