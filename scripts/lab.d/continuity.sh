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

said_of_before() { grep -oE 'connections of the lvsd before: [0-9]+ go on' "$LAB_STATE/$AT-lvsd.log" || true; }
