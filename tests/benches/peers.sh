#!/usr/bin/env bash
# Portolan beside `nmap -sT -T4`, on the same hosts in the same run: how long each takes, and whether they agree.
#
#   tests/benches/peers.sh [DIRECTORY OF THE RELEASE BINARIES]
#
# Needs root, nmap, nft, ip, jq and python3, and binaries built by `cargo build --release`. Everything happens in
# network and mount namespaces of its own, which vanish with it.
set -euo pipefail
bin=$(realpath "${1:-$(dirname "${BASH_SOURCE[0]}")/../../target/release}")
[ -n "${PEERS_INSIDE:-}" ] || exec env PEERS_INSIDE=1 unshare -nm --pid --fork --kill-child --mount-proc --propagation private bash "${BASH_SOURCE[0]}" "$bin"
mount -t tmpfs tmpfs /run
work=/run/peers
mkdir "$work"
cd "$work"

for n in scanner target; do ip netns add $n; ip -n $n link set lo up; done
ip link add s0 netns scanner type veth peer name t0 netns target
ip -n scanner addr add 10.99.1.2/24 dev s0; ip -n scanner link set s0 up
ip -n target addr add 10.99.1.1/24 dev t0; ip -n target link set t0 up
ip -n scanner route add 10.99.2.0/24 via 10.99.1.1
ip -n target route add local 10.99.2.0/24 dev lo
on() { ip netns exec "$@"; }
# An ICMP limit that the first of the two uses up would be the second one's result.
on target sysctl -qw net.ipv4.icmp_ratelimit=0

processes=()
end() { kill "${processes[@]}" 2>/dev/null || true; }
trap end EXIT
ip netns exec target python3 - <<'P' &
import select, socket, time
listeners = []
for port in (22, 80, 443, 3306, 5432, 6379, 8080, 9200):
    s = socket.socket()
    s.bind(("0.0.0.0", port))
    s.listen(4096)
    listeners.append(s)
end = time.time() + 600
while time.time() < end:
    for s in select.select(listeners, [], [], 1)[0]:
        try:
            s.accept()[0].close()
        except OSError:
            pass
P
processes+=($!)
"$bin/portolan-server" init --data-dir server --name 127.0.0.1:7443 --admin-out admin.toml >server.out
ip netns exec scanner "$bin/portolan-server" run --data-dir server --listen 127.0.0.1:7443 2>server.log &
processes+=($!)
console() { on scanner "$bin/portolan" --context admin.toml "$@"; }
for _ in $(seq 100); do console status >/dev/null 2>&1 && break; sleep 0.1; done
token=$(console satellite add here --segment lab --scope 10.99.0.0/16 -o json | jq -r .token)
on scanner "$bin/portolan-satellite" enroll "$token" --data-dir satellite >satellite.out
ip netns exec scanner "$bin/portolan-satellite" run --data-dir satellite 2>satellite.log &
processes+=($!)
for _ in $(seq 100); do console satellite list -o json | jq -e '.[0].status == "online"' >/dev/null && break; sleep 0.1; done

seconds() { # runs a command and prints what it took
  local start=$EPOCHREALTIME
  "$@" >/dev/null 2>&1 || true
  python3 -c "print(f'{$EPOCHREALTIME - $start:.2f}')"
}
compare() { # what it is, targets, ports
  local ours theirs
  ours=$(seconds bash -c "ip netns exec scanner '$bin/portolan' --context admin.toml scan $2 -p $3 --from here -o json >ours.json")
  theirs=$(seconds timeout 250 ip netns exec scanner nmap -sT -T4 -n -Pn -p "$3" "$2" -oX theirs.xml)
  printf '%-44s portolan %6s s   nmap %6s s   ' "$1" "$ours" "$theirs"
  python3 - <<'P'
import collections, json, xml.etree.ElementTree as tree

def ports(text):
    found = set()
    for part in filter(None, (text or "").split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found

ours, theirs = {}, {}
for host in json.load(open("ours.json"))["hosts"]:
    for state in ("open", "closed", "filtered"):
        ours |= {(host["address"], port): state for port in ports(host["ranges"]["tcp"][state])}
for host in tree.parse("theirs.xml").getroot().findall("host"):
    address = host.find("address").get("addr")
    for extra in host.iter("extraports"):
        for reason in extra.iter("extrareasons"):
            theirs |= {(address, port): extra.get("state") for port in ports(reason.get("ports"))}
    theirs |= {(address, int(p.get("portid"))): p.find("state").get("state") for p in host.iter("port")}
differ = [
    f"{address}:{port} {ours.get((address, port))} != {theirs.get((address, port))}"
    for address, port in sorted(ours.keys() | theirs.keys())
    if ours.get((address, port)) != theirs.get((address, port))
]
counts = ", ".join(f"{n} {state}" for state, n in sorted(collections.Counter(ours.values()).items()))
print(f"{counts}; {len(differ)} differ", *differ[:5])
P
}
rules() {
  on target nft flush ruleset
  on target nft add table inet f
  on target nft 'add chain inet f i { type filter hook input priority 0; policy accept; }'
  local rule
  for rule in "$@"; do on target nft "add rule inet f i $rule"; done
}

echo "on $(nproc) cores, $(nmap --version | head -1 | cut -d' ' -f1-3)"
rules
compare "254 hosts x 100 ports, all answer" 10.99.2.1-254 1-100
rules 'tcp dport 1000-1999 drop'
compare "1 host, 1,000 ports dropped, 1,000 closed" 10.99.2.9 1000-2999
rules 'tcp dport 9000-9099 reject with icmp type admin-prohibited' \
  'tcp dport 9100-9149 reject with icmp type host-unreachable' 'tcp dport 9150-9199 reject with tcp reset'
compare "1 host, every kind of rejection" 10.99.2.9 1-100,9000-9250
rules 'numgen random mod 100 < 2 drop'
compare "20 hosts x 1,000 ports, 2 % loss" 10.99.2.1-20 1-1000
