//! The keys of the file's top level.

use super::{HOUR, Key, Kind, Section, millis};

pub(in super::super) static TOP: Section = Section {
    path: "",
    keys: &[
        Key::new(
            "pools",
            Kind::List("pools"),
            "",
            "Sets of interchangeable endpoints, at most 256.",
        ),
        Key::new(
            "app",
            Kind::Mapping("the block `app` of the original"),
            "",
            "The original hermes-router's block; it becomes the pool `default`.",
        ),
        Key::new(
            "limits",
            Kind::Mapping("a mapping"),
            "",
            "What one proxy accepts.",
        ),
        Key::new(
            "exposeEndpoint",
            Kind::Flag,
            "false",
            "Whether answers name the chosen endpoint in the header `x-hermes-endpoint`.",
        ),
        Key::new(
            "extraPaths",
            Kind::List("at most 64 paths such as /v2/embed"),
            "[]",
            "Paths, besides the known ones, that are forwarded as they are.",
        ),
    ],
};

pub(in super::super) static LIMITS: Section = Section {
    path: "limits",
    keys: &[
        Key::new(
            "maxBodyBytes",
            Kind::Size(1 << 10, 4 << 30),
            "64MiB",
            "Largest request body; over it the answer is 413.",
        ),
        Key::new(
            "maxConcurrent",
            Kind::Count(1, 1_000_000),
            "10000",
            "Requests that one proxy serves at once; over it the answer is 429.",
        ),
        Key::new(
            "clientTimeout",
            millis(10, HOUR),
            "30s",
            "How long a client may take to send its head, and between two pieces of its body.",
        ),
    ],
};
