//! Where a request comes from: an address, perhaps behind a proxy that is trusted, or a user of this
//! machine.
//!
//! The server names the [`Peer`] of a connection; the front asks [`Trust`] what follows from it.
//! Invariants: a header about the client is believed from configured proxies alone, from the nearest on;
//! who is on the unix socket is what the kernel says; a user who cannot be looked up is a stranger.

use std::net::IpAddr;

use hyper::header::HeaderMap;

use crate::config::Network;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Address(IpAddr),
    /// On the unix socket. None: the kernel did not say who.
    Unix(Option<User>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// This process. The group is the user's own one: a service may run with another, for the files that it makes.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let named = std::fs::read_to_string(USERS).ok().and_then(|users| own_group(&users, uid));
        Self { uid, gid: named.unwrap_or_else(|| rustix::process::getegid().as_raw()) }
    }
}

impl Peer {
    pub const fn is_unix(self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Whoever sends one of these speaks for somebody else.
const PROXY_HEADERS: [&str; 3] = [FORWARDED_FOR, "forwarded", "x-real-ip"];
const GROUPS: &str = "/etc/group";
const USERS: &str = "/etc/passwd";
/// Below it users are services.
const FIRST_PERSON: u32 = 1_000;

/// Whom the daemon trusts.
pub struct Trust {
    proxies: Vec<Network>,
    own: u32,
    /// Its members are admin; None: the daemon runs as a person, whose group may be everybody's.
    group: Option<u32>,
}

/// The group whose members may use the socket of a daemon of this user.
pub const fn service_group(own: User) -> Option<u32> {
    if own.uid < FIRST_PERSON { Some(own.gid) } else { None }
}

impl Trust {
    pub fn new(proxies: Vec<Network>, own: User) -> Self {
        Self { proxies, own: own.uid, group: service_group(own) }
    }

    /// The address to count: of the nearest one that is no proxy of ours.
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let named: Vec<&str> =
            headers.get_all(FORWARDED_FOR).iter().flat_map(|value| value.to_str().unwrap_or("?").split(',')).collect();
        let mut address = peer.to_canonical();
        for name in named.iter().rev() {
            if !self.proxies.iter().any(|network| network.holds(address)) {
                break;
            }
            let Ok(next) = name.trim().parse::<IpAddr>() else { break };
            address = next.to_canonical();
        }
        address
    }

    /// Whether the client spoke TLS with a proxy of ours: what the nearest one says counts, and nobody else's word.
    pub fn is_secure(&self, peer: Peer, headers: &HeaderMap) -> bool {
        let Peer::Address(address) = peer else { return false };
        let said = headers.get_all(FORWARDED_PROTO).iter().next_back().and_then(|value| value.to_str().ok());
        let nearest = said.and_then(|said| said.rsplit(',').next()).map(str::trim);
        self.proxies.iter().any(|network| network.holds(address.to_canonical()))
            && nearest.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
    }

    /// Whether the request was made on this machine, as far as can be told.
    pub fn is_local(peer: IpAddr, headers: &HeaderMap) -> bool {
        peer.to_canonical().is_loopback() && !PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
    }

    /// Whether this user of the unix socket is admin.
    pub async fn is_admin(&self, user: Option<User>) -> bool {
        let Some(user) = user else { return false };
        if user.uid == 0 || user.uid == self.own {
            return true;
        }
        let Some(group) = self.group else { return false };
        if user.gid == group {
            return true;
        }
        match (tokio::fs::read_to_string(USERS).await, tokio::fs::read_to_string(GROUPS).await) {
            (Ok(users), Ok(groups)) => is_member(&users, &groups, user.uid, group),
            _ => false,
        }
    }
}

fn own_group(users: &str, uid: u32) -> Option<u32> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(3)?.parse().ok())?
    })
}

