//! Who may call: the token, the Host rule of a loopback address, the Origin rule.
//!
//! Owns DESIGN section 5. Decides before anything of a request but its head is read; `/health` is open.

use crate::redact::Secret;
use actix_web::http::header::{self, HeaderMap};
use base64::Engine as _;
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// The rules that a request must meet.
#[derive(Debug, Clone)]
pub struct Access {
    token: Option<Secret>,
    /// On a loopback address a request must name one too: a web page that rebinds its name does not.
    loopback: bool,
    allowed_origins: Vec<String>,
    /// Other names under which this machine is reached from within, without a port.
    allowed_hosts: Vec<String>,
}

/// Why the rules cannot be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Everybody could run programs here.
    #[error(
        "listening beyond this machine needs a token: set TURNHOST_TOKEN or --token-file, or say --no-auth if everybody may run turns"
    )]
    Open,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No token, or a wrong one.
    Token,
    /// The Host header names no loopback address.
    Host,
    /// The Origin header names another site.
    Origin,
}

impl Denied {
    /// The refusal in one line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Token => "unauthorized",
            Self::Host => "host not allowed",
            Self::Origin => "origin not allowed",
        }
    }
}

impl Access {
    /// The rules for a server that listens on `hosts`.
    ///
    /// # Errors
    /// [`AccessError::Open`] when an address is not a loopback one and there is neither a token nor `no_auth`.
    pub fn new(
        hosts: &[IpAddr],
        token: Option<Secret>,
        no_auth: bool,
        allowed_origins: Vec<String>,
    ) -> Result<Self, AccessError> {
        let loopback = hosts.iter().all(IpAddr::is_loopback);
        let token = if no_auth { None } else { token };
        if !loopback && token.is_none() && !no_auth {
            return Err(AccessError::Open);
        }
        Ok(Self { token, loopback, allowed_origins, allowed_hosts: Vec::new() })
    }

    /// The same rules, and these further names in the Host header.
    #[must_use]
    pub fn allowing_hosts(mut self, hosts: Vec<String>) -> Self {
        self.allowed_hosts = hosts;
        self
    }

    /// Whether a request with this head may go on.
    pub fn check(&self, headers: &HeaderMap, query: &str) -> Result<(), Denied> {
        let host = one(headers, header::HOST);
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().map_err(|_| Denied::Origin)?;
            let ours = |scheme: &str| {
                host.zip(origin.strip_prefix(scheme)).is_some_and(|(host, origin)| host.eq_ignore_ascii_case(origin))
            };
            if !(ours("http://") || ours("https://") || self.allowed_origins.iter().any(|allowed| allowed == origin)) {
                return Err(Denied::Origin);
            }
        }
        let is_known = |host: &str| {
            names_loopback(host) || self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name_of(host)))
        };
        if self.loopback && !host.is_some_and(is_known) {
            return Err(Denied::Host);
        }
        match &self.token {
            Some(token) if !presented(headers, query).any(|given| same(&given, token)) => Err(Denied::Token),
            _ => Ok(()),
        }
    }
}

fn one(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Every token a request presents: bearer, the password of basic authentication, `?token=`, a subprotocol.
fn presented<'a>(headers: &'a HeaderMap, query: &'a str) -> impl Iterator<Item = String> + 'a {
    let from_headers = headers.get_all(header::AUTHORIZATION).filter_map(|value| {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(rest.trim().to_owned());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        decoded.split_once(':').map(|(_, password)| password.to_owned())
    });
    let query = actix_web::web::Query::<Vec<(String, String)>>::from_query(query).map(|query| query.into_inner());
    let from_query = query.unwrap_or_default().into_iter().filter(|(name, _)| name == "token").map(|(_, value)| value);
    // Browsers can give a WebSocket nothing but the names of subprotocols.
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|value| value.to_str().ok());
    let offered =
        offered.flat_map(|value| value.split(',')).filter_map(|word| word.trim().strip_prefix("agentd.auth."));
    from_headers.chain(from_query).chain(offered.map(str::to_owned))
}

