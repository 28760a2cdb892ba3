//! What a function may say about keeping its reply (RFC 9111, hardening C11).
//!
//! Every reply answers an authorised request, so none may come to lie in a cache that serves others. A cache that is shared
//! may store one only where the reply invites it, by `public`, `s-maxage` or `must-revalidate` (§3.5), and must not where the
//! reply is `private` as a whole (§3, §5.2.2.7). So what goes out says `no-store` or `private`: where the function says
//! neither, `private` is added, which takes nothing from what it meant for its caller's own cache. What is meant for
//! shared caches (`public`, `s-maxage`, `proxy-revalidate`, and `private` or `no-cache` of single fields, which leave the rest
//! to them) is refused rather than taken out: its author counts on what will not be. So is a directive that is not known
//! here, since a cache may read an invitation in it, and one that stands twice, which caches read differently (§4.2.1).

/// The value as it goes out; `None` where it is not allowed.
pub(super) fn kept_private(value: &str) -> Option<String> {
    let mut directives: Vec<String> = Vec::new();
    for directive in value.split(',').map(|directive| directive.trim_matches([' ', '\t'])) {
        let (name, seconds) = match directive.split_once('=') {
            Some((name, seconds)) => (name, Some(seconds)),
            None => (directive, None),
        };
        let name = name.to_ascii_lowercase();
        let is_known = match seconds {
            None => FLAGS.contains(&&*name),
            Some(seconds) => TIMES.contains(&&*name) && is_delta(seconds),
        };
        let is_repeated = directives.iter().any(|other| other.split('=').next() == Some(&*name));
        if !is_known || is_repeated {
            return None;
        }
        directives.push(seconds.map_or(name.clone(), |seconds| format!("{name}={seconds}")));
    }
    if !directives.iter().any(|directive| PRIVATE.contains(&&**directive)) {
        directives.insert(0, "private".to_owned());
    }
    Some(directives.join(", "))
}

/// `delta-seconds`, of no more digits than a number of 32 bits has (§1.2.2).
fn is_delta(seconds: &str) -> bool {
    (1..=10).contains(&seconds.len()) && seconds.bytes().all(|b| b.is_ascii_digit())
}

/// Either keeps a reply out of every shared cache.
const PRIVATE: [&str; 2] = ["no-store", "private"];
/// Those that a caller's own cache obeys (§5.2.2; `immutable`: RFC 8246).
const FLAGS: [&str; 6] = ["immutable", "must-revalidate", "no-cache", "no-store", "no-transform", "private"];
/// Those with a time (§5.2.2.1, RFC 5861).
const TIMES: [&str; 3] = ["max-age", "stale-if-error", "stale-while-revalidate"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c11_d14_no_reply_invites_a_shared_cache() {
        for (said, sent) in [
            ("no-store", "no-store"),
            ("private", "private"),
            ("max-age=60", "private, max-age=60"),
            ("Max-Age=60, PRIVATE", "max-age=60, private"),
            ("no-cache", "private, no-cache"),
            ("must-revalidate", "private, must-revalidate"),
            ("no-cache, no-store,\tmust-revalidate", "no-cache, no-store, must-revalidate"),
            ("private, max-age=31536000, immutable", "private, max-age=31536000, immutable"),
            ("max-age=5, stale-while-revalidate=30", "private, max-age=5, stale-while-revalidate=30"),
        ] {
            assert_eq!(kept_private(said).as_deref(), Some(sent), "{said}");
        }
        for said in [
            "",
            "public",
            "Public, max-age=60",
            "private, public",
            "no-store, s-maxage=60",
            "s-maxage=0",
            "proxy-revalidate",
            "private=\"set-cookie\"",
            "private=\"set-cookie, x\", max-age=60",
            "no-cache=\"x\"",
            "max-age",
            "max-age=",
            "max-age=\"60\"",
            "max-age=-1",
            "max-age=60, max-age=0",
            "private=, max-age=60",
            "no-store,",
            "must-understand, no-store",
            "x-shared-maxage=60",
            "max-age=60; public",
        ] {
            assert_eq!(kept_private(said), None, "{said}");
        }
    }
}
