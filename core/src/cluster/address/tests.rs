use proptest::prelude::*;

use super::*;

fn text(url: &str) -> Result<String, AddressError> {
    ServerAddress::parse(url).map(|address| address.to_string())
}

#[test]
fn spellings_of_one_address_are_equal() {
    let cases = [
        ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
        ("http://10.0.0.7:8000/", "http://10.0.0.7:8000"),
        ("HTTP://Engine.AI", "http://engine.ai:80"),
        ("https://Engine.AI/", "https://engine.ai:443"),
        ("http://[FD00:0:0::7]:80", "http://[fd00::7]:80"),
        ("https://gw/v1-proxy/", "https://gw:443/v1-proxy"),
    ];
    for (url, expected) in cases {
        assert_eq!(text(url).as_deref(), Ok(expected), "{url}");
    }
}

#[test]
fn an_address_has_typed_parts() {
    let address = ServerAddress::parse("https://[::1]:8443/a/b")
        .expect("an address")
        .with_server_name("Engines.Example".parse().expect("a name"));
    assert!(address.is_secured());
    assert_eq!(
        *address.host(),
        ServerHost::Ip("::1".parse().expect("an IP address"))
    );
    assert_eq!(address.port().get(), 8443);
    assert_eq!(&**address.authority(), "[::1]:8443");
    assert_eq!(&**address.base_path(), "/a/b");
    assert_eq!(
        address.server_name().map(DnsName::as_str),
        Some("engines.example")
    );
    assert_eq!(address.host_header(), "engines.example:8443");
    assert_eq!(address.page("/metrics"), "https://[::1]:8443/a/b/metrics");
}

#[test]
fn each_kind_of_wrong_url_has_its_error() {
    let cases = [
        ("a:1", AddressError::Scheme),
        ("ftp://a:1", AddressError::Scheme),
        ("http://user:secret@a:1", AddressError::Credentials),
        ("http://:1", AddressError::Host),
        ("http://a..b:1", AddressError::Host),
        ("http://[::g]:1", AddressError::Host),
        ("http://[fe80::1%eth0]:1", AddressError::Host),
        ("http://a b:1", AddressError::Host),
        ("http://10.1:1", AddressError::Host),
        ("http://10.0.0.256:1", AddressError::Host),
        ("http://0x7f000001:1", AddressError::Host),
        ("http://a.0XFF:1", AddressError::Host),
        ("http://a.0x:1", AddressError::Host),
        ("http://a:0", AddressError::Port),
        ("http://a:65536", AddressError::Port),
        ("http://a:+1", AddressError::Port),
        ("http://a:", AddressError::Port),
        ("http://a:1/?q", AddressError::Query),
        ("http://a:1/#f", AddressError::Query),
        ("http://a:1/b c", AddressError::BasePath),
        ("http://a:1/%2e", AddressError::BasePath),
        ("http://a:1/b/../c", AddressError::BasePath),
        ("http://a:1//b", AddressError::BasePath),
        ("http://a:1/b//", AddressError::BasePath),
    ];
    for (url, reason) in cases {
        assert_eq!(text(url), Err(reason), "{url}");
    }
}

#[test]
fn a_server_name_is_a_dns_name() {
    for right in ["engines", "0x7f.example", "0xg", "x0"] {
        assert!(right.parse::<DnsName>().is_ok(), "{right}");
    }
    for wrong in ["", "10.0.0.7", "a b", "*.example.com", "a/b", "10.0x1"] {
        let name: Result<DnsName, _> = wrong.parse();
        assert_eq!(name, Err(AddressError::ServerName), "{wrong}");
    }
}

#[test]
fn the_default_port_is_not_part_of_the_header() {
    let header = |url| ServerAddress::parse(url).map(|address| address.host_header());
    assert_eq!(header("https://h").as_deref(), Ok("h"));
    assert_eq!(header("http://h:80").as_deref(), Ok("h"));
    assert_eq!(header("https://h:80").as_deref(), Ok("h:80"));
    assert_eq!(header("http://[::1]:8000").as_deref(), Ok("[::1]:8000"));
}

#[test]
fn the_parts_of_a_url_show_what_is_absent() {
    let parts = UrlParts::parse("http://Mooncake.AI/match").expect("a URL");
    assert_eq!(parts.host.to_string(), "mooncake.ai");
    assert_eq!((parts.port, parts.path), (None, "/match"));
}

#[test]
fn a_path_names_one_place() {
    assert!(is_path("/v2/embed") && is_path("/"));
    for path in ["", "v2", "/a/../b", "/a b", "/a?b", "/%2e"] {
        assert!(!is_path(path), "{path}");
    }
}

fn hosts() -> impl Strategy<Value = ServerHost> {
    prop_oneof![
        any::<IpAddr>().prop_map(ServerHost::Ip),
        "[a-z][a-z0-9_]{0,8}(\\.[a-z]{1,6}){0,3}".prop_map(|name| name.parse().expect("a host")),
    ]
}

proptest! {
    #[test]
    fn the_text_of_an_address_is_read_as_that_address(
        secured: bool, host in hosts(), port in 1_u16.., path in "(/[a-z0-9~@-]{1,6}){0,3}/?",
    ) {
        let scheme = if secured { ServerScheme::Https } else { ServerScheme::Http };
        let port = NonZeroU16::new(port).expect("at least 1");
        let address = ServerAddress::new(scheme, host, port).with_base_path(&path).expect("a path");
        prop_assert_eq!(ServerAddress::parse(&address.to_string()), Ok(address));
    }

    #[test]
    fn any_text_is_an_address_that_is_read_again_or_refused(
        text in "(https?://)?\\PC{0,40}|https?://[a-zA-Z0-9:@/\\[\\].?#_-]{0,30}",
    ) {
        if let Ok(address) = ServerAddress::parse(&text) {
            prop_assert_eq!(ServerAddress::parse(&address.to_string()), Ok(address));
        }
    }

    #[test]
    fn any_text_is_a_name_that_is_read_again_or_refused(text in "\\PC{0,80}|[a-zA-Z0-9.-]{0,40}") {
        if let Ok(name) = text.parse::<DnsName>() {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}
