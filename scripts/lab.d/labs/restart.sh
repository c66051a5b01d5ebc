# shellcheck shell=bash
# The daemon is killed, or ends and starts again: in every mode and both families at once, whatever is open goes on.

# Downloads, and as many uploads, in each mode and family.
TRANSFERS=50
# What ends lvsd, one after the other, and what the crowd of short requests asks meanwhile.
ENDS=(KILL TERM KILL TERM KILL TERM)

run_lab() {
    local n round=0
    [[ $QUICK == true ]] && TRANSFERS=3 ENDS=(KILL TERM)
    every_mode_network
    for n in 1 2; do
        start_every_server "rs$n" "192.0.2.1$n" "2001:db8:2::1$n"
    done
    head -c 1M /dev/urandom >"$LAB_STATE/files/held"
    make_twins
    start_lvsd
    every_mode_addresses
    each_end serve
    mkdir "$LAB_STATE/held"
    each_end open_all
    for n in "${ENDS[@]}"; do
        restart_under "$n" $((round++))
    done
    title "what was open comes to its end"
    each_end finish_transfers
    forget
}

# each_end COMMAND: for each mode and family, with the VIP's addresses set and its name in END.
each_end() {
    local family mode
    # A setting of scripts/lab.
    # shellcheck disable=SC2153
    for family in $FAMILIES; do
        use_family "$family"
        for mode in "${EVERY_MODE[@]}"; do
            VIP=$(vip_of "$mode" "$family") END=$mode$family
            "$1"
        done
    done
}

serve() {
    serve_in "$mode"
    check "$END: the first page comes" until_true 60 answers "$(url "$VIP" 8080)/" rs1:8080 rs2:8080
}

open_all() {
    local web="${LAB_STATE}/files/held"
    talk "$END-http" "$(program http-transfers)" "$(vip 80)" "$web" held --into "$LAB_STATE/held" --name "$END" --count "$TRANSFERS"
    talk_by_ssh "$END-ssh" "$VIP"
    talk "$END-idle" socat - "TCP:$(vip 9000)"
    talk "$END-flow1" socat - "UDP:$(vip 7)"
    talk "$END-flow2" socat - "UDP:$(vip 7)"
    check "$END: $TRANSFERS downloads and $TRANSFERS uploads run" until_true 60 has_said "$END-http" "under way"
    speak_to_all before
    TEMPLATE_OF[$END]=$(page "https://$(host_of "$VIP")/")
    check "$END: a client of the persistent service gets ${TEMPLATE_OF[$END]:-nothing}" test -n "${TEMPLATE_OF[$END]}"
}

declare -A TEMPLATE_OF=()

# speak_to_all WORD: through everything but the downloads and uploads.
speak_to_all() {
    check "$END: the ssh session echoes" repeats "$END-ssh" "$1"
    check "$END: the idle connection echoes" repeats "$END-idle" "$1"
    check "$END: UDP is answered" until_true 60 answers_flow "$END-flow1"
    check "$END: and the other flow" until_true 60 answers_flow "$END-flow2"
}

# After a restart: servers speak first where nothing was said since.
speak_again() {
    check "$END: the server pushes through the idle connection" until_true 60 has_said "$END-idle" "push $ROUND"
    speak_to_all "after $ROUND"
    equal "$END: each flow keeps its server" "1 1" \
        "$(answerers_of "$END-flow1" | wc -w) $(answerers_of "$END-flow2" | wc -w)"
    equal "$END: the client's template leads to its server, twice" "${TEMPLATE_OF[$END]} ${TEMPLATE_OF[$END]}" \
        "$(pages 2 "https://$(host_of "$VIP")/")"
}

# crowd_url ROUND: what short requests ask; modes and families come in turn.
crowd_url() {
    local families
    read -ra families <<<"$FAMILIES"
    url "$(vip_of "${EVERY_MODE[$1 % ${#EVERY_MODE[@]}]}" "${families[$1 % ${#families[@]}]}")" 8080
}

# restart_under SIGNAL ROUND
restart_under() {
    local before left stats crowd
    ROUND=$2
    title "lvsd ends by $1 and starts again"
    crowd=$(crowd_url "$2")
    start_crowd new "$crowd"
    start_crowd kept "$crowd" -k
    check "nothing that was said before is under way" until_true 60 all_is_heard
    check "the statistics hold it" until_true 60 counts_more "$(counted_of "$crowd")" "$crowd"
    before=$(lasting) left=$(longest_left) stats=$(resting_stats)
    end_lvsd "$1"
    run_lvsd
    resting_stats >"$LAB_STATE/stats"
    check "statistics of what rests are as before" diff "$LAB_STATE/stats" - <<<"$stats"
    lasting >"$LAB_STATE/lasting"
    check "$(wc -l <<<"$before") connections and templates are listed as before" diff "$LAB_STATE/lasting" - <<<"$before"
    within "the timers ran on from $left seconds" $((left - 120)) "$left" "$(longest_left)"
    check "the log says: $(said_of_before)" test -n "$(said_of_before)"
    echo "note  $(grep -oE 'started in .*' "$LAB_STATE/$AT-lvsd.log" || true)"
    echo "push $ROUND" >>"$LAB_STATE/pushes"
    each_end speak_again
    end_crowd new "ab, a connection for each"
    end_crowd kept "ab, over kept connections"
}

# The downloads and uploads end, whole at both ends.
finish_transfers() {
    local sum
    sum=$(sha256sum <"$LAB_STATE/files/held" | cut -d' ' -f1)
    tell "$END-http" go
    check "$END: none failed" end_talk "$END-http"
    echo "note  $END: $(grep -v 'under way' "$LAB_STATE/$END-http.said" | head -n 5 | paste -sd,)"
    equal "$END: downloads with the same sha256" "$TRANSFERS" "$(count_with "$sum" "$LAB_STATE/held/$END"-*)"
    equal "$END: uploads with the same sha256" "$TRANSFERS" "$(count_with "$sum" "$LAB_STATE"/nginx-rs[12]/upload/"$END"-*)"
}

forget() {
    title "the memory is given back"
    check "connections lie in $(state_dir)" test -s "$(state_dir)/worker-0"
    end_lvsd TERM
    check "and stay there without lvsd" test -s "$(state_dir)/worker-0"
    forget_connections
    check "until they are forgotten" test ! -e "$(state_dir)"
    run_lvsd
    equal "an lvsd that starts then has none" "" "$(lasting)"
}
