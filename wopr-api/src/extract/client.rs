use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The client's address, as far as the configured proxies can be trusted. `None` when there is no socket, as in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub Option<IpAddr>);

/// The proxies whose `X-Forwarded-For` entries are believed.
pub(crate) type TrustedProxies = [IpNet];

/// Walks from the socket to the client, from right to left through `X-Forwarded-For`, as long as the hop is trusted.
///
/// What a client writes itself stands left of what our proxies append, so it is never reached.
pub(crate) fn client_address(
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
    trusted: &TrustedProxies,
) -> Option<IpAddr> {
    let mut client = peer?.ip().to_canonical();
    let hops: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .map(str::trim)
        .collect();
    for hop in hops.iter().rev() {
        if !trusted.iter().any(|network| network.contains(&client)) {
            break;
        }
        // An entry that is no address ends what can be known: the last hop stands for the client.
        let Some(address) = parse(hop) else { break };
        client = address;
    }
    Some(client)
}

/// `1.2.3.4`, `1.2.3.4:567`, `::1` or `[::1]:567`.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        client_address(Some(SocketAddr::new(peer.parse().unwrap(), 1)), &headers, &trusted).unwrap().to_string()
    }

    #[test]
    fn only_trusted_hops_are_walked_and_only_from_the_right() {
        let cases: &[(&str, &[&str], &[&str], &str)] = &[
            ("9.9.9.9", &["1.1.1.1"], &[], "9.9.9.9"),
            ("10.0.0.2", &["1.1.1.1"], &["10.0.0.0/8"], "1.1.1.1"),
            ("10.0.0.2", &["6.6.6.6, 1.1.1.1"], &["10.0.0.0/8"], "1.1.1.1"),
            ("10.0.0.2", &["6.6.6.6, 1.1.1.1, 10.0.0.3"], &["10.0.0.0/8"], "1.1.1.1"),
            ("10.0.0.2", &["6.6.6.6", "1.1.1.1"], &["10.0.0.0/8"], "1.1.1.1"),
            ("::ffff:10.0.0.2", &["1.1.1.1:443"], &["10.0.0.0/8"], "1.1.1.1"),
            ("10.0.0.2", &["6.6.6.6, unknown"], &["10.0.0.0/8"], "10.0.0.2"),
            ("10.0.0.2", &[], &["10.0.0.0/8"], "10.0.0.2"),
            ("::1", &["[2001:db8::1]:80"], &["::1/128"], "2001:db8::1"),
        ];
        for (peer, forwarded, trusted, expected) in cases {
            assert_eq!(client(peer, forwarded, trusted), *expected, "{peer} {forwarded:?}");
        }
    }
}
