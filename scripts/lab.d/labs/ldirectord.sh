# shellcheck shell=bash
# The distribution's ldirectord with an ordinary ldirectord.cf: negotiate and connect checks, fallback, quiescent, a mark.

run_lab() {
    # shellcheck disable=SC2034
    MORE_CONFIG='
[[mark]]
mark = 66
protocol = "tcp"
destination = "198.51.100.80"
destination_ports = ["8080"]
'
    start_nat_of_three
    # ldirectord calls its pid file after its configuration.
    LDIRECTORD_CF=$(director_file "$LAB_PREFIX.cf")
    write_ldirectord
    typed director "ldirectord $LDIRECTORD_CF start"
    start director ldirectord "$(director_file bin/ldirectord)" "$LDIRECTORD_CF" start
    all_come_up
    check_negotiate
    check_connect
    check_fallback
    check_edit
    typed director "kill -TERM ldirectord"
    kill "$(pid_of director ldirectord)"
    check "a stopped ldirectord leaves no service" until_true 60 no_services
}

no_services() { [[ -z $(ipvsadm_quiet -Sn) ]]; }

write_ldirectord() {
    cat >"$LDIRECTORD_CF" <<CONF
checktimeout=10
checkinterval=1
autoreload=yes
supervised=yes
quiescent=no
logfile="$(director_file ldirectord.log)"

virtual=$VIP4:80
	real=${RS[1]}:80 masq 3
	real=${RS[2]}:80 masq 1
	fallback=${RS[3]}:80 masq
	service=http
	request="/"
	receive="^rs"
	scheduler=wrr
	protocol=tcp
	checktype=negotiate

virtual=$VIP4:443
	real=${RS[1]}:443 masq
	real=${RS[2]}:443 masq
	quiescent=yes
	scheduler=rr
	persistent=60
	protocol=tcp
	checktype=connect

virtual=66
	real=${RS[1]} masq
	real=${RS[2]} masq
	scheduler=rr
	protocol=fwm
	service=http
	checktype=connect
	checkport=8080
CONF
}

all_come_up() {
    becomes 60 "negotiate brings both web servers in" "$(rs 1 80)=3 $(rs 2 80)=1" -t "$(vip 80)"
    becomes 60 "connect brings both TLS servers in" "$(rs 1 443)=1 $(rs 2 443)=1" -t "$(vip 443)"
    becomes 60 "and both of the mark" "$(rs 1 0)=1 $(rs 2 0)=1" -f 66
    ipvsadm -Ln
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "pages come by the mark" until_true 60 answers "$(url "$VIP" 8080)/" rs1:8080 rs2:8080
}

# A server that listens but says something else is no server.
check_negotiate() {
    touch "$LAB_STATE/rs1-page"
    becomes 60 "a wrong page: out of the table" "$(rs 2 80)=1" -t "$(vip 80)"
    equal "its port is open, so connect keeps it" "$(rs 1 443)=1 $(rs 2 443)=1" "$(servers_of -t "$(vip 443)")"
    rm "$LAB_STATE/rs1-page"
    becomes 60 "the right page: in again" "$(rs 1 80)=3 $(rs 2 80)=1" -t "$(vip 80)"
}

check_connect() {
    stop_nginx rs1
    becomes 60 "nginx killed, quiescent=yes: weight 0" "$(rs 1 443)=0 $(rs 2 443)=1" -t "$(vip 443)"
    becomes 60 "quiescent=no: out of the table" "$(rs 2 80)=1" -t "$(vip 80)"
    becomes 60 "of the mark too" "$(rs 2 0)=1" -f 66
    check "pages come from the other" only "$(url "$VIP")/" rs2
}

check_fallback() {
    stop_nginx rs2
    becomes 60 "both killed: the fallback" "$(rs 3 80)=1" -t "$(vip 80)"
    check "it answers" only "$(url "$VIP")/" rs3
    start_nginx rs1
    start_nginx rs2
    becomes 60 "both are back, without the fallback" "$(rs 1 80)=3 $(rs 2 80)=1" -t "$(vip 80)"
    becomes 60 "with their weights" "$(rs 1 443)=1 $(rs 2 443)=1" -t "$(vip 443)"
    becomes 60 "by the mark too" "$(rs 1 0)=1 $(rs 2 0)=1" -f 66
}

# autoreload: the edited file is taken up by itself.
check_edit() {
    sed -i 's/:80 masq 3$/:80 masq 9/' "$LDIRECTORD_CF"
    becomes 60 "an edited weight" "$(rs 1 80)=9 $(rs 2 80)=1" -t "$(vip 80)"
}
