# shellcheck shell=bash
# FULLNAT hides the client; here its real servers learn who it is: nginx by the PROXY protocol, others by TOA and UOA.

run_lab() {
    local family
    fullnat_network
    start_nginx rs1 && start_nginx rs2
    start_lvsd
    fullnat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        client_by_proxy proxy-v1 8101
        client_by_proxy proxy-v2 8102
        client_by_toa
        client_by_uoa
        short_segments
        lvsctl list
    done
    counted
}

# carried_by SERVICE CARRIER PORT: a FULLNAT service whose servers learn the client, on a port of theirs.
carried_by() {
    lvsctl service add "$1" -s rr
    lvsctl local-address set "$1" "${LOCALS[@]}"
    lvsctl service edit "$1" --client-address "$2"
    lvsctl server add "$1" "$(rs 1 "$3")" -m
    lvsctl server add "$1" "$(rs 2 "$3")" -m
}

# The client's own address in this family, and with a port.
client_address() { if [[ $VIP == *:* ]]; then echo "$CLIENT6"; else echo "$CLIENT4"; fi; }
client_end() { echo "$(host_of "$(client_address)"):$1"; }

# client_by_proxy CARRIER PORT: real nginx, a download and an upload, and what its log says of their client.
client_by_proxy() {
    local wrong url port
    url=$(url "$VIP" "$2")
    # Another each time: a port that was used rests for a minute. None that the kernel gives to earlier requests.
    port=$((20000 + $2 + 10 * family))
    title "$1 over IPv$family"
    carried_by "$(tcp "$2")" "$1" 8081
    check "$1: the first page comes" until_true 60 answers "$url/" "$(client_address)"
    equal "$1: nginx knows the client and its port" "$(client_address) $port" \
        "$(in_ns client curl -s --max-time 10 --local-port "$port" "$url/port")"
    check_download "$url"
    check_upload "$url" rs1 rs2
    check_ab 1000 50 "$url"
    wrong=$(cat "$LAB_STATE"/nginx-rs[12]/proxied.log | awk -v client="$(client_address)" '$1 != client' | wc -l)
    equal "$1: every request in nginx's logs is the client's" 0 "$wrong"
    : >"$LAB_STATE/nginx-rs1/proxied.log"
    : >"$LAB_STATE/nginx-rs2/proxied.log"
}

# What a server with the toa module would read: the option in the SYN and in the ACK that opens the connection.
client_by_toa() {
    local n said
    title "TOA over IPv$family"
    carried_by "$(tcp 8103)" toa 8103
    for n in 1 2; do
        start "rs$n" "toa-$family" "$(program client-address)" toa "$(rs "$n" 8103)"
        wait_listen "rs$n" 8103
    done
    said=$(in_ns client socat -u "TCP:$(host_of "$VIP"):8103,sourceport=45002" - || true)
    equal "toa: both packets that open a connection name the client" \
        "syn $(client_end 45002) ack $(client_end 45002)" "$said"
    lvsctl service add "$(tcp 8106)" -s rr
    lvsctl local-address set "$(tcp 8106)" "${LOCALS[@]}"
    lvsctl service edit "$(tcp 8106)" --client-address toa
    lvsctl server add "$(tcp 8106)" "$(rs 1 80)" -m
    check_download "$(url "$VIP" 8106)"
    check_upload "$(url "$VIP" 8106)" rs1
}

# What a server with the uoa module would read; it remembers the client when later datagrams carry nothing.
client_by_uoa() {
    local n
    title "UOA over IPv$family"
    carried_by "$(udp 8104)" uoa 8104
    for n in 1 2; do
        start "rs$n" "uoa-$family" "$(program client-address)" uoa "$(rs "$n" 8104)"
        wait_listen "rs$n" 8104 u
    done
    for n in 1 2 3 4 5; do
        check "uoa: datagram $n is known by its client" until_true 60 uoa_says "$(client_end 45003)"
    done
}

# uoa_says CLIENT: whether the answer to a datagram, always from the same port, is this.
uoa_says() {
    [[ $(echo whoami | in_ns client socat -t 0.3 - "UDP:$(host_of "$VIP"):8104,sourceport=45003" || true) == "$1" ]]
}

# --mss-max: both ends send shorter segments than they would.
short_segments() {
    local sum
    title "--mss-max over IPv$family"
    lvsctl service add "$(tcp 8105)" -s rr --mss-max 1000
    lvsctl local-address set "$(tcp 8105)" "${LOCALS[@]}"
    lvsctl server add "$(tcp 8105)" "$(rs 1 80)" -m
    capture client eth0 "mss-$family" "tcp port 8105"
    sum=$(in_ns client curl -s --max-time 60 "$(url "$VIP" 8105)/files/part" | sha256sum | cut -d' ' -f1)
    equal "a download in short segments: same sha256" "$(sum_of part)" "$sum"
    stop_capture
    check "its segments were seen" some_frames "mss-$family" greater 1000
    equal "none was longer than 1000 bytes and its headers" 0 "$(frames "mss-$family" greater 1075)"
}

# What lvsd counted of it all.
counted() {
    local field
    for field in client_address_packets client_address_no_room_packets; do
        lvsctl_quiet workers --json | tr ',' '\n' | awk -v field="\"$field\"" -F: '$1 ~ field { print $1 $2 }'
    done
    check "packets that carried the client's address are counted" told_some
}

told_some() { lvsctl_quiet workers --json | grep -Eq '"client_address_packets": ?[1-9]'; }
