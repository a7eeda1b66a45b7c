"""The network, verb by verb, in a network namespace of its own; what a lease does is in test_udhcpc_sh."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from lxdocker.runtime import render
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces

PREPARE = """
for one in console tty; do : >dev/$one; mount --bind /dev/null dev/$one; done
mkdir -m 700 dev/.lxd-net dev/.lxd-helpers
ip link set lo up
ip link add eth0 type veth peer name peer0
ip link set peer0 up
"""
SOURCE = """
_bb=/busybox-lxd _lib=/lxd-lib _static= _addresses= _knobs=
say() { echo "said: $*"; }
. $_lib/network.sh
"""
MARK = "# the instance's own name: lxdocker keeps the next line"
TEMPLATE = f"127.0.0.1\tlocalhost\n{MARK}\n127.0.1.1\tweb\n::1\tlocalhost ip6-localhost ip6-loopback\n"


class Machine:
    def __init__(self, path: Path) -> None:
        self.root = Root.make(path)
        for part in render.LIB.iterdir():
            self.root.write(f"/lxd-lib/{part.name}", part.read_bytes(), 0o755)
        self.root.write("/lxd-udhcpc-default.script", render.UDHCPC_WRAPPER.read_bytes(), 0o755)
        self.root.write("/lxd-udhcpc-default.script.real", render.UDHCPC.read_bytes())
        (self.root / "etc").mkdir()

    def sh(self, script: str, before: str = "", **env: str) -> str:
        done = self.root.run("/busybox-lxd", "sh", "-c", SOURCE + script, before=PREPARE + before, env=env)
        assert not (self.root / "canary").exists(), "something was run that is data"
        assert done.stderr == ""
        return done.stdout

    def hosts(self, name: str, *addresses: str, before: str = "", hosts: str = TEMPLATE) -> list[str]:
        """/etc/hosts for an instance of that name, once an interface has had these addresses, one after the other."""
        if hosts:
            self.root.write("/etc/hosts", hosts)
        script = f"own_hostname() {{ _hostname={name}; }}\n"
        for address in addresses or ("",):
            script += f"echo {address} >$_net/address{6 if ':' in address else 4}.eth0\nwrite_own_name\n"
        assert self.sh(script, before=before) == ""
        assert {path.name for path in (self.root / "etc").iterdir()} <= {"hosts", "hostname"}
        return (self.root / "etc/hosts").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


# ---- what the instance's configuration says


@pytest.mark.parametrize(
    ("wanted", "used", "said"),
    [
        ("eth0 10.0.0.5/24", "10.0.0.5/24", ""),
        ("eth0 10.0.0.5/24 10.0.0.1; eth0 fd42::5/64 fd42::1", "10.0.0.5/24 fd42::5/64", ""),
        (" ; eth0\t10.0.0.5/24\n;;", "10.0.0.5/24", ""),
        ("eth0 10.0.0.5", "", "10.0.0.5 needs a prefix length"),
        ("eth0 fd42::5", "", "fd42::5 needs a prefix length"),
        ("eth0", "", "needs an interface and an address"),
        ("eth0 10.0.0.5/33", "", "10.0.0.5/33 is not an address with a prefix"),
        ("eth0 10.0.0.5/", "", "is not an address with a prefix"),
        ("eth0 10.0.0/24", "", "is not an address with a prefix"),
        ("eth0 10.0.0.256/24", "", "is not an address with a prefix"),
        ("eth0 fd42::5/129", "", "is not an address with a prefix"),
        ("eth0 fd42:::5/64", "", "is not an address with a prefix"),
        ("eth0 dhcp/24", "", "is not an address with a prefix"),
        ("eth0 $(touch${IFS}/canary)/24", "", "is not an address with a prefix"),
        ("eth0 */24", "", "is not an address with a prefix"),
        ("10.0.0.5/24 10.0.0.1", "", "it must begin with an interface, such as eth0 10.0.0.5/24"),
        ("10.0.0.5/24", "", "it must begin with an interface, such as eth0 10.0.0.5/24"),
        ("eth7 10.0.0.5/24", "", "no interface eth7 (found: eth0 peer0); it gets the address when it is added"),
        ("lo 10.0.0.5/24", "", "lo is not an Ethernet interface"),
        ("eth0 10.0.0.5/24 router", "10.0.0.5/24", "router is not a gateway for 10.0.0.5/24"),
        ("eth0 10.0.0.5/24 fd42::1", "10.0.0.5/24", "fd42::1 is not a gateway for 10.0.0.5/24"),
        ("eth0 10.0.0.5/24 10.0.0.1 mtu 1400", "10.0.0.5/24", "what follows the gateway is ignored"),
        ("eth0 10.0.0.5; eth0 10.0.0.6/24", "10.0.0.6/24", "10.0.0.5 needs a prefix length"),
        ("eth0 10.0.0.5/32 10.9.9.9", "10.0.0.5/32", ""),
    ],
)
def test_static_addresses(machine: Machine, wanted: str, used: str, said: str) -> None:
    script = """
    _network=$wanted
    read_static_entries
    ! has_static_entry eth0 || set_static_addresses eth0
    ip -o addr show dev eth0 | awk '$4 !~ /^fe80/ { print $4 }'
    """
    found: list[str] = []
    complaints: list[str] = []
    for line in machine.sh(script, wanted=wanted).splitlines():
        (complaints if line.startswith("said: ") else found).append(line)
    assert found == used.split()
    if said:
        (complaint,) = complaints
        assert complaint.startswith("said: user.lxdocker.network: '")
        assert said in complaint
    else:
        assert complaints == []


def test_a_refused_entry_is_not_kept(machine: Machine) -> None:
    """Otherwise an interface of that name that comes later would have the address."""
    said = machine.sh("_network='lo 10.0.0.5/24; eth0 10.0.0.6/24'; read_static_entries; echo $_static")
    assert said.splitlines()[-1].split() == ["eth0", "10.0.0.6/24"]


def test_a_static_gateway_outside_of_the_subnet(machine: Machine) -> None:
    script = "_network='eth0 10.0.0.5/32 10.9.9.9'; read_static_entries; set_static_addresses eth0; ip -4 route"
    assert machine.sh(script).splitlines()[0].split()[:5] == ["default", "via", "10.9.9.9", "dev", "eth0"]


@pytest.mark.parametrize(
    ("wanted", "resolver", "said"),
    [
        ("192.0.2.1", ["nameserver 192.0.2.1"], []),
        ("192.0.2.1 fd42::1 search a.b c.d", ["search a.b c.d", "nameserver 192.0.2.1", "nameserver fd42::1"], []),
        ("192.0.2.1 search search.org", ["search search.org", "nameserver 192.0.2.1"], []),
        ("192.0.2.1,192.0.2.2 192.0.2.3", ["nameserver 192.0.2.3"], ["'192.0.2.1,192.0.2.2' is not the address"]),
        ("192.0.2.1 search a/b", ["nameserver 192.0.2.1"], ["'a/b' is not a domain"]),
        ("dns.example", [], ["'dns.example' is not the address of a server", "names no server"]),
        ("search a.b", [], ["names no server"]),
    ],
)
def test_static_servers(machine: Machine, wanted: str, resolver: list[str], said: list[str]) -> None:
    out = machine.sh("_dns=$wanted; set_static_dns", wanted=wanted).splitlines()
    assert [any(text in line for line in out) for text in said] == [True] * len(said)
    assert len(out) == len(said)
    path = machine.root / "etc/resolv.conf"
    assert (path.read_text().splitlines() if path.exists() else []) == resolver


ADDRESSES = [
    *(
        "::",
        "::1",
        "1::",
        "fd42::5",
        "2001:db8:0:0:1:0:0:1",
        "fe80:0:0:0:1:2:3:0",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:0:0",
    ),
    *("0:0:1:2:3:4:5:6", "10:0:0:0:1:1:1:1", "2001:0:1:0:1:0:1:0", "fd42:4c58:0077:0000:0000:0000:0000:0001"),
    *("", ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::", "g::", ":1:2:3:4:5:6:7", "1.2.3.4::"),
    *("::1.2.3", "10.0.0.1", "010.0.0.1", "1.2.3", "1.2.3.4.5", "1..2.3", "256.0.0.1", "*", "-1"),
]


def test_addresses_are_known_and_written_as_everywhere(machine: Machine) -> None:
    script = """for one; do
        short=
        if is_ipv4 "$one"; then short=$one; elif is_ipv6 "$one"; then shorten_ipv6 "$one"; short=$_short; fi
        echo "$short"
    done"""
    quoted = " ".join(f"'{one}'" for one in ADDRESSES)
    assert machine.sh(f"set -f; set -- {quoted}\n{script}").splitlines() == [short(one) for one in ADDRESSES]


def short(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


# ---- interfaces


def test_what_is_configured_already_is_noted_and_left(machine: Machine) -> None:
    before = "ip addr add 198.51.100.7/32 dev eth0; ip -6 addr add fd42::7/128 dev eth0 nodad; ip link set eth0 up"
    out = machine.sh(
        """
        _addresses=$(ip -o addr)
        start_helper() { echo "a helper"; }
        configure_interface eth0
        cat $_net/address4.eth0 $_net/address6.eth0
        """,
        before=before,
    )
    assert out.splitlines() == ["198.51.100.7/32", "fd42::7/128"]


def test_the_application_waits_for_routes_and_name_servers_too(machine: Machine) -> None:
    out = machine.sh("""
        read_uptime
        _network_began=$_now _awaited=eth0
        missing() { find_missing; echo "missing:$_missing"; }
        missing
        echo "10.0.0.2/24 9999" >$_net/address4.eth0
        missing
        interface=eth0 ip=10.0.0.2 mask=24 router=10.0.0.1 dns=10.0.0.53 sh /lxd-udhcpc-default.script.real bound
        missing
        cat /etc/resolv.conf
    """, before="ip link set eth0 up")  # fmt: skip
    assert out.splitlines() == ["missing: eth0", "missing: eth0", "missing:", "nameserver 10.0.0.53"]


@pytest.mark.parametrize("address", ["198.51.100.7/32", "fd42::7/128"])
def test_what_is_configured_already_is_not_waited_for(machine: Machine, address: str) -> None:
    out = machine.sh(
        """
        _addresses=$(ip -o addr)
        read_uptime
        _network_began=$_now
        configure_interface eth0
        find_missing
        echo "missing:$_missing"
        """,
        before=f"ip addr add {address} dev eth0; ip link set eth0 up",
    )
    assert out == "missing:\n"


def test_an_address_that_comes_by_itself_is_no_reason_not_to_ask(machine: Machine) -> None:
    out = machine.sh(
        """
        _addresses=$(ip -o addr)
        start_helper() { echo "$1"; }
        configure_interface eth0
        """,
        before="ip addr add 198.51.100.7/32 dev eth0 valid_lft 500 preferred_lft 500; ip link set eth0 up",
    )
    assert out.splitlines()[0] == "dhcp4.eth0"


def test_nobody_is_asked_about_an_interface_that_the_configuration_describes(machine: Machine) -> None:
    out = machine.sh("""
        _network='eth0 10.0.0.5/24'
        read_static_entries
        start_helper() { echo "$1"; }
        configure_interface eth0
        cat $_net/address4.eth0
    """)
    assert out == "10.0.0.5/24\n"


@pytest.mark.parametrize(("ago", "said"), [(99, "missing: eth0, 1"), (100, "missing:, 200")])
def test_where_ipv6_is_there_a_lease_is_waited_for_only_a_second(machine: Machine, ago: int, said: str) -> None:
    out = machine.sh(f"""
        _now=5000 _network_began={5000 - ago} _awaited=eth0
        read_uptime() {{ :; }}
        echo yes >$_net/settled6.eth0
        find_missing
        echo "missing:$_missing, $_patience"
    """)
    assert out == f"{said}\n"


@pytest.mark.parametrize(("ago", "patience"), [(0, 300), (299, 1), (300, 0)])
def test_an_address_is_waited_for_three_seconds(machine: Machine, ago: int, patience: int) -> None:
    out = machine.sh(f"""
        _now=5000 _network_began={5000 - ago} _awaited=eth0
        read_uptime() {{ :; }}
        find_missing
        echo "missing:$_missing, $_patience"
    """)
    assert out == f"missing: eth0, {patience}\n"


def test_only_what_was_leased_is_given_back(machine: Machine) -> None:
    out = machine.sh("""
        look() { if has_lease; then echo lease; else echo none; fi; }
        look
        echo 10.0.0.2/24 >$_net/address4.eth0 # LXD's
        look
        echo "fd42::2/128 9999" >$_net/address6.eth1
        look
    """)
    assert out.split() == ["none", "none", "lease"]


@pytest.mark.parametrize(
    ("make", "ours"),
    [
        ("true", True),
        ("ip link add br0 type bridge; ip link set eth0 master br0", False),
        ("ip link delete eth0; ip link add eth0 type bridge", False),
        ("ip link delete eth0; ip tuntap add eth0 mode tap", False),
    ],
)
def test_what_an_application_makes_is_not_ours(machine: Machine, make: str, ours: bool) -> None:
    before = f"{{ {make}; }} 2>/dev/null"
    assert machine.sh("if is_ethernet eth0; then echo ours; fi", before=before) == ("ours\n" if ours else "")


# ---- helpers


def test_helpers_are_started_once_and_again_when_they_have_been_killed(machine: Machine) -> None:
    """In sessions of their own, whose leaders are known."""
    out = machine.sh("""
        wait_for() { n=0; until "$@" || [ $n = 100 ]; do n=$((n + 1)); usleep 50000; done; }
        count() { [ "$(ps | grep -c "[u]dhcpc -f")" = "$1" ]; }
        start_helper dhcp4.eth0
        ensure_network_helpers
        wait_for count 1
        ensure_network_helpers
        read -r first since <$_net/keep.dhcp4.eth0
        for p in /proc/[0-9]*; do
            read -r line <$p/cmdline
            case $line in *udhcpc-f*) cut -d' ' -f6 $p/stat ;; esac
        done >/sessions 2>/dev/null
        [ "$(cat /sessions)" = "$first" ] && echo one session
        [ "$(ls $_helpers)" = "$first" ] && echo known
        kill -TERM "$first"
        is_helper "$first" "$since" && echo still there
        kill -KILL "$first"
        wait "$first" 2>/dev/null
        is_helper "$first" "$since" || echo gone
        ensure_network_helpers
        read -r second _ <$_net/keep.dhcp4.eth0
        [ "$first" != "$second" ] && echo another
        usleep 500000
        wait_for count 1
        count 1 && echo one client
        [ "$(ls $_helpers)" = "$second" ] && echo known
        forget_interface eth0
        wait_for count 0
        count 0 && [ -z "$(ls $_helpers)" ] && [ ! -e $_net/keep.dhcp4.eth0 ] && echo over
    """)
    assert out.splitlines() == [
        *("one session", "known", "still there", "gone", "another", "one client", "known", "over")
    ]  # fmt: skip


def test_a_helper_is_known_while_it_goes_from_one_program_to_the_next(machine: Machine) -> None:
    """A process that ends in that very instant must not make a second one of it."""
    out = machine.sh("""
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            start_helper uevent
            n=0
            while [ $n -lt 300 ]; do
                n=$((n + 1))
                ensure_network_helpers
            done
            usleep 20000
            echo $(ps | grep -c "[u]event /lxd-lib")
            read -r pid _ <$_net/keep.uevent
            kill -KILL $pid
            wait $pid 2>/dev/null
            rm -f $_net/keep.uevent $_helpers/*
        done
    """)
    assert out.splitlines() == ["1"] * 10


def test_helpers_have_an_environment_of_their_own(machine: Machine) -> None:
    out = machine.sh(
        'read_knobs; start_helper uevent; usleep 300000; tr "\\0" "\\n" </proc/$!/environ',
        search="x",
        mtu="1000",
        UDHCPC_NO_DNS="yes, please",
        LXDOCKER_UDHCPC_NOPREFIXROUTE="",
    )
    assert [line for line in out.splitlines() if not line.startswith(("PATH=", "PWD=", "SHLVL="))] == [
        "UDHCPC_NO_DNS=1"
    ]


# ---- the instance's own name


def test_the_own_name_is_at_the_address(machine: Machine) -> None:
    rest = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    assert machine.hosts("web", "10.1.2.3/24") == [rest[0], MARK, "10.1.2.3\tweb", rest[1]]
    assert machine.hosts("web", "10.1.2.3/24", "10.9.9.9/24", hosts="") == [rest[0], MARK, "10.9.9.9\tweb", rest[1]]
    assert machine.hosts("web", "fd42::7/128", hosts="") == [rest[0], MARK, "fd42::7\tweb", rest[1]]
    # Without any, it is still the instance's.
    assert machine.hosts("web", hosts="") == [rest[0], MARK, "127.0.1.1\tweb", rest[1]]
    assert machine.hosts("web.example.org", "10.1.2.3/24", hosts="")[2] == "10.1.2.3\tweb.example.org web"


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        # As images had it before there was a mark.
        ("127.0.1.1\told\n1.1.1.1 x\n", f"{MARK}\n10.1.2.3\tnew\n1.1.1.1 x\n"),
        (f"{MARK}\n10.5.5.5\told\n127.0.1.1\tother\n", f"{MARK}\n10.1.2.3\tnew\n127.0.1.1\tother\n"),
        # What somebody has added stays, to our line or beside it.
        (f"{MARK}\n10.5.5.5\told alias\n# old\n", f"{MARK}\n10.1.2.3\tnew alias\n# old\n"),
        ("10.7.7.7 old\n", f"10.7.7.7 old\n{MARK}\n10.1.2.3\tnew\n"),
        ("", f"{MARK}\n10.1.2.3\tnew\n"),
        # A line of one's own for this name counts.
        ("10.7.7.7 db new\n", "10.7.7.7 db new\n"),
        (f"{MARK}\n10.5.5.5\tnew\n10.7.7.7 new\n", "10.7.7.7 new\n"),
        ("# 10.7.7.7 new\n", f"# 10.7.7.7 new\n{MARK}\n10.1.2.3\tnew\n"),
        (f"{MARK}\n", f"{MARK}\n10.1.2.3\tnew\n"),
    ],
)
def test_only_the_own_line_is_changed(machine: Machine, hosts: str, expected: str) -> None:
    machine.root.write("/etc/hosts", hosts, 0o640)
    assert machine.hosts("new", "10.1.2.3/24", hosts="") == expected.splitlines()
    assert (machine.root / "etc/hosts").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("said", "left"), [("web\n", "new\n"), ("mine.example\n", "mine.example\n")])
def test_the_hostname_goes_with_it_unless_it_is_the_users(machine: Machine, said: str, left: str) -> None:
    machine.root.write("/etc/hostname", said)
    machine.hosts("new", "10.1.2.3/24")
    assert (machine.root / "etc/hostname").read_text() == left


@pytest.mark.parametrize(
    "before",
    [
        "mount --bind etc/hosts etc/hosts",
        "mount --bind etc etc; mount -o remount,ro,bind etc",
        "mv etc/hosts elsewhere; ln -s ../elsewhere etc/hosts",
        "rm etc/hosts",
    ],
)
def test_what_the_user_has_put_there_stays(machine: Machine, before: str) -> None:
    machine.root.write("/etc/hosts", TEMPLATE)
    assert machine.sh("own_hostname() { _hostname=new; }; write_own_name; ls -A /etc", before=before) in ("hosts\n", "")
    for path in (machine.root / "etc/hosts", machine.root / "elsewhere"):
        assert not path.exists() or path.read_text() == TEMPLATE


def test_name_servers_of_an_interface_go_with_it(machine: Machine) -> None:
    script = """
        for _one in 0 1; do
            $_bb env -i interface=eth$_one dns=10.0.$_one.1 search=net$_one $_bb sh /lxd-udhcpc-default.script.real dns
        done
        forget_interface eth0
    """
    assert machine.sh(script) == ""
    assert (machine.root / "etc/resolv.conf").read_text().splitlines() == ["search net1", "nameserver 10.0.1.1"]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (0, 0), (2, 2)])
def test_routers_are_heard_even_where_an_application_forwards(machine: Machine, before: int, after: int) -> None:
    knob = "/proc/sys/net/ipv6/conf/eth0/accept_ra"
    script = f"echo {before} >{knob}; prepare_ipv6 eth0; cat {knob}".replace("cat", "$_bb cat")
    assert machine.sh(script) == f"{after}\n"
