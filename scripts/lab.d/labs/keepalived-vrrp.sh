# shellcheck shell=bash
# VRRP as people run it: unicast peers, a sync group, nopreempt, notify scripts, virtual routes and rules, ha_suspend, reload.

# shellcheck source=scripts/lab.d/takeover.sh
source "$LAB_HOME/scripts/lab.d/takeover.sh"
# shellcheck source=scripts/lab.d/keepalived_blocks.sh
source "$LAB_HOME/scripts/lab.d/keepalived_blocks.sh"

# Behind a router of the clients' network there are clients whom only a table of the master knows.
FAR_CLIENT=203.0.113.2 ROUTER=198.51.100.254

run_lab() {
    start_pair write_pair
    add_far_client
    comes_up
    speaks_unicast
    suspends_checks
    reloads_under_downloads
    follows_the_group
    does_not_preempt
    leaves_when_told
}
