# shellcheck shell=bash
# Persistence: a client, or a client's network, stays on its server until the timeout.

run_lab() {
    local family
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    start_udp_echo rs1 "0.0.0.0:53" "[::]:53" --say rs1
    start_udp_echo rs2 "0.0.0.0:53" "[::]:53" --say rs2
    start_lvsd
    nat_addresses
    add_clients
    for family in $FAMILIES; do
        use_family "$family"
        balanced -t 80 80 -m
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        each_client
        each_network
        until_the_timeout
        ipvsadm -C
    done
}

# Four clients beside the first one, two in each of two networks.
add_clients() {
    in_ns client ip addr add 198.51.100.130/24 dev eth0
    in_ns client ip addr add 198.51.100.131/24 dev eth0
    in_ns client ip addr add 2001:db8:1:0:a::2/64 dev eth0 nodad preferred_lft 0
    in_ns client ip addr add 2001:db8:1:0:a::3/64 dev eth0 nodad preferred_lft 0
}

# page_from ADDRESS
page_from() { in_ns client curl -s --max-time 10 --interface "$1" "$(url "$VIP")/" || true; }

# pages_from COUNT ADDRESS...: of each client in turn, the different ones.
pages_from() {
    local n from
    for ((n = 0; n < $1; n++)); do
        for from in "${@:2}"; do
            page_from "$from"
        done
    done | sort -u | xargs
}

# stay_on_one_each SENTENCE SERVERS: two words, one for each; each worker takes turns by itself, so with several both
# may have the same.
stay_on_one_each() {
    if ((WORKERS == 1)); then
        equal "$1" "rs1 rs2" "$2"
    else
        check "$1, or the same by another worker's choice ($2)" is_one_each "$2"
    fi
}

is_one_each() { [[ $1 =~ ^rs[12]\ rs[12]$ ]]; }

each_client() {
    local near=("$CLIENT4" "$CROWD4")
    [[ $VIP == *:* ]] && near=("$CLIENT6" "$CROWD6")
    ipvsadm -E -t "$(vip 80)" -s rr -p 360
    stay_on_one_each "each client has a server of its own" \
        "$({ pages_from 5 "${near[0]}" && pages_from 5 "${near[1]}"; } | sort | xargs)"
    ipvsadm -Lnc
    equal "two templates, six minutes from their end" 2 "$(rows_of "$(vip 80)" | grep -cE '^TCP 0[56]:[0-9]{2} ASSURED [^ ]+:0 ' || true)"
    ipvsadm -Ln --persistent-conn
    equal "--persistent-conn counts the templates" 2 \
        "$(ipvsadm_quiet -Ln --persistent-conn -t "$(vip 80)" | rows | awk '{ sum += $4 } END { print sum }')"
}

# Two networks of two clients: /25 and /80 say who belongs together.
each_network() {
    local mask=255.255.255.128 near=("$CLIENT4" "$CROWD4") far=(198.51.100.130 198.51.100.131)
    [[ $VIP == *:* ]] && mask=80 near=("$CLIENT6" "$CROWD6") far=(2001:db8:1:0:a::2 2001:db8:1:0:a::3)
    ipvsadm -D -t "$(vip 80)"
    ipvsadm -A -t "$(vip 80)" -s rr -p 360 -M "$mask"
    ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m
    stay_on_one_each "clients of one network share a server, another network has the other" \
        "$({ pages_from 3 "${near[@]}" && pages_from 3 "${far[@]}"; } | sort | xargs)"
    ipvsadm -Ln
}

# After the timeout the scheduler picks anew; with rr that is the other server. UDP, for TCP connections that have
# ended keep their template for minutes.
until_the_timeout() {
    local before
    ipvsadm -A -u "$(vip 53)" -s rr -p 10
    ipvsadm -a -u "$(vip 53)" -r "$(rs 1 53)" -m
    ipvsadm -a -u "$(vip 53)" -r "$(rs 2 53)" -m
    ipvsadm --set 0 0 1
    check "a name server answers" until_true 60 asks rs1 rs2
    ask_within_the_timeout
    before=${SAID%% *}
    equal "within the timeout it stays the same" "$before $before $before" "$SAID"
    check "the template goes" until_true 60 no_rows_of "$(vip 53)"
    if ((WORKERS == 1)); then
        equal "then it is the other's turn" "rs$((3 - ${before#rs}))" "$(ask)"
    fi
    ipvsadm --set 0 0 300
}

ask() { udp_says 53; }

# ask_within_the_timeout: three answers, in SAID. A busy machine may take longer for them than the template lives, so more
# than one attempt may be needed.
ask_within_the_timeout() {
    local begun attempt
    for attempt in {1..5}; do
        begun=$SECONDS
        SAID="$(ask) $(ask) $(ask)"
        ((SECONDS - begun >= 9)) || return 0
        echo "note  attempt $attempt took longer than the template lives"
    done
}

asks() {
    local said
    said=$(ask)
    [[ " $* " == *" $said "* && -n $said ]]
}
no_rows_of() { [[ -z $(rows_of "$1") ]]; }
