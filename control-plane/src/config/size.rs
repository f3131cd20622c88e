//! Sizes as people write them: `64MiB`, `64Mi` as Kubernetes does, `64MB`, or a plain number of
//! bytes.

/// Powers of 1024 and of 1000, by every suffix in use.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("Ki", 1 << 10),
    ("MiB", 1 << 20),
    ("Mi", 1 << 20),
    ("GiB", 1 << 30),
    ("Gi", 1 << 30),
    ("kB", 1_000),
    ("k", 1_000),
    ("MB", 1_000_000),
    ("M", 1_000_000),
    ("GB", 1_000_000_000),
    ("G", 1_000_000_000),
];

/// The bytes that `text` states; `None` if it is no size.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The shortest exact way to write a size that [`parse`] reads back.
pub(super) fn display(bytes: u64) -> String {
    for (name, unit) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_write_sizes_in_several_ways() {
        for text in [
            "64MiB",
            "64Mi",
            "65536KiB",
            "67108864",
            "67108864B",
            "64 MiB",
        ] {
            assert_eq!(parse(text), Some(64 << 20), "{text}");
        }
        assert_eq!(parse("64MB"), Some(64_000_000));
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.5MiB",
            "64mib",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_read_back(bytes: u64) {
            prop_assert_eq!(parse(&display(bytes)), Some(bytes));
        }
    }
}
