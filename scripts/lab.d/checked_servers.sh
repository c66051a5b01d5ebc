# shellcheck shell=bash
# Small real servers, and a keepalived.conf that checks each kind of them with the check that is made for it.

start_small_servers() {
    local n
    for n in 1 2; do
        start_echo "$n"
        start_dnsmasq "$n" www.example
        start "rs$n" smtp python3 -B "$LAB_HOME/tests/programs/smtp_server.py" 25 "rs$n" "$LAB_STATE/rs$n-closed"
        wait_listen "rs$n" 25
        echo 0 >"$LAB_STATE/rs$n-load"
        echo 0 >"$LAB_STATE/rs$n-weight"
        echo 0 >"$LAB_STATE/rs$n-fault"
    done
}

start_echo() { start_udp_echo "rs$1" "0.0.0.0:7" "[::]:7" --say "rs$1"; }

# start_dnsmasq N NAME: it knows this name alone, and answers with the server's address.
start_dnsmasq() {
    start "rs$1" dnsmasq "$(PATH=$PATH:/usr/sbin type -P dnsmasq)" --no-daemon --conf-file=/dev/null --no-resolv --no-hosts \
        --user=root --pid-file= --address="/$2/192.0.2.1$1"
    wait_listen "rs$1" 53 u
}

write_checks() {
    local family n
    write_script load "exit \$(cat '$LAB_STATE'/\$1-load)"
    begin_conf
    for n in 1 2; do
        conf block "track_file weight$n" "file $LAB_STATE/rs$n-weight" "weight 1"
        conf block "track_file fault$n" "file $LAB_STATE/rs$n-fault" "weight 0"
    done
    for family in 4 6; do
        use_family "$family" >/dev/null
        conf checked 80 TCP "$(block HTTP_GET "$(block url "path /" "status_code 200" "regex rs%n")" "connect_timeout 10")"
        conf checked 443 TCP "$(block SSL_GET "$(block url "path /" "regex rs%n")" "enable_sni" "connect_timeout 10")"
        conf checked 8080 TCP "$(block TCP_CHECK "connect_timeout 10")"
        # A question in hexadecimal, and what an answer begins with: rs.
        conf checked 7 UDP "$(block UDP_CHECK "payload 3f0a" "require_reply 7273" "connect_timeout 10")"
        conf checked 53 UDP "$(block DNS_CHECK "type A" "name www.example" "connect_timeout 10")"
        conf checked 25 TCP "$(block SMTP_CHECK "helo_name director.example" "connect_timeout 10")"
        # Silence takes its time, so it is short.
        conf checked 8081 TCP "$(block PING_CHECK "connect_timeout 3")"
        conf checked 110 TCP "$(block MISC_CHECK "misc_path \"$(director_file load) rs%n\"" "misc_timeout 60" "misc_dynamic")"
        conf checked 143 TCP "$(block FILE_CHECK "track_file weight%n" "dynamic")"
        conf checked 993 TCP "$(block FILE_CHECK "track_file fault%n")"
    done
    use_family 4 >/dev/null
}