fn is_member(users: &str, groups: &str, uid: u32, gid: u32) -> bool {
    let number = |text: Option<&&str>, wanted: u32| text.is_some_and(|text| text.parse() == Ok(wanted));
    let name = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        number(fields.get(2), uid).then(|| fields[0])
    });
    let Some(name) = name.filter(|name| !name.is_empty()) else { return false };
    groups.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        number(fields.get(2), gid) && fields.get(3).is_some_and(|members| members.split(',').any(|m| m.trim() == name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn heads(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_trusted_proxies_are_believed_from_the_nearest_on() {
        let own = User { uid: 5, gid: 5 };
        let trust = Trust::new(vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()], own);
        let client = |peer: &str, value: &'static str| trust.address(ip(peer), &heads(&[(FORWARDED_FOR, value)]));
        assert_eq!(client("10.0.0.1", "203.0.113.9"), ip("203.0.113.9"));
        assert_eq!(
            client("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.2.3.4"),
            ip("203.0.113.9"),
            "what it says itself is not"
        );
        assert_eq!(client("203.0.113.9", "127.0.0.1"), ip("203.0.113.9"), "a stranger");
        assert_eq!(client("10.0.0.1", "1.1.1.1, nonsense"), ip("10.0.0.1"));
        assert_eq!(client("::ffff:10.0.0.1", "8.8.8.8"), ip("8.8.8.8"));
        assert_eq!(trust.address(ip("10.0.0.1"), &heads(&[])), ip("10.0.0.1"));
        assert_eq!(
            Trust::new(Vec::new(), own).address(ip("127.0.0.1"), &heads(&[(FORWARDED_FOR, "8.8.8.8")])),
            ip("127.0.0.1")
        );
    }

    #[test]
    fn that_a_client_spoke_tls_is_believed_of_the_nearest_trusted_proxy_alone() {
        let trust = Trust::new(vec!["10.0.0.0/8".parse().unwrap()], User { uid: 5, gid: 5 });
        let secure = |peer: &str, said: &'static str| {
            trust.is_secure(Peer::Address(ip(peer)), &heads(&[(FORWARDED_PROTO, said)]))
        };
        assert!(secure("10.0.0.1", "https") && secure("::ffff:10.0.0.1", "http, HTTPS"));
        for (peer, said) in [("10.0.0.1", "http"), ("10.0.0.1", "https, http"), ("203.0.113.9", "https")] {
            assert!(!secure(peer, said), "{peer} {said}");
        }
        assert!(!trust.is_secure(Peer::Address(ip("10.0.0.1")), &heads(&[])));
        assert!(!trust.is_secure(Peer::Unix(None), &heads(&[(FORWARDED_PROTO, "https")])));
    }

    #[test]
    fn who_is_forwarded_is_not_on_this_machine() {
        assert!(Trust::is_local(ip("127.0.0.1"), &heads(&[])) && Trust::is_local(ip("::ffff:127.0.0.1"), &heads(&[])));
        assert!(!Trust::is_local(ip("192.168.0.1"), &heads(&[])));
        for name in PROXY_HEADERS {
            assert!(!Trust::is_local(ip("127.0.0.1"), &heads(&[(name, "127.0.0.1")])), "{name}");
        }
    }

    #[tokio::test]
    async fn root_and_the_daemons_own_user_are_admin_and_strangers_are_not() {
        let trust = Trust::new(Vec::new(), User { uid: 990, gid: 980 });
        for (uid, gid, admin) in [(0, 0, true), (990, 1, true), (4_000_000, 980, true), (4_000_000, 1, false)] {
            assert_eq!(trust.is_admin(Some(User { uid, gid })).await, admin, "{uid} {gid}");
        }
        assert!(!trust.is_admin(None).await);
        let person = Trust::new(Vec::new(), User { uid: 1_000, gid: 100 });
        assert!(!person.is_admin(Some(User { uid: 1_001, gid: 100 })).await, "a person's group may be everybody's");
    }

    #[test]
    fn members_of_a_group_are_those_that_its_line_names() {
        let users = "root:x:0:0::/:/bin/sh\nanna:x:1000:1000::/:/bin/sh\nboris:x:1001:1001::/:/bin/sh\n:x:1002:1::/:\n";
        let groups = "root:x:0:\ncove:x:980:anna,carla\nother:x:981:boris\nempty:x:982:\n";
        assert!(is_member(users, groups, 1_000, 980));
        assert!(!is_member(users, groups, 1_001, 980) && !is_member(users, groups, 1_000, 981));
        assert_eq!((own_group(users, 1_001), own_group(users, 7)), (Some(1_001), None));
        assert!(!is_member(users, groups, 7, 980) && !is_member(users, groups, 1_002, 982));
    }
}
