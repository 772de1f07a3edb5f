//! The names under which providers see tools: reversible through the descriptor, accepted everywhere.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

const MAX_CHARS: usize = 64;
/// How many digits of a name's digest a suffix has; more only when fewer do not tell names apart.
const SUFFIXES: [usize; 4] = [8, 16, 32, 56];

/// An alias for each of the names `upstream.tool`: 1 to 64 of `A-Z a-z 0-9 _ -`, unique. The order of the names does
/// not matter; two names that would share an alias both get a suffix from their digest.
#[must_use]
pub fn assign<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        *count.entry(sanitised(name)).or_default() += 1;
    }
    let is_plain = |plain: &String| plain.len() <= MAX_CHARS && count.get(plain) == Some(&1);
    let mut taken: BTreeSet<String> = names.iter().map(|name| sanitised(name)).filter(is_plain).collect();
    let mut aliases = BTreeMap::new();
    for name in names {
        let plain = sanitised(name);
        let alias = if is_plain(&plain) { plain } else { suffixed(name, &plain, &taken) };
        taken.insert(alias.clone());
        aliases.insert(name, alias);
    }
    aliases
}

fn sanitised(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    name.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

fn suffixed(name: &str, plain: &str, taken: &BTreeSet<String>) -> String {
    let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let with = |digits: usize| {
        let head = plain.len().min(MAX_CHARS - digits - 1);
        format!("{}_{}", &plain[..head], &digest[..digits])
    };
    let free = SUFFIXES.map(with).into_iter().find(|alias| !taken.contains(alias));
    free.unwrap_or_else(|| digest[..MAX_CHARS].to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_where_possible() {
        let long = format!("files.{}", "x".repeat(80));
        let aliases = assign(["docs.search", "a.b_c", "a_b.c", "a.b.c", "files.löschen", &long]);
        assert_eq!(aliases["docs.search"], "docs_search");
        assert_eq!(aliases["files.löschen"], "files_l_schen");
        assert!(aliases["a.b_c"].starts_with("a_b_c_"));
        assert!(aliases["a_b.c"].starts_with("a_b_c_"));
        assert_eq!(aliases[long.as_str()].len(), 64);
    }

    #[test]
    fn a_suffix_that_is_taken_grows() {
        let digest: String = Sha256::digest("a.b_c").iter().map(|byte| format!("{byte:02x}")).collect();
        let squatter = format!("a.b_c_{}", &digest[..8]);
        let aliases = assign(["a.b_c", "a_b.c", squatter.as_str()]);
        assert_eq!(aliases[squatter.as_str()], squatter.replace('.', "_"));
        assert_eq!(aliases["a.b_c"], format!("a_b_c_{}", &digest[..16]));
    }

    proptest! {
        #[test]
        fn unique_well_formed_and_independent_of_order(names in proptest::collection::vec("[a-c_.é-]{1,70}", 0..20)) {
            let aliases = assign(names.iter().map(String::as_str));
            let distinct: BTreeSet<_> = aliases.values().collect();
            prop_assert_eq!(distinct.len(), aliases.len());
            for alias in distinct {
                prop_assert!((1..=64).contains(&alias.len()));
                prop_assert!(alias.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            }
            let reversed = assign(names.iter().rev().map(String::as_str));
            prop_assert_eq!(aliases, reversed);
        }
    }
}
