//! Who may do what: the check, the schemes, and what becomes of a list that a client sends (protocol reference §2.6).

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest as _, Sha1};

use crate::proto::code::ErrorCode;
use crate::proto::data::{Acl, Id};

/// The identity that every check lets pass.
pub const SUPER: &str = "super";

/// Whether a caller with `ids` has one of the permission bits `wanted` on a node with this list.
#[must_use]
pub fn permits(acl: &[Acl], wanted: i32, ids: &[Id]) -> bool {
    acl.is_empty()
        || ids.iter().any(|id| id.scheme == SUPER)
        || acl
            .iter()
            .filter(|entry| entry.perms & wanted != 0)
            .any(|entry| is_world(&entry.id) || ids.iter().any(|id| matches(&entry.id, id)))
}

/// The bits that a list gives to everyone.
#[must_use]
pub fn world_perms(acl: &[Acl]) -> i32 {
    let open = acl.iter().filter(|entry| is_world(&entry.id));
    open.fold(0, |perms, entry| perms | entry.perms)
}

/// The list that is stored for the one a client sent: duplicates gone, `auth` replaced by who the caller is, every
/// scheme known and every id well formed.
pub fn fix_up(acl: &[Acl], ids: &[Id]) -> Result<Vec<Acl>, ErrorCode> {
    let mut fixed: Vec<Acl> = Vec::with_capacity(acl.len());
    for (at, entry) in acl.iter().enumerate() {
        if acl[..at].contains(entry) {
            continue;
        }
        match entry.id.scheme.as_str() {
            "world" if entry.id.id == "anyone" => fixed.push(entry.clone()),
            "auth" => {
                let before = fixed.len();
                let authenticated = ids.iter().filter(|id| is_authenticated(&id.scheme));
                fixed.extend(authenticated.map(|id| Acl {
                    perms: entry.perms,
                    id: id.clone(),
                }));
                if fixed.len() == before {
                    return Err(ErrorCode::INVALID_ACL);
                }
            }
            _ if is_well_formed(&entry.id) => fixed.push(entry.clone()),
            _ => return Err(ErrorCode::INVALID_ACL),
        }
    }
    if fixed.is_empty() {
        Err(ErrorCode::INVALID_ACL)
    } else {
        Ok(fixed)
    }
}

/// What `getACL` shows to a caller without ADMIN: the digests are hidden.
#[must_use]
pub fn masked(acl: &[Acl]) -> Vec<Acl> {
    let mask = |entry: &Acl| {
        let mut entry = entry.clone();
        if entry.id.scheme == "digest" {
            let user = entry.id.id.split(':').next().unwrap_or_default();
            entry.id.id = format!("{user}:x");
        }
        entry
    };
    acl.iter().map(mask).collect()
}

/// The stored form of the credential `user:password`.
#[must_use]
pub fn digest_id(credential: &str) -> String {
    let user = credential.split(':').next().unwrap_or_default();
    format!(
        "{user}:{}",
        BASE64.encode(Sha1::digest(credential.as_bytes()))
    )
}

/// The identities that an `auth` request adds to its connection. `super_digest` is the digest id of the super user,
/// if there is one.
pub fn authenticate(
    scheme: &str,
    credential: &[u8],
    super_digest: Option<&str>,
) -> Result<Vec<Id>, ErrorCode> {
    match scheme {
        "digest" => {
            let id = digest_id(&String::from_utf8_lossy(credential));
            let is_super = super_digest == Some(id.as_str());
            let mut ids = vec![Id {
                scheme: scheme.into(),
                id,
            }];
            if is_super {
                ids.insert(
                    0,
                    Id {
                        scheme: SUPER.into(),
                        id: String::new(),
                    },
                );
            }
            Ok(ids)
        }
        // The connection has had its address as an identity since it was accepted.
        "ip" => Ok(Vec::new()),
        _ => Err(ErrorCode::AUTH_FAILED),
    }
}

fn is_world(id: &Id) -> bool {
    id.scheme == "world" && id.id == "anyone"
}

fn is_authenticated(scheme: &str) -> bool {
    matches!(scheme, "digest" | "sasl" | "x509")
}

/// Whether the caller's identity is the one that an entry names.
fn matches(entry: &Id, caller: &Id) -> bool {
    if entry.scheme != caller.scheme {
        return false;
    }
    match entry.scheme.as_str() {
        "digest" | "x509" => entry.id == caller.id,
        "sasl" => entry.id == caller.id || caller.id == SUPER,
        "ip" => ip_matches(&entry.id, &caller.id),
        _ => false,
    }
}

