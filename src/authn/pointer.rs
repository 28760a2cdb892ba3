//! JSON pointers (RFC 6901) into claims, read once from tenant.toml.

use serde_json::{Map, Value};

/// Where a claim is: `/realm_access/roles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer(Vec<String>);

/// Why a text is no pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a JSON pointer begins with `/`, and writes `/` in a name as `~1` and `~` as `~0`")]
pub struct PointerError;

impl std::str::FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        // The empty pointer names all claims at once, which is nothing that a caller could have.
        let names = text.strip_prefix('/').filter(|names| !names.is_empty()).ok_or(PointerError)?;
        names.split('/').map(unescape).collect::<Option<_>>().map(Self).ok_or(PointerError)
    }
}

impl Pointer {
    /// What is there, if anything is.
    pub(super) fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| match value {
            Value::Object(object) => object.get(name),
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// Puts a value there, making objects on the way; `None` if something else is in the way.
    pub(super) fn place(&self, claims: &mut Map<String, Value>, value: Value) -> Option<()> {
        let (last, path) = self.0.split_last()?;
        let object = path.iter().try_fold(claims, |object, name| {
            object.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
        })?;
        object.insert(last.clone(), value);
        Some(())
    }
}

fn unescape(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '~' => match chars.next()? {
                '0' => out.push('~'),
                '1' => out.push('/'),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_with_slashes_are_reached_by_their_escape() {
        let claims = json!({"https://acme.example/roles": ["a"], "a": [{"b": 1}], "m~n": 8});
        let claims = claims.as_object().unwrap();
        let find = |text: &str| text.parse::<Pointer>().unwrap().find(claims).cloned();
        assert_eq!(find("/https:~1~1acme.example~1roles"), Some(json!(["a"])));
        assert_eq!(find("/a/0/b"), Some(json!(1)));
        assert_eq!(find("/m~0n"), Some(json!(8)));
        assert_eq!(find("/a/b"), None);
        assert_eq!(find("/nothing/there"), None);
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for text in ["", "/", "roles", "/a~", "/a~2b", "#/roles"] {
            assert_eq!(text.parse::<Pointer>(), Err(PointerError), "{text}");
        }
    }

    #[test]
    fn a_placed_value_is_found() {
        let mut claims = Map::new();
        let pointer: Pointer = "/realm_access/roles".parse().unwrap();
        pointer.place(&mut claims, json!(["x"])).unwrap();
        assert_eq!(pointer.find(&claims), Some(&json!(["x"])));
        assert_eq!("/realm_access/roles/0".parse::<Pointer>().unwrap().place(&mut claims, json!(1)), None);
    }
}
