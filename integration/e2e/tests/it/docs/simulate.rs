//! `docs/simulate.md` against the list of policies.

use hermes_bench::simulate::policies::POLICIES;

use super::pages;

#[test]
fn every_policy_that_can_be_simulated_is_documented() {
    let page = pages::read("simulate");
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| Policy | "))
        .skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let documented: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let known: Vec<&str> = POLICIES.iter().map(|policy| policy.name).collect();
    assert_eq!(
        documented, known,
        "the table of policies, in the order of the list"
    );
}
