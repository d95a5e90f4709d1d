//! Paths of znodes: what is valid, and how they split (protocol reference §2.1).

use crate::proto::code::ErrorCode;

/// The node that holds everything of the server's own.
pub const ZOOKEEPER: &str = "/zookeeper";
/// The node that shows the ensemble's configuration.
pub const CONFIG: &str = "/zookeeper/config";
/// The node below which quotas are kept.
pub const QUOTA: &str = "/zookeeper/quota";

/// What the full check says: absolute, no empty, `.` or `..` segment, no control or private characters.
pub fn validate(path: &str) -> Result<(), ErrorCode> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(ErrorCode::BAD_ARGUMENTS);
    };
    if rest.is_empty() {
        return Ok(());
    }
    let valid = rest
        .split('/')
        .all(|segment| !matches!(segment, "" | "." | ".."))
        && rest.chars().all(is_allowed);
    if valid {
        Ok(())
    } else {
        Err(ErrorCode::BAD_ARGUMENTS)
    }
}

/// What `create` and `delete` ask of a path before anything else: a slash somewhere, and no NUL.
pub fn validate_roughly(path: &str) -> Result<(), ErrorCode> {
    if path.contains('/') && !path.contains('\0') {
        Ok(())
    } else {
        Err(ErrorCode::BAD_ARGUMENTS)
    }
}

/// Whether the node may not be deleted.
#[must_use]
pub fn is_special(path: &str) -> bool {
    matches!(path, "/" | ZOOKEEPER | QUOTA | CONFIG)
}

/// The parent's path and the node's name. The root's parent is written `""` here, as in snapshots; a path without a
/// slash has no parent.
#[must_use]
pub fn split(path: &str) -> Option<(&str, &str)> {
    path.rsplit_once('/')
}

/// The parent's path as watchers know it: `/` for the root.
#[must_use]
pub fn parent(path: &str) -> &str {
    match split(path) {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// The path itself and its ancestors, from the deepest up to `/`.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| (*path != "/").then(|| parent(path)))
}

/// A path with the number that `create` appends for a sequential node.
#[must_use]
pub fn with_sequence(path: &str, number: i32) -> String {
    format!("{path}{number:010}")
}

fn is_allowed(c: char) -> bool {
    !matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_check_is_that_of_path_utils() {
        for good in [
            "/",
            "/a",
            "/a/b",
            "/...",
            "/.a",
            "/a b",
            "/\u{f900}",
            "/é",
            "/\u{ffef}",
        ] {
            assert_eq!(validate(good), Ok(()), "{good:?}");
        }
        let bad = [
            "",
            "a",
            "a/b",
            "/a/",
            "//",
            "/a//b",
            "/.",
            "/..",
            "/a/./b",
            "/a/..",
            "/\0",
            "/a\u{1}",
            "/\u{7f}",
            "/\u{9f}",
            "/\u{e000}",
            "/\u{fff0}",
            "/\u{1f600}",
        ];
        for bad in bad {
            assert_eq!(validate(bad), Err(ErrorCode::BAD_ARGUMENTS), "{bad:?}");
        }
    }

    #[test]
    fn ancestors_end_at_the_root() {
        let all = |path| ancestors(path).collect::<Vec<_>>();
        assert_eq!(all("/a/b"), ["/a/b", "/a", "/"]);
        assert_eq!(all("/"), ["/"]);
        assert_eq!(all("odd"), ["odd", "/"]);
    }

    #[test]
    fn a_sequence_number_has_ten_digits_and_may_wrap() {
        assert_eq!(with_sequence("/a-", 7), "/a-0000000007");
        assert_eq!(with_sequence("/a-", i32::MIN), "/a--2147483648");
        assert_eq!(with_sequence("/a-", -1), "/a--000000001");
    }
}