fn is_well_formed(id: &Id) -> bool {
    match id.scheme.as_str() {
        "digest" => {
            // As Java's split: empty parts at the end do not count.
            id.id.trim_end_matches(':').split(':').count() == 2
        }
        "ip" => parse_network(&id.id).is_some(),
        _ => false,
    }
}

fn parse_network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= width)?,
        None => width,
    };
    Some((address, bits))
}

fn ip_matches(network: &str, caller: &str) -> bool {
    let (Some((network, bits)), Ok(caller)) = (parse_network(network), caller.parse::<IpAddr>())
    else {
        return false;
    };
    let differing = match (network, caller) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::data::perms;

    fn id(scheme: &str, id: &str) -> Id {
        Id {
            scheme: scheme.into(),
            id: id.into(),
        }
    }

    fn acl(perms: i32, scheme: &str, name: &str) -> Acl {
        Acl {
            perms,
            id: id(scheme, name),
        }
    }

    #[test]
    fn the_digest_is_the_one_that_zookeeper_stores() {
        assert_eq!(
            digest_id("super:admin"),
            "super:xQJmxLMiHGwaqBvst5y6rkB6HQs="
        );
        assert_eq!(digest_id("bob:secret"), "bob:fyVmFCwVbTJYrznoSu1koqYEYF0=");
    }

    #[test]
    fn a_check_passes_for_the_world_the_named_and_the_super_user() {
        let list = [
            acl(perms::READ, "world", "anyone"),
            acl(perms::ALL, "digest", "bob:x"),
        ];
        assert!(permits(&list, perms::READ, &[]));
        assert!(!permits(
            &list,
            perms::WRITE,
            &[id("digest", "eve:x"), id("ip", "bob:x")]
        ));
        assert!(permits(&list, perms::WRITE, &[id("digest", "bob:x")]));
        assert!(permits(&list, perms::WRITE, &[id("super", "")]));
        assert!(
            permits(&list, perms::READ | perms::ADMIN, &[]),
            "any common bit suffices"
        );
        assert!(permits(&[], perms::ADMIN, &[]));
    }

    #[test]
    fn networks_match_by_their_leading_bits() {
        let cases = [
            ("127.0.0.0/8", "127.9.9.9", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("::1", "0:0:0:0:0:0:0:1", true),
            ("fe80::/10", "fe80:0:0:0:0:0:0:1%eth0", false),
            ("fe80::/10", "febf::1", true),
            ("::/0", "1.2.3.4", false),
        ];
        for (network, caller, expected) in cases {
            assert_eq!(ip_matches(network, caller), expected, "{network} {caller}");
        }
    }

    #[test]
    fn a_list_is_fixed_up_or_refused() {
        let bob = id("digest", "bob:x");
        let ids = [id("ip", "127.0.0.1"), bob.clone()];
        let open = acl(31, "world", "anyone");
        assert_eq!(fix_up(&[open.clone(), open.clone()], &[]), Ok(vec![open]));
        let auth = [acl(31, "auth", "ignored")];
        assert_eq!(fix_up(&auth, &ids), Ok(vec![Acl { perms: 31, id: bob }]));
        let refused = [
            vec![],
            auth.to_vec(),
            vec![acl(31, "world", "else")],
            vec![acl(31, "super", "")],
            vec![acl(31, "", "")],
            vec![acl(31, "digest", "nocolon")],
            vec![acl(31, "digest", "user:")],
            vec![acl(31, "digest", "a:b:c")],
            vec![acl(31, "ip", "300.0.0.1")],
            vec![acl(31, "ip", "10.0.0.0/33")],
        ];
        for list in refused {
            assert_eq!(
                fix_up(&list, &ids[..1]),
                Err(ErrorCode::INVALID_ACL),
                "{list:?}"
            );
        }
    }

    #[test]
    fn digests_are_masked_and_nothing_else() {
        let list = [acl(31, "digest", "bob:fyV="), acl(1, "ip", "::1")];
        assert_eq!(
            masked(&list),
            [acl(31, "digest", "bob:x"), acl(1, "ip", "::1")]
        );
    }

    #[test]
    fn the_super_digest_gives_the_super_identity() {
        let digest = digest_id("super:test");
        let ids = authenticate("digest", b"super:test", Some(&digest)).unwrap();
        assert_eq!(ids, [id("super", ""), id("digest", &digest)]);
        assert_eq!(
            authenticate("digest", b"a:b", Some(&digest)).map(|ids| ids.len()),
            Ok(1)
        );
        assert_eq!(
            authenticate("nosuch", b"", None),
            Err(ErrorCode::AUTH_FAILED)
        );
    }
}
