//! The sandbox as seen from inside: is there a way out?
//!
//! Everything is tried before the database is touched. An attempt counts as refused only if the system
//! knows no way, at once; a time-out means that there was one.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use super::job::{Attempt, Isolation, Job};

/// Addresses that are nobody's (RFC 5737, RFC 3849).
const TCP: [&str; 2] = ["192.0.2.1:443", "[2001:db8::1]:443"];
const UDP: &str = "198.51.100.1:53";
/// A refusal comes at once.
const WAIT: Duration = Duration::from_secs(2);
const LOOPBACK: &str = "lo";
/// The unit of a sandbox, without its instance.
const UNIT: &str = "tidemark-sandbox@";
/// What no way looks like: no route, no such family, no address to come from, not permitted.
const CLOSED: [Errno; 5] = [
    Errno::NETUNREACH,
    Errno::AFNOSUPPORT,
    Errno::ADDRNOTAVAIL,
    Errno::ACCESS,
    Errno::PERM,
];

/// Names the namespace of a kind that this process is in.
pub(super) fn namespace(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}"))
        .map(|link| link.display().to_string())
        .unwrap_or_default()
}

/// Looks around and tries to leave.
pub(super) fn look(job: &Job) -> Isolation {
    let net =
        |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let (network, processes) = (namespace("net"), namespace("pid"));
    let (interfaces, routes) = ways(&net("route"), &net("ipv6_route"), &net("if_inet6"));
    let mut environment: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    environment.sort_unstable();
    Isolation {
        method: job.method.clone(),
        unit: unit(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
        tried: job.tried.clone(),
        own_network: is_other(&network, &job.outside_network),
        own_processes: is_other(&processes, &job.outside_processes),
        interfaces,
        routes,
        egress: attempts(),
        user: rustix::process::geteuid().as_raw(),
        no_new_privileges: no_new_privileges(),
        environment,
        secrets_in_reach: job.forbidden.iter().filter(readable).cloned().collect(),
    }
}

/// The sandbox's unit, from the groups of processes that the system lists.
fn unit(groups: &str) -> Option<String> {
    let names = groups.lines().filter_map(|line| line.rsplit('/').next());
    let mut ours = names.filter(|name| name.starts_with(UNIT));
    ours.next().map(str::to_owned)
}

/// Unknown is not another.
fn is_other(inside: &str, outside: &str) -> bool {
    !inside.is_empty() && !outside.is_empty() && inside != outside
}

fn readable(path: &&PathBuf) -> bool {
    use std::io::Read as _;
    // What stands in place of a hidden file is empty.
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut [0; 1]));
    match read {
        Ok(bytes) => bytes > 0,
        Err(_) => std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()),
    }
}

fn no_new_privileges() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NoNewPrivs:"));
    line.is_some_and(|value| value.trim() == "1")
}

/// Interfaces that lead anywhere, and routes, from what the system tells of the network: loopback aside.
fn ways(route: &str, route6: &str, addresses6: &str) -> (Vec<String>, u64) {
    let word = |line: &str, at: usize| line.split_whitespace().nth(at).map(str::to_owned);
    let of4 = route.lines().skip(1).filter_map(|line| word(line, 0));
    let of6 = route6.lines().filter_map(|line| word(line, 9));
    let routes: Vec<String> = of4.chain(of6).filter(|name| name != LOOPBACK).collect();
    let addressed = addresses6.lines().filter_map(|line| word(line, 5));
    let mut interfaces: Vec<String> = routes
        .iter()
        .cloned()
        .chain(addressed.filter(|name| name != LOOPBACK))
        .collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    (interfaces, u64::try_from(routes.len()).unwrap_or(u64::MAX))
}

fn attempts() -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = TCP
        .iter()
        .map(|to| {
            let tried = to
                .parse::<SocketAddr>()
                .map_err(|_never| std::io::Error::from(std::io::ErrorKind::InvalidInput))
                .and_then(|address| TcpStream::connect_timeout(&address, WAIT).map(drop));
            attempt(to, tried)
        })
        .collect();
    let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect(UDP)?;
        socket.send(&[0]).map(drop)
    });
    attempts.push(attempt(UDP, sent));
    attempts
}

fn attempt(to: &str, tried: std::io::Result<()>) -> Attempt {
    let (said, refused) = match &tried {
        Ok(()) => ("it went through".to_owned(), false),
        Err(error) => (error.to_string(), is_closed(error)),
    };
    Attempt {
        to: to.to_owned(),
        said,
        refused,
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| CLOSED.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\n";

    #[test]
    fn loopback_alone_leads_nowhere() {
        let six = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
            00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(ways(HEAD, six, addresses), (Vec::new(), 0));
    }

    #[test]
    fn a_route_and_an_address_lead_out() {
        let four = format!("{HEAD}eth0\t00000000\t0100A8C0\t0003\n");
        assert_eq!(ways(&four, "", ""), (vec!["eth0".to_owned()], 1));
        let addresses = "fe800000000000000000000000000001 02 40 20 80     eth1\n";
        assert_eq!(ways(HEAD, "", addresses), (vec!["eth1".to_owned()], 0));
    }

    #[test]
    fn only_for_want_of_a_way_is_an_attempt_refused() {
        let of = |errno: Errno| is_closed(&std::io::Error::from(errno));
        assert!(of(Errno::NETUNREACH) && of(Errno::PERM) && of(Errno::AFNOSUPPORT));
        assert!(!of(Errno::TIMEDOUT) && !of(Errno::CONNREFUSED) && !of(Errno::HOSTUNREACH));
        assert!(!attempt("x", Ok(())).refused);
    }

    #[test]
    fn a_unit_is_known_by_its_group_of_processes() {
        let name = "tidemark-sandbox@0-7-999.service";
        for groups in [
            format!("0::/system.slice/system-tidemark\\x2dsandbox.slice/{name}\n"),
            format!("1:name=systemd:/system.slice/{name}\n0::/\n"),
        ] {
            assert_eq!(unit(&groups).as_deref(), Some(name));
        }
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn what_is_not_known_is_not_another() {
        assert!(is_other("net:[1]", "net:[2]"));
        assert!(
            !is_other("net:[1]", "net:[1]") && !is_other("net:[1]", "") && !is_other("", "net:[1]")
        );
    }

    #[test]
    fn a_secret_that_is_hidden_is_out_of_reach() {
        let dir = tempfile::tempdir().unwrap();
        let (open, empty) = (dir.path().join("open"), dir.path().join("empty"));
        std::fs::write(&open, "key").unwrap();
        std::fs::write(&empty, "").unwrap();
        assert!(readable(&&open) && readable(&&dir.path().to_path_buf()));
        assert!(!readable(&&empty) && !readable(&&dir.path().join("none")));
        assert!(!readable(&&PathBuf::from("/dev/null")));
    }
}
