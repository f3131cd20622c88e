//! Reads one item of the list `listeners`.

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, sync::Arc};

use hermes_core::{
    listener::{Listener, ListenerTls},
    route::HostPattern,
};

use super::{diagnostics::Diagnostics, names::is_dns_label, node::Node, section::Section};

/// Certificates of one listener.
const CERTIFICATES: RangeInclusive<usize> = 1..=64;

/// What a listener's name may be.
const NAME: &str = "1 to 63 characters of a-z, 0-9 and -";

/// What an address may be.
const ADDRESS: &str = "an IP address and a port, such as 0.0.0.0:8443 or [::]:8443";

/// What a hostname may be.
pub(super) const HOSTNAME: &str = "a DNS name, such as chat.example.com or *.example.com";

/// What the name of a certificate may be.
const CERTIFICATE: &str = "the name of a folder: letters, digits, -, _ and .";

/// One listener with its path in the file.
#[derive(Debug)]
pub(super) struct ListenerFragment {
    pub(super) path: String,
    pub(super) listener: Arc<Listener>,
}

/// One item of `listeners`.
pub(super) fn read(section: &mut Section<'_>) -> Option<ListenerFragment> {
    let name = section
        .text_where(
            "name",
            NAME,
            is_dns_label,
            "Name of the listener in routes, logs and metrics; unique.",
        )
        .required("set 1 to 63 characters of a-z, 0-9 and -");
    let address: Option<SocketAddr> = section
        .parsed(
            "address",
            ADDRESS,
            |text| text.parse().ok(),
            "Where proxies listen. Several listeners may have one address, if they differ in `hostname`.",
        )
        .required("set an IP address and a port, such as 0.0.0.0:8443");
    let hostname = section
        .parsed(
            "hostname",
            HOSTNAME,
            |text| text.parse().ok(),
            "Whose requests it takes; `*.` is any names before the rest. Without it, those that no other listener of the address takes.",
        )
        .optional();
    let tls = section.optional_section(
        "tls",
        "How its connections are secured; without it, they are not.",
        read_tls,
    );
    let routes_only = section
        .flag(
            "routesOnly",
            "Whether a listener to which no route is attached answers 404, and does not serve what the proxies' usual port serves.",
        )
        .or(false);
    let listener = Listener {
        name: name?,
        address: address?,
        hostname,
        tls: tls.flatten(),
        routes_only,
    };
    Some(ListenerFragment {
        path: section.path().to_owned(),
        listener: Arc::new(listener),
    })
}

fn read_tls(section: &mut Section<'_>) -> Option<ListenerTls> {
    let certificates = section
        .texts(
            "certificates",
            CERTIFICATES,
            "names of certificates",
            "Certificates, by the names of their folders below the proxies' `--listener-certificates`, each with `tls.crt` and `tls.key`. \
             A client gets the first whose names have the host that it asks for (SNI), else the first.",
            |node: &Node<'_>| {
                let name = node.text(CERTIFICATE)?;
                if is_folder(name) {
                    Some(Arc::<str>::from(name))
                } else {
                    node.wrong(format!("expected {CERTIFICATE}"))
                }
            },
            Arc::<str>::to_string,
        )
        .required("name a folder with `tls.crt` and `tls.key`");
    certificates.map(|certificates| ListenerTls { certificates })
}

/// Whether the name is that of a folder right below another one.
fn is_folder(name: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.starts_with('.') && name.bytes().all(is_known)
}

/// Records listeners at ports that Gateways may get.
pub(super) fn refuse_ports(
    fragments: &[ListenerFragment],
    ports: &RangeInclusive<u16>,
    diagnostics: &Diagnostics,
) {
    for ListenerFragment { path, listener } in fragments {
        let port = listener.address.port();
        if ports.contains(&port) {
            let found = format!("the port {port} is one of `gatewayApi.service.portRange`");
            diagnostics.error(path, found, "change one of the two");
        }
    }
}

/// The listeners, sorted by name. Records names that are used twice, and listeners of one address
/// between which nothing can decide.
pub(super) fn merge(
    fragments: Vec<ListenerFragment>,
    diagnostics: &Diagnostics,
) -> Vec<Arc<Listener>> {
    let mut names = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    let mut secured = BTreeMap::new();
    for ListenerFragment { path, listener } in &fragments {
        if let Some(first) = names.insert(&listener.name, path) {
            let found = format!("the name `{}` is used by {first}", listener.name);
            diagnostics.error(path, found, "give every listener its own name");
        }
        let at = (
            listener.address,
            listener.hostname.as_ref().map(HostPattern::to_string),
        );
        if let Some(first) = hosts.insert(at, path) {
            let found = format!("{first} has the same address and hostname");
            diagnostics.error(path, found, "change one of them, or remove it");
        }
        let (is_secured, first) = *secured
            .entry(listener.address)
            .or_insert((listener.tls.is_some(), path));
        if is_secured != listener.tls.is_some() {
            let found = format!("{first} has the same address, and only one of both has `tls`");
            diagnostics.error(path, found, "set `tls` in both, or another address");
        }
    }
    fragments
        .into_iter()
        .map(|fragment| fragment.listener)
        .collect()
}
