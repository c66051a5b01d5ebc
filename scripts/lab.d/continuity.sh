# shellcheck shell=bash
# What must be as before when lvsd has started again, in a lab that has the services of every_mode.sh.

# lasting: what is open, and the templates, as listed, but for the time that they have left.
lasting() {
    ipvsadm_quiet -Lnc | awk '$5 ~ /:(7|22|80|9000)$/ || $5 ~ /:443$/ && $4 ~ /:0$/ { $2 = ""; print }' | sort
}

# longest_left: seconds that the idle connections have left, those that have most.
longest_left() {
    ipvsadm_quiet -Lnc | awk '$5 ~ /:9000$/ { split($2, left, ":"); sec = left[1] * 60 + left[2]; if (sec > most) most = sec }
        END { print most + 0 }'
}

# resting_stats: of the services through which nobody says anything while lvsd is away.
resting_stats() { ipvsadm_quiet -Ln --stats --exact | awk '/^(TCP|UDP)/ { rests = $2 ~ /:(7|22|9000)$/ } rests'; }

# all_is_heard: whether no connection of these services has anything that is not acknowledged.
all_is_heard() {
    local host
    for host in client rs1 rs2; do
        [[ -z $(in_ns "$host" ss -tnH state established | awk '$2 > 0 && ($3 " " $4) ~ /:(22|9000)( |$)/') ]] || return 1
    done
}

# counted_of URL: packets of the crowd; counts_more PACKETS URL: once they are more, the estimator has looked at all again.
counted_of() { ipvsadm_quiet -Ln --stats --exact | awk -v vip="${1#http://}" '$2 == vip { print $4 }'; }
counts_more() { (($(counted_of "$2") > $1)); }

said_of_before() { grep -oE 'connections of the lvsd before: [0-9]+ go on' "$LAB_STATE/$AT-lvsd.log" || true; }
