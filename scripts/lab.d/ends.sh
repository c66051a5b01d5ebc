# shellcheck shell=bash
# Real programs at the ends: nginx, sshd, socat and the lab's own small ones.

program() { echo "${LAB_PROGRAMS:-$LAB_HOME/target/debug}/$1"; }

# start HOST NAME COMMAND...: in the background, logged, remembered.
start() {
    local host=$1 name=$2
    shift 2
    # This does not use in_ns. A function in the background runs in a shell, and its pid would not be the program's.
    ip netns exec "$(ns "$host")" "$@" >"$LAB_STATE/$host-$name.log" 2>&1 </dev/null &
    remember $! "$host-$name"
}

# listens HOST PORT [u]: whether something listens there (TCP, or UDP with u).
listens() { [[ -n $(in_ns "$1" ss -Hln"${3:-t}" "sport = :$2") ]]; }

# wait_listen HOST PORT [u]
wait_listen() {
    until_true 60 listens "$@" || {
        echo "nothing listens on $1 port $2" >&2
        tail -n 20 "$LAB_STATE/$1"-*.log >&2
        exit 1
    }
}

# The files that are downloaded, the same on every server; size by --quick.
make_files() {
    local big=200M part=20M
    [[ $QUICK == true ]] && big=20M part=4M
    mkdir -p "$LAB_STATE/files"
    head -c "$big" /dev/urandom >"$LAB_STATE/files/big"
    head -c "$part" /dev/urandom >"$LAB_STATE/files/part"
    (cd "$LAB_STATE/files" && sha256sum big part >sums)
}

make_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=lab.example \
        -keyout "$LAB_STATE/tls.key" -out "$LAB_STATE/tls.crt" 2>/dev/null
}

# start_nginx HOST: pages that say which server it is (80, and 443 with TLS), or "broken" while the file HOST-page
# is there; 'HOST:8080' on 8080, /files to download, PUT to /upload; the same behind the PROXY protocol on 8081,
# where / and /port say who the client is. It is patient with transfers that a lab holds back.
start_nginx() {
    local host=$1 root=$LAB_STATE/nginx-$1
    [[ -f $LAB_STATE/files/sums ]] || make_files
    [[ -f $LAB_STATE/tls.crt ]] || make_certificate
    mkdir -p "$root/upload" "$root/temp"
    chmod 777 "$root" "$root/upload" "$root/temp"
    cat >"$root/nginx.conf" <<NGINX
daemon off;
user nobody nogroup;
worker_processes 1;
pid $root/nginx.pid;
error_log $root/error.log;
events { worker_connections 4096; }
http {
    access_log $root/access.log;
    client_body_temp_path $root/temp;
    proxy_temp_path $root/temp/p; fastcgi_temp_path $root/temp/f; uwsgi_temp_path $root/temp/u; scgi_temp_path $root/temp/s;
    client_max_body_size 0;
    send_timeout 600; client_body_timeout 600;
    default_type text/plain;
    server {
        listen 80 backlog=4096; listen [::]:80 backlog=4096;
        listen 443 ssl; listen [::]:443 ssl;
        ssl_certificate $LAB_STATE/tls.crt; ssl_certificate_key $LAB_STATE/tls.key;
        location = / { if (-e $LAB_STATE/$host-page) { return 200 "broken\n"; } return 200 "$host\n"; }
        location /files/ { alias $LAB_STATE/files/; }
        location /upload/ { alias $root/upload/; dav_methods PUT; }
    }
    log_format proxied '\$proxy_protocol_addr \$proxy_protocol_port \$request';
    server {
        listen 8081 proxy_protocol; listen [::]:8081 proxy_protocol;
        access_log $root/proxied.log proxied;
        location = / { return 200 "\$proxy_protocol_addr\n"; }
        location = /port { return 200 "\$proxy_protocol_addr \$proxy_protocol_port\n"; }
        location /files/ { alias $LAB_STATE/files/; }
        location /upload/ { alias $root/upload/; dav_methods PUT; }
    }
    server {
        listen 8080; listen [::]:8080;
        location = / { return 200 "$host:8080\n"; }
    }
}
NGINX
    start "$host" nginx nginx -e "$root/error.log" -p "$root" -c "$root/nginx.conf"
    wait_listen "$host" 80
}

# requests_of HOST: how many requests its nginx has answered.
requests_of() { wc -l <"$LAB_STATE/nginx-$1/access.log"; }

# requests_from HOST ADDRESS: how many of them came from there.
requests_from() { grep -c "^$2 " "$LAB_STATE/nginx-$1/access.log" || true; }
has_requests_from() { (($(requests_from "$1" "$2") >= $3)); }

# forget_requests HOST...
forget_requests() {
    local host
    for host in "$@"; do
        : >"$LAB_STATE/nginx-$host/access.log"
    done
}

# start_sshd HOST: logins by the lab's key, which the client holds.
start_sshd() {
    local host=$1 root=$LAB_STATE/sshd-$1
    mkdir -p "$root" /run/sshd
    [[ -f $LAB_STATE/login ]] || ssh-keygen -q -t ed25519 -N '' -f "$LAB_STATE/login"
    ssh-keygen -q -t ed25519 -N '' -f "$root/host_key"
    start "$host" sshd "$(command -v sshd)" -D -e -f /dev/null -h "$root/host_key" -o "PidFile=$root/pid" \
        -o "AuthorizedKeysFile=$LAB_STATE/login.pub" -o StrictModes=no -o PermitRootLogin=yes -o UsePAM=no \
        -o "SetEnv=LAB_HOST=$host"
    wait_listen "$host" 22
}

# What a login of the client takes beside an address.
LOGIN=(-F none -i "$LAB_STATE/login" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
    -o LogLevel=ERROR -o ConnectTimeout=30)

# ssh_from_client ADDRESS [PORT]: prints the name of the host that lets the client in.
ssh_from_client() {
    # The variable is the far end's, set by its sshd.
    # shellcheck disable=SC2016
    in_ns client ssh "${LOGIN[@]}" -p "${2:-22}" "root@$1" 'echo $LAB_HOST'
}

# start_udp_echo HOST ADDRESS:PORT... [--say TEXT]
start_udp_echo() {
    local host=$1
    shift
    start "$host" udp-echo "$(program udp-echo)" "$@"
    wait_listen "$host" "${1##*:}" u
}