fn same(given: &str, token: &Secret) -> bool {
    given.as_bytes().ct_eq(token.expose().as_bytes()).into()
}

/// Whether a Host header names this machine from within: `localhost`, `127.…`, `[::1]`, with or without a port.
fn names_loopback(host: &str) -> bool {
    let name = name_of(host);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A Host header without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_loopback_server_wants_a_loopback_host_name() {
        let access = Access::new(&["127.0.0.1".parse().unwrap()], None, false, vec![]).unwrap();
        for good in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "[::1]"] {
            assert_eq!(access.check(&headers(&[(header::HOST, good)]), ""), Ok(()), "{good}");
        }
        for bad in ["example.com", "127.0.0.1.example.com", "localhost.example.com:80", "10.0.0.1", "[::2]", ""] {
            assert_eq!(access.check(&headers(&[(header::HOST, bad)]), ""), Err(Denied::Host), "{bad}");
        }
        assert_eq!(access.check(&HeaderMap::new(), ""), Err(Denied::Host));
        let access = access.allowing_hosts(vec!["box.local".to_owned()]);
        for (host, allowed) in
            [("box.local", true), ("BOX.local:80", true), ("localhost", true), ("x.box.local", false)]
        {
            assert_eq!(access.check(&headers(&[(header::HOST, host)]), "").is_ok(), allowed, "{host}");
        }
    }

    #[test]
    fn an_origin_must_be_ours_or_allowed() {
        let access =
            Access::new(&["127.0.0.1".parse().unwrap()], None, false, vec!["https://app.example".into()]).unwrap();
        let with = |origin| access.check(&headers(&[(header::HOST, "localhost:1"), (header::ORIGIN, origin)]), "");
        assert_eq!(with("http://localhost:1"), Ok(()));
        assert_eq!(with("https://app.example"), Ok(()));
        for bad in ["http://localhost:2", "https://evil.example", "null", "http://localhost:1.evil.example"] {
            assert_eq!(with(bad), Err(Denied::Origin), "{bad}");
        }
    }

    #[test]
    fn a_token_is_taken_in_three_places() {
        let any = ["0.0.0.0".parse().unwrap()];
        let access = Access::new(&any, Some(Secret::new("s3cret:with colon")), false, vec![]).unwrap();
        let basic = base64::engine::general_purpose::STANDARD.encode("x:s3cret:with colon");
        for good in
            ["Bearer s3cret:with colon".to_owned(), "bearer s3cret:with colon".to_owned(), format!("Basic {basic}")]
        {
            assert_eq!(access.check(&headers(&[(header::AUTHORIZATION, &good)]), ""), Ok(()), "{good}");
        }
        assert_eq!(access.check(&HeaderMap::new(), "a=b&token=s3cret%3Awith+colon"), Ok(()));
        let open = Access::new(&any, Some(Secret::new("s3cret")), false, vec![]).unwrap();
        let offered = |words| open.check(&headers(&[(header::SEC_WEBSOCKET_PROTOCOL, words)]), "");
        assert_eq!(offered("x, agentd.auth.s3cret"), Ok(()));
        assert_eq!(offered("agentd.auth.wrong, s3cret"), Err(Denied::Token));
        for (header, query) in
            [("Bearer wrong", ""), ("Basic !!!", ""), ("Digest s3cret:with colon", ""), ("Bearer ", "token=")]
        {
            let denied = access.check(&headers(&[(header::AUTHORIZATION, header)]), query);
            assert_eq!(denied, Err(Denied::Token), "{header} {query}");
        }
    }

    #[test]
    fn an_open_address_needs_a_word() {
        let any = ["0.0.0.0".parse().unwrap()];
        assert_eq!(Access::new(&any, None, false, vec![]).unwrap_err(), AccessError::Open);
        assert!(Access::new(&any, None, true, vec![]).is_ok());
        let access = Access::new(&any, None, true, vec![]).unwrap();
        assert_eq!(access.check(&headers(&[(header::HOST, "example.com")]), ""), Ok(()));
    }
}
