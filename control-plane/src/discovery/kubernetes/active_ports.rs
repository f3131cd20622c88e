//! Which of a pod's ports serve inference at the moment, by an annotation of llm-d: `8000,8001`.

use std::{collections::BTreeMap, num::NonZeroU16};

/// Annotations that name the ports, strongest first: the present key, and that of earlier releases.
const ANNOTATIONS: [&str; 2] = [
    "llm-d.ai/active-ports",
    "inference.networking.k8s.io/active-ports",
];

/// The ports that an annotation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ActivePorts(
    /// `None`: all.
    Option<Vec<NonZeroU16>>,
);

// === ActivePorts ===

impl ActivePorts {
    /// Of a pod with these annotations. What is no port is skipped; an annotation that names none
    /// says nothing, so that a misspelt one takes no pod away.
    pub(super) fn of(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let named = |key: &&str| annotations?.get(*key);
        let ports = ANNOTATIONS.iter().find_map(named).map(|text| {
            let ports = text.split(',').filter_map(|port| port.trim().parse().ok());
            ports.collect::<Vec<_>>()
        });
        Self(ports.filter(|ports| !ports.is_empty()))
    }

    pub(super) fn has(&self, port: NonZeroU16) -> bool {
        self.0.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn active(pairs: &[(&str, &str)]) -> Vec<u16> {
        let annotations = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let active = ActivePorts::of(Some(&annotations));
        let has = |port: &u16| active.has(NonZeroU16::new(*port).unwrap());
        (8000..8004).filter(has).collect()
    }

    #[test]
    fn the_annotation_limits_the_ports_and_the_present_key_wins() {
        let [present, earlier] = ANNOTATIONS;
        assert_eq!(active(&[]), [8000, 8001, 8002, 8003]);
        assert_eq!(active(&[(earlier, "8001")]), [8001]);
        let both = [(earlier, "8001"), (present, "8000, 8002,9000")];
        assert_eq!(active(&both), [8000, 8002]);
    }

    #[test]
    fn what_is_no_port_takes_no_port_away() {
        assert_eq!(active(&[(ANNOTATIONS[0], "8001,many,0")]), [8001]);
        for text in ["", "many", "0", "99999", ";8000"] {
            assert_eq!(active(&[(ANNOTATIONS[0], text)]).len(), 4, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_leaves_some_port_active(text in ".{0,40}") {
            let annotations = BTreeMap::from([(ANNOTATIONS[0].to_owned(), text)]);
            let active = ActivePorts::of(Some(&annotations));
            prop_assert!((1..=u16::MAX).filter_map(NonZeroU16::new).any(|port| active.has(port)));
        }
    }
}
