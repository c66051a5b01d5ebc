# shellcheck shell=bash
# keepalived that is started elsewhere: net_namespace, net_namespace_ipvs, and dynamic_interfaces that come and go.

# shellcheck source=scripts/lab.d/keepalived_blocks.sh
source "$LAB_HOME/scripts/lab.d/keepalived_blocks.sh"

# The address of an application whose interface comes and goes.
APP=198.51.100.90

run_lab() {
    has_macvlan || {
        echo "not here: this kernel has no macvlan"
        return
    }
    start_nat_without_vip
    checks_in_a_namespace_of_their_own
    lives_in_the_directors_namespace
    an_interface_comes_and_goes
    twins_come_and_go
    stop_keepalived
    check "a stopped keepalived leaves no address" until_true 60 has_no "$VIP"
    equal "and no service" "" "$(ipvsadm_quiet -Sn)"
}

# The operator's namespace has no network. In another are the checks, on the servers' LAN.
start_nat_without_vip() {
    local host
    nat_network 2
    new_host operator
    new_host checks
    plug checks eth0 inside
    address checks eth0 192.0.2.30/24
    for host in rs1 rs2; do
        start_nginx "$host"
    done
    start_lvsd
    own_addresses
    use_family 4
}

own_addresses() {
    twin_has wan 198.51.100.1/24
    twin_has lan 192.0.2.1/24
}

has() { [[ -n $(on_director ip -o addr show to "$1") ]]; }
has_no() { ! has "$1"; }

web() { conf checked 80 TCP "$(block HTTP_GET "$(block url "path /" "status_code 200")" "connect_timeout 10")"; }

# net_namespace_ipvs: the services are the director's, and the checks come from elsewhere.
checks_in_a_namespace_of_their_own() {
    begin_conf "net_namespace_ipvs $(ns director)"
    sed -i "1i net_namespace $(ns checks)" "$(director_file keepalived.conf)"
    web
    start_keepalived operator
    becomes 60 "net_namespace_ipvs: the director has both servers" "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"
    check "they are checked from $(ns checks)" until_true 60 has_requests_from rs1 192.0.2.30 3
    equal "not by the director" 0 "$(requests_from rs1 192.0.2.1)"
    stop_nginx rs1
    becomes 60 "a server is killed: out of the table" "$(rs 2 80)=1" -t "$(vip 80)"
    start_nginx rs1
    becomes 60 "it is back: in again" "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"
    stop_keepalived
    equal "a stopped keepalived leaves no service" "" "$(ipvsadm_quiet -Sn)"
}

# net_namespace: VIP, checks and services are the director's, as if it had been started there.
lives_in_the_directors_namespace() {
    write_note
    begin_conf dynamic_interfaces
    sed -i "1i net_namespace $(ns director)" "$(director_file keepalived.conf)"
    conf vrrp_instance WEB wan 51 150 "$VIP/32" "notify $(note)"
    web
    conf vrrp_instance APP app 52 150 "$APP/32" "notify $(note)"
    VIP=$APP web
    start_keepalived operator
    check "net_namespace: the director has the VIP" until_true 60 has "$VIP"
    becomes 60 "and both servers" "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "checks come from the director" until_true 60 has_requests_from rs1 192.0.2.1 3
    ipvsadm -Ln
}

# app_comes: an interface on the twin with a MAC address of its own.
app_comes() {
    director_types ip link add app link wan type macvlan mode bridge
    director_types ip addr replace 198.51.100.9/24 dev app
    director_types ip link set app up
}

# check_app SENTENCE: its address is there, at its own MAC address.
check_app() {
    check "$1: $APP is there" until_true 60 has "$APP"
    check "its pages come" until_true 60 answers "$(url "$APP")/" rs1 rs2
    check "from its own MAC address" until_true 60 is_at_app
    check "pages of the other VIP come too" until_true 60 answers "$(url "$VIP")/" rs1 rs2
}

is_at_app() { [[ $(in_ns client ip neigh show "$APP") == *"lladdr $(on_director cat /sys/class/net/app/address) "* ]]; }

an_interface_comes_and_goes() {
    check "dynamic_interfaces: without its interface $APP is not there" has_no "$APP"
    app_comes
    check_app "the interface has come"
    check_notes "as master" "INSTANCE APP MASTER" "INSTANCE APP MASTER 150"
    equal "the other VIP never moved" "INSTANCE WEB BACKUP 150,INSTANCE WEB MASTER 150" "$(notes "INSTANCE WEB")"
    : >"$(director_file notes)"
    director_types ip link del app
    check_notes "the interface has gone" "INSTANCE APP FAULT" "INSTANCE APP FAULT 150"
    check "$APP went with it" has_no "$APP"
    check "pages of the other VIP come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    app_comes
    check_app "the interface is there again"
    equal "the other VIP never moved" "" "$(notes "INSTANCE WEB")"
}

# lvsd dies under keepalived. Its twins go, and those that come are others.
twins_come_and_go() {
    : >"$(director_file notes)"
    end_lvsd KILL
    # They outlive it, until somebody deletes them.
    director_types ip link del wan
    director_types ip link del lan
    check_notes "the twin has gone" "INSTANCE WEB FAULT" "INSTANCE WEB FAULT 150"
    run_lvsd
    own_addresses
    app_comes
    check "the twin is there again, with the VIP" until_true 60 has "$VIP"
    becomes 60 "with both servers" "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check_app "the interface on it too"
}
