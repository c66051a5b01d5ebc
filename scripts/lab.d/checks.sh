# shellcheck shell=bash
# What must be seen, told line by line; the lab fails if any line does.

CHECKS=0 FAILURES=0

title() { printf '\n== %s\n' "$*"; }

pass() {
    CHECKS=$((CHECKS + 1))
    echo "ok    $*"
}

fail() {
    CHECKS=$((CHECKS + 1)) FAILURES=$((FAILURES + 1))
    echo "FAIL  $*"
}

# check SENTENCE COMMAND...: the command must succeed.
check() {
    local sentence=$1
    shift
    if "$@"; then
        pass "$sentence"
    else
        fail "$sentence"
    fi
}

# equal SENTENCE EXPECTED ACTUAL
equal() {
    if [[ $2 == "$3" ]]; then
        pass "$1"
    else
        fail "$1: expected '$2', saw '$3'"
    fi
}

# within SENTENCE LOW HIGH ACTUAL: whole numbers.
within() {
    if [[ $4 =~ ^[0-9]+$ ]] && (($4 >= $2 && $4 <= $3)); then
        pass "$1 ($4)"
    else
        fail "$1: expected $2 to $3, saw '$4'"
    fi
}

# until_true SECONDS COMMAND...: asks again and again; fails when the time is over.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

verdict() {
    echo
    if ((FAILURES)); then
        echo "lab $LAB: $FAILURES of $CHECKS checks failed"
        exit 1
    fi
    echo "lab $LAB: all $CHECKS checks are ok"
}
